//! One tenant's objects against another's push: expressions, wildcards and sizes that cost, and what no parser likes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use lateen_envoy::TypeUrl;

use crate::plane::{Plane, Stream, first, node};

/// What another's push may take on a machine that is busy with other tests, in a build without optimisation.
const BOUND: Duration = Duration::from_secs(15);

/// The push of another namespace after both changed at once, and whether it came in time.
async fn push_beside(what: &str, hostile: &str) {
    let plane = Plane::start("").await;
    let token = plane.token("bar", "web");
    let request = first(node("sidecar", "web", "bar", &[]), TypeUrl::Cluster, &[]);
    let mut honest = Stream::open(plane.secure(None), Some(&token), request)
        .await
        .unwrap();
    honest.until(|_| true).await;
    let began = Instant::now();
    plane.write("hostile.yaml", hostile);
    plane.write("service.yaml", &service("fresh"));
    let seen = honest
        .until(|response| {
            response
                .resources
                .iter()
                .any(|one| one.name.contains("fresh.bar"))
        })
        .await;
    let first = seen - began;
    assert!(first < BOUND, "{what}: {first:?}");
    // And the next one, with the hostile objects in force.
    let began = Instant::now();
    plane.write("service.yaml", &service("fresher"));
    let seen = honest
        .until(|response| {
            response
                .resources
                .iter()
                .any(|one| one.name.contains("fresher.bar"))
        })
        .await;
    let next = seen - began;
    assert!(next < BOUND, "{what}: {next:?}");
    eprintln!("{what}: pushed after {first:?}, then {next:?}");
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bar}}\nspec: {{clusterIP: 10.96.1.1, ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn virtual_service(name: &str, routes: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: foo}}\nspec: {{hosts: [{name}.example], http: [{routes}]}}\n"
    )
}

/// Class: regular expressions that stop a control plane (ISTIO-SECURITY-2026-006). They are linear and bounded in size.
#[tokio::test]
async fn a_tenants_expressions_do_not_stop_anothers_push() {
    let expressions = [
        "(a+)+$",
        "((((a{30}){30}){30}){30})",
        "(.*)*(.*)*(.*)*x",
        "[\\\\p{L}]{500}",
        "(?:a|b|ab)*{99}",
        "((((((((((a*)*)*)*)*)*)*)*)*)*)",
    ];
    let mut text = String::new();
    for copy in 0..20 {
        for (index, expression) in expressions.iter().enumerate() {
            let route = format!(
                "{{match: [{{uri: {{regex: '{expression}'}}, headers: {{x: {{regex: '{expression}'}}}}}}], route: [{{destination: {{host: web}}}}]}}"
            );
            text += &virtual_service(&format!("v{copy}-{index}"), &route);
        }
    }
    push_beside("expressions", &text).await;
}

/// Class: wildcards. A namespace that exports everything to everybody costs its share, and no more.
#[tokio::test]
async fn a_tenants_wildcards_do_not_stop_anothers_push() {
    let mut text = String::new();
    for number in 0..300 {
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{number}, namespace: foo}}\nspec: {{hosts: ['*.w{number}.example', w{number}.example], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: NONE, exportTo: ['*']}}\n"
        );
    }
    text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: all, namespace: foo}\nspec: {hosts: ['*'], exportTo: ['*'], http: [{fault: {abort: {httpStatus: 503, percentage: {value: 100}}}, route: [{destination: {host: web}}]}]}\n";
    text += "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: all, namespace: foo}\nspec: {host: '*', exportTo: ['*'], trafficPolicy: {tls: {mode: SIMPLE}}}\n";
    push_beside("wildcards", &text).await;
}

/// Class: huge objects. Thousands of routes in one object, a text of megabytes.
#[tokio::test]
async fn a_tenants_huge_objects_do_not_stop_anothers_push() {
    let mut routes = String::new();
    for number in 0..3000 {
        let _ = write!(
            routes,
            "{{match: [{{uri: {{prefix: /{number}}}}}], route: [{{destination: {{host: web}}}}]}}, "
        );
    }
    let mut text = virtual_service("huge", &routes);
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: huge, namespace: foo}}\ndata: {{x: '{}'}}\n",
        "y".repeat(4 << 20)
    );
    push_beside("huge objects", &text).await;
}

