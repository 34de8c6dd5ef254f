//! Whole files: kinds, versions, lists, what is refused, and where things stand.

use super::*;
use crate::networking::VirtualService;

fn parse(text: &str) -> Parsed {
    parse_file(&SourceFile::new("test.yaml", text), "default")
}

fn codes_of(parsed: &Parsed) -> Vec<(&'static str, Severity)> {
    parsed
        .diagnostics
        .iter()
        .map(|found| (found.code, found.severity))
        .collect()
}

#[track_caller]
fn one(parsed: &Parsed) -> &Diagnostic {
    assert_eq!(parsed.diagnostics.len(), 1, "{:#?}", parsed.diagnostics);
    &parsed.diagnostics[0]
}

#[test]
fn api_versions_are_one_kind() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = format!(
            "apiVersion: networking.istio.io/{version}\nkind: VirtualService\nmetadata: {{name: a}}\n"
        );
        let parsed = parse(&text);
        assert_eq!(parsed.resources[0].kind, Kind::VirtualService);
        assert!(parsed.resources[0].spec_as::<VirtualService>().is_some());
    }
}

#[test]
fn a_resource_is_equal_to_itself_elsewhere() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: default}\nspec: {ports: [{port: 80}]}\n";
    let moved = format!("# a line more\n{text}");
    let old_version = moved.replace(
        "metadata: {name: a, namespace: default}",
        "metadata: {name: a}",
    );
    assert_eq!(parse(text).resources, parse(&old_version).resources);
}

#[test]
fn cluster_wide_kinds_have_no_namespace() {
    let parsed = parse("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n");
    assert_eq!(parsed.resources[0].namespace(), "");
}

#[test]
fn an_unknown_field_of_istio_is_refused_and_of_kubernetes_ignored() {
    let parsed = parse(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a, trafficPolicy: {circuitBreaker: {}}}\n",
    );
    assert_eq!(codes_of(&parsed), [(codes::UNKNOWN_FIELD, Severity::Error)]);
    assert!(
        parsed.diagnostics[0]
            .fix
            .as_ref()
            .is_some_and(|fix| fix.contains("outlierDetection"))
    );
    assert_eq!((parsed.resources.len(), parsed.refused.len()), (0, 1));

    let parsed = parse(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}], newField: 1}\n",
    );
    assert_eq!(
        codes_of(&parsed),
        [(codes::UNKNOWN_FIELD, Severity::Warning)]
    );
    assert_eq!(parsed.resources.len(), 1);
}

#[test]
fn slips_in_kind_group_and_version_are_told_apart() {
    let header = |version: &str, kind: &str| {
        parse(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"
        ))
    };
    let found = header("networking.istio.io/v1", "VirtualServce");
    assert_eq!(one(&found).code, codes::MISSPELT_KIND);
    assert_eq!(
        one(&found).fix.as_deref(),
        Some("did you mean `VirtualService`?")
    );
    let found = header("networking.istio.io/v1alpha4", "VirtualService");
    assert_eq!(
        (one(&found).code, found.refused.len()),
        (codes::UNKNOWN_VERSION, 1)
    );
    let found = header("network.istio.io/v1", "VirtualService");
    assert_eq!(
        one(&found).fix.as_deref(),
        Some("did you mean `apiVersion: networking.istio.io/v1`?")
    );
    let found = header("networking.istio.io/v1", "AuthorizationPolicy");
    assert_eq!(
        one(&found).fix.as_deref(),
        Some("write `apiVersion: security.istio.io/v1`")
    );
    let found = header("extensions/v1beta1", "Deployment");
    assert_eq!(
        (one(&found).code, one(&found).severity),
        (codes::REMOVED_VERSION, Severity::Error)
    );
}

