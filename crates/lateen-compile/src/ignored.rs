//! What a user wrote and nothing follows from: accepted, valid, and not acted on yet.
//!
//! The rows of [`table`] say what that is; everything here is how they are found and told. It looks at what is written, not at
//! what it means, so that a field somebody else's default fills in is no finding.

mod table;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lateen_api::query::Query;
use lateen_api::tree::Node;
use lateen_api::{Diagnostic, FileSpan, Kind, Resource, Severity, fragment_tree};

use table::{Of, ROWS};

/// `LAT0601`: accepted and not acted on.
pub const IGNORED: &str = "LAT0601";

const PROXY_CONFIG: &str = r#"metadata.annotations["proxy.istio.io/config"]"#;

/// Which data planes ignore something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planes {
    /// Whichever runs.
    Both,
    /// Lateen's proxy; a stock Envoy acts on it.
    Lateen,
}

/// Every place in these objects that nothing follows from, in their order. `native` is Lateen's own proxy.
pub fn ignored(resources: &[Resource], native: bool) -> Vec<Diagnostic> {
    let search = Search {
        native,
        rows: &ROWS_BY_SUBJECT,
    };
    resources
        .iter()
        .flat_map(|resource| search.object(resource))
        .collect()
}

/// The table with its patterns read, by what it is about.
#[derive(Default)]
struct Rows {
    objects: BTreeMap<Kind, Vec<Entry>>,
    pods: Vec<Entry>,
    mesh: Vec<Entry>,
    proxies: Vec<Entry>,
}

struct Entry {
    query: Query,
    planes: Planes,
    effect: &'static str,
}

static ROWS_BY_SUBJECT: LazyLock<Rows> = LazyLock::new(|| {
    let mut rows = Rows::default();
    for (of, planes, at, effect) in ROWS.iter().copied() {
        // A test holds that every pattern can be read.
        let Some(query) = Query::parse(at) else {
            continue;
        };
        let list = match of {
            Of::Object(kind) => rows.objects.entry(kind).or_default(),
            Of::Pod => &mut rows.pods,
            Of::MeshConfig => &mut rows.mesh,
            Of::ProxyConfig => &mut rows.proxies,
        };
        list.push(Entry {
            query,
            planes,
            effect,
        });
    }
    rows
});

struct Search<'a> {
    native: bool,
    rows: &'a Rows,
}

impl Search<'_> {
    fn object(&self, resource: &Resource) -> Vec<Diagnostic> {
        let root = &resource.origin.root;
        let mut found = Vec::new();
        if let Some(rows) = self.rows.objects.get(&resource.kind) {
            for (field, effect) in self.matches(rows, root) {
                found.push(finding(resource, &field, last(&field), effect));
            }
        }
        if let Some(template) = template(resource.kind) {
            self.pod(resource, template, &mut found);
        }
        match resource.kind {
            Kind::ConfigMap if is_mesh_config(resource) => self.embedded_mesh(resource, &mut found),
            Kind::IstioOperator => {
                if let Some(mesh) = at(root, &["spec", "meshConfig"]) {
                    self.mesh(resource, Place::Field("spec.meshConfig"), mesh, &mut found);
                }
            }
            _ => {}
        }
        found
    }

    fn pod(&self, resource: &Resource, template: &[&str], found: &mut Vec<Diagnostic>) {
        let Some(pod) = at(&resource.origin.root, template) else {
            return;
        };
        let prefix = template.join(".");
        for (field, effect) in self.matches(&self.rows.pods, pod) {
            let place = join(&prefix, &field);
            found.push(finding(resource, &place, last(&field), effect));
        }
        let text = at(pod, &["metadata", "annotations", "proxy.istio.io/config"]);
        if let Some(text) = text.and_then(Node::raw_text) {
            let settings = fragment_tree(text);
            let place = join(&prefix, PROXY_CONFIG);
            for (field, effect) in self.matches(&self.rows.proxies, &settings) {
                found.push(finding(resource, &place, &field, effect));
            }
        }
    }

    fn embedded_mesh(&self, resource: &Resource, found: &mut Vec<Diagnostic>) {
        let text = at(&resource.origin.root, &["data", "mesh"]);
        if let Some(text) = text.and_then(Node::raw_text) {
            let mesh = fragment_tree(text);
            self.mesh(resource, Place::Text("data.mesh"), &mesh, found);
        }
    }

    fn mesh(&self, resource: &Resource, place: Place, mesh: &Node, found: &mut Vec<Diagnostic>) {
        for (field, effect) in self.matches(&self.rows.mesh, mesh) {
            found.push(finding(resource, &place.of(&field), &field, effect));
        }
        let Some(settings) = mesh.get("defaultConfig") else {
            return;
        };
        for (field, effect) in self.matches(&self.rows.proxies, settings) {
            let field = join("defaultConfig", &field);
            found.push(finding(resource, &place.of(&field), &field, effect));
        }
    }

    fn matches(&self, rows: &[Entry], root: &Node) -> Vec<(String, &'static str)> {
        rows.iter()
            .filter(|entry| entry.planes == Planes::Both || self.native)
            .flat_map(|entry| {
                let found = entry.query.find(root);
                found.into_iter().map(|field| (field, entry.effect))
            })
            .collect()
    }
}

