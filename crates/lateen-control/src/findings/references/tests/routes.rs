//! Destinations, their subsets and ports, and VirtualServices for one host.

use super::{Extent, beside, codes, destination_rule, only, told, virtual_service};

/// What is told of a destination of `reviews`' routes.
fn to(destination: &str) -> String {
    virtual_service(
        "reviews",
        &format!("{{hosts: [reviews], http: [{{route: [{{destination: {destination}}}]}}]}}"),
    )
}

#[test]
fn a_host_that_no_service_has_is_found_with_what_it_was_meant_to_be() {
    let found = only(&to("{host: reviws}"));
    assert_eq!((found.code, &*found.at), ("IST0101", "reviws"));
    assert_eq!(
        found.message,
        "no service has the host `reviws`, which here means `reviws.shop.svc.cluster.local`"
    );
    assert_eq!(found.fix, "did you mean `reviews`?");
}

#[test]
fn hosts_are_completed_as_istio_completes_them() {
    for known in [
        "reviews",
        "Reviews",
        "reviews.shop.svc.cluster.local",
        "istio-ingressgateway.istio-system.svc.cluster.local",
    ] {
        let port = if known.starts_with("istio") {
            ", port: {number: 80}"
        } else {
            ""
        };
        assert_eq!(
            codes(&to(&format!("{{host: {known}{port}}}"))),
            [],
            "{known}"
        );
    }
    let half = only(&to("{host: reviews.shop}"));
    assert_eq!(
        half.fix,
        "write `reviews.shop.svc.cluster.local`: only names without a dot are completed"
    );
}

#[test]
fn a_service_of_another_namespace_is_named() {
    let elsewhere = to("{host: reviews}").replace("namespace: shop", "namespace: other");
    let found = beside(&elsewhere);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0]
            .fix
            .starts_with("write `reviews.shop.svc.cluster.local`"),
        "{found:#?}"
    );
}

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec: {hosts: [api.example.com, '*.wild.example.com'], ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE}
---
";

#[test]
fn hosts_of_service_entries_count_and_so_do_their_wildcards() {
    for known in ["api.example.com", "x.wild.example.com"] {
        assert_eq!(
            codes(&format!("{ENTRIES}{}", to(&format!("{{host: {known}}}")))),
            [],
            "{known}"
        );
    }
    let unknown = only(&format!("{ENTRIES}{}", to("{host: other.invalid}")));
    assert_eq!(unknown.fix, "declare `other.invalid` in a ServiceEntry");
    let slip = only(&format!("{ENTRIES}{}", to("{host: apis.example.com}")));
    assert_eq!(slip.fix, "did you mean `api.example.com`?");
}

#[test]
fn a_service_that_is_not_exported_here_is_found() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: secret, namespace: other, annotations: {networking.istio.io/exportTo: .}}\n\
                   spec: {ports: [{name: http, port: 80}]}\n---\n";
    let text = format!("{service}{}", to("{host: secret.other.svc.cluster.local}"));
    let found = only(&text);
    assert_eq!(found.code, "IST0101");
    assert!(
        found.message.contains("not exported to namespace `shop`"),
        "{found:?}"
    );
    assert_eq!(codes(&text.replace("exportTo: .", "exportTo: shop")), []);
    // Clients in the namespace that sees it are among those that the routes are for.
    assert_eq!(
        codes(&text.replace("{hosts: [reviews]", "{exportTo: [other], hosts: [reviews]")),
        []
    );
}

#[test]
fn mirrors_and_streams_are_looked_at_too() {
    let body = "{hosts: [reviews], http: [{route: [{destination: {host: reviews}}], mirror: {host: nobody}, mirrors: [{destination: {host: nothing}}]}], \
                tcp: [{route: [{destination: {host: none}}]}], tls: [{match: [{sniHosts: [reviews]}], route: [{destination: {host: nil}}]}]}";
    let found = codes(&virtual_service("a", body));
    let places: Vec<&str> = found.iter().map(|(_, at)| at.as_str()).collect();
    assert_eq!(places, ["nobody", "nothing", "none", "nil"]);
}

#[test]
fn a_subset_that_nobody_defines_is_found() {
    assert_eq!(codes(&to("{host: reviews, subset: v1}")), []);
    let found = only(&to("{host: reviews, subset: v2}"));
    assert_eq!((found.code, &*found.at), ("IST0101", "v2"));
    assert!(found.message.ends_with("defined: `v1`"), "{found:?}");
    assert_eq!(found.fix, "", "another number is no slip");
    let none = only(&to("{host: ratings, subset: v1, port: {number: 8080}}"));
    assert!(
        none.message
            .starts_with("no DestinationRule defines subsets of"),
        "{none:?}"
    );
    // Rules for wildcards define subsets for all hosts that they match.
    let wide = destination_rule(
        "wide",
        "{host: '*.shop.svc.cluster.local', subsets: [{name: all, labels: {version: v1}}]}",
    );
    assert_eq!(
        codes(&format!(
            "{wide}{}",
            to("{host: ratings, subset: all, port: {number: 8080}}")
        )),
        []
    );
}