#[test]
fn kinds_of_others_are_kept_with_a_note() {
    for (version, kind) in [
        ("flagger.app/v1beta1", "Canary"),
        ("argoproj.io/v1alpha1", "Application"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("monitoring.coreos.com/v1", "PrometheusRule"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("serving.knative.dev/v1", "Service"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Node"),
    ] {
        let parsed = parse(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"
        ));
        assert_eq!(
            (one(&parsed).code, one(&parsed).severity),
            (codes::UNKNOWN_KIND, Severity::Info)
        );
        assert_eq!(parsed.others.len(), 1, "{kind}");
    }
}

#[test]
fn removed_policies_are_warned_of() {
    let parsed =
        parse("apiVersion: rbac.istio.io/v1alpha1\nkind: ServiceRole\nmetadata: {name: a}\n");
    assert_eq!(one(&parsed).severity, Severity::Warning);
}

#[test]
fn items_of_lists_are_objects() {
    let parsed = parse(
        "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec: {ports: [{port: 80}]}\n- metadata: {name: b}\n  spec: {ports: [{port: 80}, {port: 81, port: 82}]}\n",
    );
    let names: Vec<&str> = parsed.resources.iter().map(Resource::name).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(parsed.refused[0].name(), "b");
    assert_eq!(one(&parsed).code, codes::DUPLICATE_KEY);
}

#[test]
fn a_broken_object_is_still_known_by_name() {
    let parsed = parse(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a\n  http:\n",
    );
    assert_eq!(one(&parsed).code, codes::SYNTAX);
    assert_eq!(
        parsed.refused[0].key(),
        crate::Key::new(Kind::VirtualService, "default", "a")
    );
    assert!(crate::validate(&parsed.refused[0]).is_empty());
    assert!(!parsed.has_unreadable_documents());
}

#[test]
fn text_without_quotes_is_kept_but_refused() {
    let parsed = parse(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {x: yes}}\ndata: {p: 010, k: \"yes\"}\n",
    );
    assert_eq!(codes_of(&parsed), [(codes::UNQUOTED, Severity::Error); 2]);
    assert_eq!(parsed.refused[0].meta.labels["x"], "yes");
    assert_eq!(
        parsed.diagnostics[0].fix.as_deref(),
        Some("write \"yes\" with quotes")
    );
}

#[test]
fn octal_modes_are_numbers() {
    let parsed = parse(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}], volumes: [{name: v, secret: {secretName: s, defaultMode: 0755}}]}\n",
    );
    let pod: &crate::kube::Pod = parsed.resources[0].spec_as().unwrap();
    assert_eq!(
        pod.spec.volumes[0].secret.as_ref().unwrap().default_mode,
        Some(493)
    );
}

#[test]
fn spans_are_looked_up_by_path() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\n  labels: {app.kubernetes.io/name: x}\nspec:\n  hosts: [a]\n  http:\n  - match:\n    - uri: {prefix: /a}\n    - uri: {exact: /b}\n    route: [{destination: {host: a}}]\n";
    let parsed = parse(text);
    let origin = &parsed.resources[0].origin;
    let at = |path: &str| {
        let span = origin.span(path).unwrap();
        &text[span.start as usize..span.end as usize]
    };
    assert_eq!(at("spec.http[0].match[1].uri.exact"), "/b");
    assert_eq!(at("spec.http[0].match[1].uri"), "uri");
    assert_eq!(at("metadata.labels[\"app.kubernetes.io/name\"]"), "x");
    assert_eq!(origin.span("spec.http[0].timeout"), None);
    assert_eq!(
        origin.nearest_span("spec.http[0].timeout"),
        origin.span("spec.http[0]").unwrap()
    );
}

#[test]
fn a_fragment_is_read_without_an_envelope() {
    let file = SourceFile::new(
        "mesh",
        "accessLogFile: /dev/stdout\ndefaultConfig: {concurency: 2}\n",
    );
    let (mesh, found) = parse_fragment::<crate::mesh::MeshConfig>(&file);
    assert_eq!(mesh.access_log_file, "/dev/stdout");
    assert_eq!(found[0].fix.as_deref(), Some("did you mean `concurrency`?"));
}

#[test]
fn what_is_no_object_at_all_is_passed_over() {
    let parsed = parse("services: {web: {image: x}}\n");
    assert_eq!(one(&parsed).severity, Severity::Warning);
    let parsed = parse("kind: Service\nmetadata: {name: a}\nspec: {}\n");
    assert_eq!(one(&parsed).severity, Severity::Error);
}
