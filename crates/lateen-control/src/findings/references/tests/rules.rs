//! DestinationRules.

use super::{Extent, codes, destination_rule, only, told};

#[test]
fn a_rule_for_nobody_is_found() {
    let found = only(&destination_rule("r", "{host: ratngs}"));
    assert_eq!((found.code, &*found.at), ("IST0174", "ratngs"));
    assert_eq!(found.fix, "did you mean `ratings`?");
    for known in ["ratings", "'*.local'", "'*.shop.svc.cluster.local'", "'*'"] {
        assert_eq!(
            codes(&destination_rule("r", &format!("{{host: {known}}}"))),
            [],
            "{known}"
        );
    }
    let wild = destination_rule("r", "{host: '*.example.com'}");
    assert_eq!(told(&wild, Extent::Whole)[0].code, "IST0174");
}

#[test]
fn a_subset_that_selects_no_workload_is_found() {
    let found = only(&destination_rule(
        "r",
        "{host: ratings, subsets: [{name: v2, labels: {version: v2}}]}",
    ));
    assert_eq!((found.code, &*found.at), ("IST0173", "labels"));
    assert_eq!(found.fix, "`version` is `v1` there");
    for fine in [
        // It has no pods just now, and is scaled up some day.
        "{name: v1, labels: {version: v1}}",
        "{name: zone, labels: {version: v1, topology.kubernetes.io/zone: a}}",
        "{name: all}",
    ] {
        assert_eq!(
            codes(&destination_rule(
                "r",
                &format!("{{host: ratings, subsets: [{fine}]}}")
            )),
            [],
            "{fine}"
        );
    }
    let unlabelled = only(&destination_rule(
        "r",
        "{host: ratings, subsets: [{name: x, labels: {track: x}}]}",
    ));
    assert!(
        unlabelled
            .fix
            .starts_with("none of them has a label `track`"),
        "{unlabelled:?}"
    );
}

#[test]
fn subsets_of_written_endpoints_are_their_labels() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: out, namespace: shop}\n\
        spec: {hosts: [out.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: STATIC, \
        endpoints: [{address: 192.0.2.1, labels: {site: a}}]}\n---\n";
    let rule = |site: &str| {
        format!(
            "{entry}{}",
            destination_rule(
                "r",
                &format!(
                    "{{host: out.example.com, subsets: [{{name: s, labels: {{site: {site}}}}}]}}"
                )
            )
        )
    };
    assert_eq!(codes(&rule("a")), []);
    assert_eq!(only(&rule("b")).code, "IST0173");
}

#[test]
fn of_two_policies_for_one_host_the_first_counts() {
    let a = destination_rule(
        "a",
        "{host: ratings, trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
    );
    let b = destination_rule(
        "b",
        "{host: ratings.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}",
    );
    let found = only(&format!("{b}{a}"));
    assert_eq!(found.code, "LAT3012");
    assert!(found.message.contains("DestinationRule `a`"), "{found:?}");
    assert_eq!(
        codes(&format!("{a}{}", b.replace("ROUND_ROBIN", "RANDOM"))),
        []
    );
    let elsewhere = b.replace("namespace: shop", "namespace: other");
    assert_eq!(codes(&format!("{a}{elsewhere}")), []);
}

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n---\n";

#[test]
fn plain_text_towards_workloads_that_take_mutual_tls_alone_is_found() {
    let rule = |mode: &str| {
        destination_rule(
            "r",
            &format!("{{host: reviews, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"),
        )
    };
    let found = only(&format!("{STRICT}{}", rule("DISABLE")));
    assert_eq!((found.code, &*found.at), ("LAT3013", "DISABLE"));
    assert!(
        found
            .message
            .ends_with("by PeerAuthentication shop/default"),
        "{found:?}"
    );
    assert_eq!(codes(&format!("{STRICT}{}", rule("ISTIO_MUTUAL"))), []);
    assert_eq!(codes(&rule("DISABLE")), []);
    // Port 80 of the service is 9080 of the workload, which has a mode of its own.
    let of_port = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: reviews}}, portLevelMtls: {9080: {mode: PERMISSIVE}}}\n---\n";
    assert_eq!(codes(&format!("{STRICT}{of_port}{}", rule("DISABLE"))), []);
}

#[test]
fn mutual_tls_towards_workloads_without_sidecars_is_found() {
    let plain = "apiVersion: v1\nkind: Service\nmetadata: {name: old, namespace: legacy}\n\
        spec: {selector: {app: old}, ports: [{name: http, port: 80}]}\n---\n\
        apiVersion: v1\nkind: Pod\nmetadata: {name: old, namespace: legacy, labels: {app: old}}\nspec: {containers: [{name: c, image: x}]}\n---\n";
    let rule = |mode: &str| {
        destination_rule(
            "r",
            &format!(
                "{{host: old.legacy.svc.cluster.local, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"
            ),
        )
    };
    assert_eq!(
        only(&format!("{plain}{}", rule("ISTIO_MUTUAL"))).code,
        "LAT3014"
    );
    assert_eq!(codes(&format!("{plain}{}", rule("DISABLE"))), []);
}