#[test]
fn a_port_that_the_service_does_not_have_is_found() {
    assert_eq!(codes(&to("{host: reviews, port: {number: 80}}")), []);
    let found = only(&to("{host: reviews, port: {number: 9080}}"));
    assert_eq!((found.code, &*found.at), ("IST0101", "9080"));
    assert_eq!(
        found.message,
        "`reviews` has no port 9080; it has 80 (http)"
    );
    assert!(found.fix.starts_with("write 80"), "{found:?}");
}

#[test]
fn of_several_ports_one_has_to_be_named_unless_each_is_where_requests_come() {
    let found = only(&to("{host: ratings}"));
    assert_eq!((found.code, &*found.at), ("IST0112", "ratings"));
    assert_eq!(codes(&to("{host: ratings, port: {number: 8080}}")), []);
    // Every port of the host leads to the same port of the destination.
    let same = virtual_service(
        "ratings",
        "{hosts: [ratings], http: [{route: [{destination: {host: ratings}}]}]}",
    );
    assert_eq!(codes(&same), []);
}

#[test]
fn of_virtual_services_for_one_host_in_the_mesh_the_first_counts() {
    let route = "http: [{route: [{destination: {host: reviews}}]}]";
    let a = virtual_service("a", &format!("{{hosts: [reviews], {route}}}"));
    let b = virtual_service(
        "b",
        &format!("{{hosts: [ratings, reviews.shop.svc.cluster.local], {route}}}"),
    );
    let found = only(&format!("{b}{a}"));
    assert_eq!(
        (found.code, &*found.at),
        ("IST0109", "reviews.shop.svc.cluster.local")
    );
    assert!(found.message.contains("VirtualService shop/a"), "{found:?}");
    // No namespace sees both.
    let apart =
        |text: &str, to: &str| text.replace("{hosts:", &format!("{{exportTo: [{to}], hosts:"));
    assert_eq!(
        codes(&format!("{}{}", apart(&a, "one"), apart(&b, "two"))),
        []
    );
    let both = format!("{}{}", apart(&a, "one"), apart(&b, "'*'"));
    assert_eq!(only(&both).code, "IST0109");
}

#[test]
fn at_a_gateway_the_routes_of_several_are_joined() {
    let bound = |name: &str, matched: &str| {
        virtual_service(
            name,
            &format!(
                "{{hosts: [shop.example.com], gateways: [edge], http: [{{{matched}route: [{{destination: {{host: reviews}}}}]}}]}}"
            ),
        )
    };
    let narrow = "match: [{uri: {prefix: /a}}], ";
    let joined = only(&format!("{}{}", bound("a", ""), bound("b", narrow)));
    assert_eq!((joined.code, &*joined.at), ("LAT3011", "shop.example.com"));
    let taken = only(&format!("{}{}", bound("a", ""), bound("b", "")));
    assert_eq!(taken.code, "LAT3010");
    assert!(taken.message.contains("VirtualService shop/a"), "{taken:?}");
}

#[test]
fn routes_for_what_is_nowhere_do_not_stop_the_search() {
    // A delegate has no hosts, and is looked at by itself.
    let delegate = virtual_service("d", "{http: [{route: [{destination: {host: nobody}}]}]}");
    let root = virtual_service("r", "{hosts: [reviews], http: [{delegate: {name: d}}]}");
    assert_eq!(only(&format!("{root}{delegate}")).at, "nobody");
    let whole = told(
        &virtual_service(
            "a",
            "{hosts: [x.example.com], http: [{route: [{destination: {host: y.example.com}}]}]}",
        ),
        Extent::Whole,
    );
    assert_eq!(whole.len(), 1, "{whole:#?}");
}

#[test]
fn subsets_of_a_host_elsewhere_are_judged_by_the_rules_that_are_here() {
    let rule = destination_rule("r", "{host: reviews, subsets: [{name: stable}]}");
    let to = |subset: &str| {
        let route = to(&format!("{{host: reviews, subset: {subset}}}"));
        let found = told(&format!("{rule}{route}"), Extent::Part).into_iter();
        found.map(|t| t.code).collect::<Vec<_>>()
    };
    assert_eq!(to("stable"), ["LAT3019"]);
    assert_eq!(to("sable"), ["IST0101", "LAT3019"]);
}