/// Class: parser bombs. Aliases that multiply, nesting without end: the document is refused, and its neighbours are read.
#[tokio::test]
async fn a_tenants_parser_bombs_do_not_stop_anothers_push() {
    let mut text = "---\na0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = level - 1;
        let list = vec![format!("*a{before}"); 9].join(", ");
        let _ = writeln!(text, "a{level}: &a{level} [{list}]");
    }
    let _ = write!(
        text,
        "---\nx: {}{}\n",
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    push_beside("parser bombs", &text).await;
}

/// Class: policies without end. Thousands of rules with everything that has to be compared, and key sets as large as they may be.
#[tokio::test]
async fn a_tenants_policies_do_not_stop_anothers_push() {
    let mut text = String::new();
    for policy in 0..100 {
        let mut rules = String::new();
        for rule in 0..30 {
            let values: Vec<String> = (0..20)
                .map(|n| format!("/p{policy}/{rule}/{n}/*"))
                .collect();
            let values = values.join(", ");
            let _ = write!(
                rules,
                "{{from: [{{source: {{namespaces: ['n{rule}*'], ipBlocks: [10.{policy}.{rule}.0/24]}}}}], to: [{{operation: {{paths: [{values}], notMethods: [M{rule}]}}}}], when: [{{key: 'request.headers[x-{rule}]', values: ['a*', '*b']}}]}}, "
            );
        }
        let _ = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{policy}, namespace: foo}}\nspec: {{action: DENY, rules: [{rules}]}}\n"
        );
    }
    let key = format!(
        r#"{{"keys":[{{"kty":"RSA","e":"AQAB","n":"{}"}}]}}"#,
        "A".repeat(700 << 10)
    );
    for number in 0..20 {
        let _ = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r{number}, namespace: foo}}\nspec: {{jwtRules: [{{issuer: i{number}, jwks: '{key}'}}]}}\n"
        );
    }
    push_beside("policies", &text).await;
}

/// Class: endpoints and hosts without end, exported to everybody.
#[tokio::test]
async fn a_tenants_endpoints_do_not_stop_anothers_push() {
    let mut endpoints = String::new();
    for number in 0..4000 {
        let (high, low) = (number / 250, number % 250);
        let _ = write!(
            endpoints,
            "{{address: 10.9.{high}.{low}, labels: {{version: v{number}}}, locality: r{high}/z{low}/s, weight: 4294967295}}, "
        );
    }
    let hosts: Vec<String> = (0..500).map(|n| format!("h{n}.example")).collect();
    let text = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: foo}}\nspec: {{hosts: [{}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{endpoints}], exportTo: ['*']}}\n",
        hosts.join(", ")
    );
    push_beside("endpoints", &text).await;
}

/// Class: values at the edges of what their fields take, or beyond. What is refused is refused alone.
#[tokio::test]
async fn a_tenants_extremes_do_not_stop_anothers_push() {
    let mut text = String::new();
    for (number, duration) in [
        "0s",
        "0.000000001s",
        "-1s",
        "9223372036s",
        "999999999999999999h",
        "1e99s",
        "''",
    ]
    .iter()
    .enumerate()
    {
        let route = format!(
            "{{route: [{{destination: {{host: web}}, weight: 2147483647}}], timeout: {duration}, retries: {{attempts: 2147483647, perTryTimeout: {duration}}}, fault: {{delay: {{fixedDelay: {duration}, percentage: {{value: 1e300}}}}}}, corsPolicy: {{maxAge: {duration}}}}}"
        );
        text += &virtual_service(&format!("extreme{number}"), &route);
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: extreme{number}, namespace: foo}}\nspec: {{host: web, exportTo: ['*'], trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 2147483647, connectTimeout: {duration}}}}}, outlierDetection: {{interval: {duration}, baseEjectionTime: {duration}, consecutive5xxErrors: 4294967295}}, loadBalancer: {{consistentHash: {{httpHeaderName: x, ringHash: {{minimumRingSize: 18446744073709551615}}}}}}}}}}\n"
        );
    }
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: '{}', namespace: foo, labels: {{'{}': '{}'}}}}\nspec: {{ports: [{{name: http, port: 99999}}]}}\n",
        "n".repeat(5000),
        "l".repeat(5000),
        "v".repeat(5000)
    );
    push_beside("extremes", &text).await;
}