/// Where MeshConfig was written: as fields of an object, or as a text in one of its fields.
#[derive(Clone, Copy)]
enum Place {
    Field(&'static str),
    Text(&'static str),
}

impl Place {
    fn of(self, field: &str) -> String {
        match self {
            Self::Field(prefix) => join(prefix, field),
            Self::Text(whole) => whole.to_owned(),
        }
    }
}

/// `shown` is what the message calls `field`, which is where it points.
fn finding(resource: &Resource, field: &str, shown: &str, effect: &str) -> Diagnostic {
    let message = match shown {
        "" => format!("this mesh does not act on {} yet", resource.kind),
        _ => format!("this mesh does not act on `{shown}` yet"),
    };
    Diagnostic::new(IGNORED, Severity::Warning, message)
        .on(resource.reference())
        .at(field)
        .spanned(Some(span(resource, field)))
        .effect(effect)
}

/// Where it stands. A whole object is best pointed at by its kind.
fn span(resource: &Resource, field: &str) -> FileSpan {
    resource.file_span(if field.is_empty() { "kind" } else { field })
}

/// The last key of a path.
fn last(field: &str) -> &str {
    match field.strip_suffix("\"]") {
        Some(quoted) => quoted.rsplit('"').next().unwrap_or(quoted),
        None => field.rsplit('.').next().unwrap_or(field),
    }
}

fn join(prefix: &str, field: &str) -> String {
    match (prefix, field) {
        ("", field) => field.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, field) => format!("{prefix}.{field}"),
    }
}

fn at<'a>(root: &'a Node, keys: &[&str]) -> Option<&'a Node> {
    keys.iter().try_fold(root, |node, key| node.get(key))
}

fn is_mesh_config(resource: &Resource) -> bool {
    resource.name() == "istio" && resource.namespace() == "istio-system"
}

/// Where a kind keeps the pod it makes.
fn template(kind: Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::Pod => Some(&[]),
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet | Kind::Job => {
            Some(&["spec", "template"])
        }
        Kind::CronJob => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;
    use crate::ignored::table::Row;

    fn find(yaml: &str, native: bool) -> Vec<Diagnostic> {
        let parsed = parse_file(&SourceFile::new("test.yaml", yaml), "default");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        ignored(&parsed.resources, native)
    }

    #[test]
    fn every_row_has_a_pattern_that_can_be_read_and_says_what_follows() {
        for (of, _, at, effect) in ROWS {
            assert!(Query::parse(at).is_some(), "{of:?} {at}");
            assert!(!effect.is_empty() && !effect.ends_with('.'), "{of:?} {at}");
        }
    }

    #[test]
    fn no_row_is_there_twice() {
        for (at, row) in ROWS.iter().enumerate() {
            let same = |other: &Row| other.0 == row.0 && other.2 == row.2;
            assert!(!ROWS[..at].iter().any(same), "{row:?}");
        }
    }

    #[test]
    fn a_field_is_found_where_it_stands_and_a_whole_kind_at_its_name() {
        let yaml = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - name: v1
    trafficPolicy:
      outlierDetection: {consecutiveErrors: 7}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: filter}
spec: {url: oci://example.com/filter:v1}
";
        let found = find(yaml, true);
        let lines: Vec<_> = found
            .iter()
            .map(|d| (d.field.as_str(), d.span.as_ref().unwrap().line))
            .collect();
        assert_eq!(
            lines,
            [
                (
                    "spec.subsets[0].trafficPolicy.outlierDetection.consecutiveErrors",
                    10
                ),
                ("", 13)
            ]
        );
        assert!(
            found
                .iter()
                .all(|d| d.code == IGNORED && !d.effect.is_empty())
        );
    }

    #[test]
    fn what_only_our_own_proxy_ignores_is_not_said_of_an_envoy() {
        let yaml = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  selector: {app: gateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example.com]
    tls: {mode: SIMPLE, credentialName: a, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}
";
        assert_eq!(find(yaml, true).len(), 1);
        assert_eq!(find(yaml, false), []);
    }

    #[test]
    fn mesh_settings_are_found_in_both_places_they_are_written() {
        let config_map = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    enableEnvoyAccessLogService: true
    defaultConfig:
      image: {imageType: distroless}
";
        let found = find(config_map, true);
        let messages: Vec<_> = found.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "this mesh does not act on `enableEnvoyAccessLogService` yet",
                "this mesh does not act on `defaultConfig.image` yet"
            ]
        );
        let operator = "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec: {meshConfig: {enableEnvoyAccessLogService: true}}
";
        assert_eq!(
            find(operator, true)[0].field,
            "spec.meshConfig.enableEnvoyAccessLogService"
        );
    }

    #[test]
    fn annotations_of_templates_are_found_and_so_is_what_they_hold() {
        let yaml = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata:
      labels: {app: a}
      annotations:
        sidecar.istio.io/proxyCPU: 100m
        proxy.istio.io/config: |
          image: {imageType: debug}
    spec:
      containers: [{name: a, image: a}]
"#;
        let found = find(yaml, true);
        let lines: Vec<_> = found
            .iter()
            .map(|d| d.span.as_ref().unwrap().line)
            .collect();
        assert_eq!(lines, [11, 13]);
        assert_eq!(
            found[0].message,
            "this mesh does not act on `sidecar.istio.io/proxyCPU` yet"
        );
    }

    /// A row that goes takes its line of the documentation with it, and the other way round: what is silent is a bug.
    #[test]
    fn fields_that_the_table_names_are_named_in_the_documentation() {
        let docs = std::fs::read_to_string("../../docs/compatibility.md").unwrap();
        for (of, _, at, _) in ROWS {
            let last = at
                .rsplit(['.', '/', '"', ']', '}'])
                .find(|part| !part.is_empty());
            let name = match (last, of) {
                (Some(key), _) => key.split('{').next().unwrap_or(key).to_owned(),
                (None, Of::Object(kind)) => kind.to_string(),
                (None, _) => panic!("{of:?} has a row without a path"),
            };
            assert!(
                docs.contains(&name),
                "{of:?} {at}: `{name}` is not documented"
            );
        }
    }
}
