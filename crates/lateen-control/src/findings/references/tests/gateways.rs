//! Gateways that VirtualServices name, and what Gateways name themselves.

use super::{Extent, beside, codes, only, told, virtual_service};

fn bound(hosts: &str, gateways: &str) -> String {
    virtual_service(
        "web",
        &format!(
            "{{hosts: {hosts}, gateways: {gateways}, http: [{{route: [{{destination: {{host: reviews}}}}]}}]}}"
        ),
    )
}

#[test]
fn a_gateway_that_does_not_exist_is_found() {
    for known in ["[edge]", "[mesh, shop/edge]", "[./edge]"] {
        assert_eq!(codes(&bound("[shop.example.com]", known)), [], "{known}");
    }
    let slip = only(&bound("[shop.example.com]", "[egde]"));
    assert_eq!((slip.code, &*slip.at), ("IST0101", "egde"));
    assert_eq!(slip.fix, "did you mean `edge`?");
    let elsewhere = only(&bound("[shop.example.com]", "[other/edge]"));
    assert_eq!(
        elsewhere.fix,
        "write `shop/edge`, the Gateway in that namespace"
    );
}

#[test]
fn a_gateway_has_to_be_open_for_one_of_the_hosts() {
    for open in [
        "[shop.example.com]",
        "[nowhere.example.com, open.example.com]",
        "['*.example.com']",
    ] {
        assert_eq!(codes(&bound(open, "[edge]")), [], "{open}");
    }
    for closed in ["[www.example.org]", "[hidden.example.com]"] {
        let found = only(&bound(closed, "[edge]"));
        assert_eq!((found.code, &*found.at), ("IST0132", "edge"), "{closed}");
        assert!(
            found
                .message
                .ends_with("the Gateway has `open.example.com` and `shop.example.com`"),
            "{found:?}"
        );
    }
}

fn gateway(name: &str, selector: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: istio-system}}\n\
         spec:\n  selector: {selector}\n  servers: {servers}\n---\n"
    )
}

const HTTP: &str = "[{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]";

#[test]
fn a_gateway_that_selects_nobody_is_found() {
    let found = only(&gateway("a", "{istio: ingresgateway}", HTTP));
    assert_eq!((found.code, &*found.at), ("IST0101", "selector"));
    assert_eq!(found.fix, "did you mean `istio: ingressgateway`?");
    let sidecar = only(&gateway("a", "{app: reviews}", HTTP));
    assert_eq!(sidecar.code, "LAT3015");
    assert!(
        sidecar
            .message
            .contains("Deployment shop/reviews-v1, which has a sidecar"),
        "{sidecar:?}"
    );
    assert_eq!(codes(&gateway("a", "{}", HTTP)), []);
}

#[test]
fn a_gateway_that_other_files_may_install_is_not_judged() {
    let alone = gateway("a", "{team: edge}", HTTP);
    let found = told(&alone, Extent::Part);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].message.ends_with("gateway workloads `team=edge`"),
        "{found:#?}"
    );
    assert_eq!(told(&alone, Extent::Whole)[0].code, "IST0101");
}

#[test]
fn a_port_that_the_gateways_service_does_not_have_is_found() {
    let on_port = |port: u32| {
        gateway(
            "a",
            "{istio: ingressgateway}",
            &HTTP.replace("80", &port.to_string()),
        )
    };
    // As clients number it, and as the pod does.
    for exposed in [80, 8080, 443, 15443] {
        assert_eq!(codes(&on_port(exposed)), [], "{exposed}");
    }
    let found = only(&on_port(9090));
    assert_eq!((found.code, &*found.at), ("IST0162", "9090"));
}

#[test]
fn one_certificate_in_two_gateways_of_one_workload_is_found() {
    let https = |name: &str, host: &str, selector: &str| {
        let server = format!(
            "[{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [{host}], tls: {{mode: SIMPLE, credentialName: cert}}}}]"
        );
        gateway(name, selector, &server)
    };
    let ingress = "{istio: ingressgateway}";
    let same = format!(
        "{}{}",
        https("a", "a.example.com", ingress),
        https("b", "b.example.com", ingress)
    );
    let found: Vec<_> = beside(&same)
        .into_iter()
        .filter(|t| t.code == "IST0138")
        .collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].message.contains("istio-system/a"), "{found:#?}");
    let apart = format!(
        "{}{}",
        https("a", "a.example.com", ingress),
        https("b", "b.example.com", "{istio: egressgateway}")
    );
    assert!(beside(&apart).iter().all(|t| t.code != "IST0138"));
}
