//! What is told of references, and what is not.

use lateen_api::{SourceFile, parse_file};

use crate::findings::{Extent, findings, settings};

mod gateways;
mod labels;
mod routes;
mod rules;

/// Two services with a workload each.
const MESH: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {selector: {app: ratings}, ports: [{name: http, port: 8080}, {name: http-admin, port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec: {containers: [{name: c, image: reviews}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ratings-v1, namespace: shop}
spec:
  replicas: 0
  selector: {matchLabels: {app: ratings}}
  template:
    metadata: {labels: {app: ratings, version: v1}}
    spec: {containers: [{name: c, image: ratings}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [shop/shop.example.com, '*/open.example.com', private/hidden.example.com]
---
";

/// A finding: its code, what stands at its place, its message and its fix.
#[derive(Debug)]
struct Told {
    code: &'static str,
    at: String,
    message: String,
    fix: String,
}

/// What is found in files, with what the parser says of them left out.
fn told(text: &str, extent: Extent) -> Vec<Told> {
    let parsed = parse_file(&SourceFile::new("mesh.yaml", text), "shop");
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|d| d.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let settings = settings(&parsed.resources, false);
    let found = findings(&parsed.resources, &settings, true, extent);
    // Kinds that nothing follows from are told of elsewhere.
    let found = found.into_iter().filter(|found| found.code != "LAT0601");
    let told = found.map(|found| {
        let span = found.span.as_ref();
        let at = span.map_or("", |span| {
            let start = span.offset as usize;
            &text[start..start + span.len as usize]
        });
        assert!(!found.effect.is_empty(), "no effect: {found:?}");
        Told {
            code: found.code,
            at: at.lines().next().unwrap_or_default().to_owned(),
            message: found.message,
            fix: found.fix.unwrap_or_default(),
        }
    });
    told.collect()
}

/// What is found of objects beside the two services.
fn beside(text: &str) -> Vec<Told> {
    told(&format!("{MESH}{text}"), Extent::Part)
}

/// The same, as codes and the text at their places.
fn codes(text: &str) -> Vec<(&'static str, String)> {
    beside(text).into_iter().map(|t| (t.code, t.at)).collect()
}

/// The one finding.
fn only(text: &str) -> Told {
    let mut all = beside(text);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// A VirtualService for a host of this namespace, with a body of its own.
fn virtual_service(name: &str, body: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {body}\n---\n"
    )
}

/// A DestinationRule.
fn destination_rule(name: &str, body: &str) -> String {
    virtual_service(name, body).replace("kind: VirtualService", "kind: DestinationRule")
}

#[test]
fn the_mesh_of_these_tests_is_clean() {
    assert_eq!(codes(""), []);
}

#[test]
fn an_annotation_suppresses_codes() {
    let body = "{hosts: [reviews], http: [{route: [{destination: {host: nobody}}]}]}";
    let plain = virtual_service("a", body);
    assert_eq!(only(&plain).code, "IST0101");
    for codes in ["'*'", "'IST0102, IST0101'"] {
        let annotated = format!(
            "namespace: shop, annotations: {{galley.istio.io/analyze-suppress: {codes}}}}}"
        );
        let suppressed = plain.replace("namespace: shop}", &annotated);
        assert!(beside(&suppressed).is_empty(), "{suppressed}");
    }
}

#[test]
fn what_leads_out_of_some_files_is_said_once_and_judged_in_a_whole_mesh() {
    let alone = format!(
        "{}{}",
        virtual_service(
            "a",
            "{hosts: [reviews], gateways: [mesh, istio-system/main], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}"
        ),
        destination_rule("b", "{host: ratings}")
    );
    let part = told(&alone, Extent::Part);
    assert_eq!(part.len(), 1, "{part:#?}");
    assert_eq!(part[0].code, "LAT3019");
    assert_eq!(
        part[0].message,
        "not checked, because these files hold nothing of the kind there: gateways `istio-system/main`; \
         hosts `ratings.shop.svc.cluster.local` and `reviews.shop.svc.cluster.local`"
    );
    let whole: Vec<&str> = told(&alone, Extent::Whole).iter().map(|t| t.code).collect();
    assert_eq!(whole, ["IST0101", "IST0101", "IST0174"]);
}

#[test]
fn many_mistakes_are_told_without_comparing_every_name_with_every_other() {
    let mut text = String::new();
    for n in 0..2000 {
        text.push_str(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{n}, namespace: shop}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n"
        ));
        let body = format!(
            "{{hosts: [service-{n}], http: [{{route: [{{destination: {{host: servce-{n}}}}}]}}]}}"
        );
        text.push_str(&virtual_service(&format!("vs-{n}"), &body));
    }
    let start = std::time::Instant::now();
    let found = told(&text, Extent::Whole);
    assert_eq!(found.iter().filter(|t| t.code == "IST0101").count(), 2000);
    assert!(found[0].fix.starts_with("did you mean"), "{:?}", found[0]);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
