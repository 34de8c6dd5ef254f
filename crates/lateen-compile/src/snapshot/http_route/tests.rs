//! Routes of the Gateway API for services, as virtual services.

use lateen_api::{SourceFile, parse_file};

use super::*;
use crate::snapshot::objects::Objects;

fn derived(yaml: &str) -> Derived {
    let parsed = parse_file(&SourceFile::new("test.yaml", yaml), "default");
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    derive(&Inputs {
        resources: Objects::new(parsed.resources),
        ..Inputs::default()
    })
}

const SHOP: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /}}, {path: {value: /api/}, headers: [{name: X-Beta, value: '1'}]}]
    backendRefs: [{name: web, port: 80, weight: 9}, {name: web-next, port: 80}]
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
";

#[test]
fn rules_become_routes_from_the_most_to_the_least_specific() {
    let out = derived(SHOP);
    assert!(out.diagnostics.is_empty(), "{:#?}", out.diagnostics);
    let config = &out.virtual_services[0].item;
    assert_eq!(config.spec.hosts, ["web.default.svc.cluster.local"]);
    let uris: Vec<_> = config
        .spec
        .http
        .iter()
        .map(|route| route.r#match[0].uri.clone().unwrap())
        .collect();
    assert_eq!(
        uris,
        [
            StringMatch::Exact("/old".to_owned()),
            StringMatch::Prefix("/api".to_owned()),
            StringMatch::Prefix("/".to_owned()),
        ]
    );
    let ports: Vec<u32> = config.spec.http.iter().map(|r| r.r#match[0].port).collect();
    assert_eq!(ports, [80, 80, 80]);
    assert_eq!(config.spec.http[0].redirect.as_ref().unwrap().uri, "/new");
    let weights: Vec<i32> = config.spec.http[1]
        .route
        .iter()
        .map(|to| to.weight)
        .collect();
    assert_eq!(weights, [9, 1]);
    assert_eq!(
        config.http_sources[1].matches[0].1,
        "spec.rules[0].matches[1]"
    );
}

#[test]
fn what_is_not_served_is_said_and_never_served_without_its_filter() {
    let unknown = SHOP.replace(
        "type: RequestRedirect, requestRedirect:",
        "type: CORS, cors:",
    );
    let out = derived(&unknown);
    assert_eq!(out.diagnostics.len(), 1);
    assert_eq!(out.virtual_services[0].item.spec.http.len(), 2);

    let elsewhere = SHOP.replace(
        "{name: web-next, port: 80}",
        "{name: a, namespace: b, port: 80}",
    );
    let out = derived(&elsewhere);
    let lost = &out.virtual_services[0].item.spec.http[1].route[1];
    assert!(
        lost.destination
            .as_ref()
            .unwrap()
            .host
            .ends_with(".invalid")
    );

    let gateway = SHOP.replace(
        "{group: '', kind: Service, name: web, port: 80}",
        "{name: public}",
    );
    let out = derived(&gateway);
    assert!(out.virtual_services.is_empty());
    assert_eq!(out.diagnostics[0].code, ROUTE_PARENT);
}

#[test]
fn routes_of_one_namespace_for_one_service_are_one_virtual_service() {
    let second = SHOP.replace("name: web}", "name: web2}");
    let out = derived(&format!("{SHOP}---\n{second}"));
    assert_eq!(out.virtual_services.len(), 1);
    assert_eq!(out.virtual_services[0].item.spec.http.len(), 6);
}
