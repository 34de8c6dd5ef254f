//! Tracing as Telemetry objects and MeshConfig ask for it: where spans go, how many there are, and what they say.
//!
//! Source: Istio, `model/telemetry.go` (`Tracing`), `networking/core/tracing.go`.

use std::collections::BTreeMap;

use lateen_api::mesh::{
    ExtensionProvider, OpenTelemetryTracingProvider, ServiceAttributeEnrichment, Tracing as Legacy,
    ZipkinTracingProvider,
};
use lateen_api::telemetry::{CustomTag, Telemetry, Tracing as Written, WorkloadMode};
use lateen_api::value::Double;

use super::{Lookup, collector, provider};
use crate::attachment::Workload;
use crate::mesh::{ClassTracing, Mesh, Tag, Tracer, Tracing};

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// Share of requests that are traced where nobody says, percent. Source: Istio, `PILOT_TRACE_SAMPLING`.
const DEFAULT_SAMPLING: f64 = 1.0;

/// What objects say of one direction.
#[derive(Default)]
struct Spec<'a> {
    provider: Option<&'a str>,
    off: bool,
    sampling: Option<Double>,
    tags: Option<&'a BTreeMap<String, CustomTag>>,
    by_request_id: Option<bool>,
    istio_tags: Option<bool>,
    keeps_context: bool,
}

/// The tracing of a workload.
pub(super) fn tracing(
    objects: &[&Telemetry],
    mesh: &Mesh,
    workload: &Workload<'_>,
    lookup: Lookup<'_>,
) -> ClassTracing {
    let entries: Vec<&Written> = objects.iter().flat_map(|spec| &spec.tracing).collect();
    let default = mesh.default_tracing_providers.first();
    if entries.is_empty() && default.is_none() {
        let legacy = mesh.traces.then(|| legacy(mesh, workload, lookup));
        return ClassTracing {
            client: legacy.clone(),
            server: legacy,
        };
    }
    let of = |mode| {
        let spec = merge(&entries, default.map(String::as_str), mode);
        spec.resolve(mesh, workload, lookup)
    };
    ClassTracing {
        client: of(WorkloadMode::Client),
        server: of(WorkloadMode::Server),
    }
}

/// Later entries win, field by field.
fn merge<'a>(entries: &[&'a Written], default: Option<&'a str>, mode: WorkloadMode) -> Spec<'a> {
    let mut spec = Spec {
        provider: default,
        ..Spec::default()
    };
    for entry in entries {
        let wanted = entry.r#match.as_ref().map(|selector| selector.mode);
        if wanted.is_some_and(|wanted| wanted != WorkloadMode::ClientAndServer && wanted != mode) {
            continue;
        }
        let named = entry.providers.first();
        spec.provider = named.map(|named| named.name.as_str()).or(spec.provider);
        spec.off = entry.disable_span_reporting.unwrap_or(spec.off);
        spec.sampling = entry.random_sampling_percentage.or(spec.sampling);
        spec.by_request_id = entry
            .use_request_id_for_trace_sampling
            .or(spec.by_request_id);
        spec.istio_tags = entry.enable_istio_tags.or(spec.istio_tags);
        let keeps = entry.disable_context_propagation;
        spec.keeps_context = keeps.unwrap_or(spec.keeps_context);
        if !entry.custom_tags.is_empty() {
            spec.tags = Some(&entry.custom_tags);
        }
    }
    spec
}

impl Spec<'_> {
    /// None if nothing is to be traced, or nobody knows where spans would go.
    fn resolve(&self, mesh: &Mesh, workload: &Workload<'_>, lookup: Lookup<'_>) -> Option<Tracing> {
        let provider = provider(mesh, self.provider?)?;
        if self.off {
            return None;
        }
        let (tracer, max_path) = tracer(provider, workload, lookup)?;
        let legacy = mesh.legacy_tracing.as_ref();
        let mut tags = istio_tags(self.istio_tags.unwrap_or(true), mesh, workload);
        match self.tags {
            Some(written) => {
                tags.extend(written.iter().filter_map(|(name, tag)| custom(name, tag)))
            }
            None => tags.extend(legacy_tags(legacy)),
        }
        let sampling = self.sampling.unwrap_or_else(|| legacy_sampling(legacy));
        let fallback = legacy.map_or(0, |legacy| legacy.max_path_tag_length);
        Some(Tracing {
            tracer: Some(tracer),
            sampling,
            tags,
            max_path_tag_length: if max_path == 0 { fallback } else { max_path },
            by_request_id: self.by_request_id.unwrap_or(true),
            keeps_context: self.keeps_context,
        })
    }
}

/// What `enableTracing` means without Telemetry: `defaultConfig.tracing` says the rest.
fn legacy(mesh: &Mesh, workload: &Workload<'_>, lookup: Lookup<'_>) -> Tracing {
    let written = mesh.legacy_tracing.as_ref();
    let wants_tags = written.and_then(|legacy| legacy.enable_istio_tags);
    let mut tags = istio_tags(wants_tags.unwrap_or(true), mesh, workload);
    tags.extend(legacy_tags(written));
    let zipkin = written.and_then(legacy_address).and_then(|(host, port)| {
        let found = collector(&host, port, lookup)?;
        Some(Tracer::Zipkin(found, ZipkinTracingProvider::default()))
    });
    Tracing {
        tracer: zipkin,
        sampling: legacy_sampling(written),
        tags,
        max_path_tag_length: written.map_or(0, |legacy| legacy.max_path_tag_length),
        by_request_id: true,
        keeps_context: false,
    }
}

/// The service and port that `defaultConfig.tracing` names.
fn legacy_address(legacy: &Legacy) -> Option<(String, u32)> {
    let zipkin = legacy.zipkin.as_ref()?;
    let (host, port) = zipkin.address.rsplit_once(':')?;
    Some((whole_name(host), port.parse().ok()?))
}

/// The service that `defaultConfig.tracing` names.
pub(crate) fn legacy_tracer(legacy: &Legacy) -> Option<String> {
    legacy_address(legacy).map(|(host, _)| host)
}

/// `zipkin.istio-system` as services are known.
fn whole_name(host: &str) -> String {
    match host.split('.').count() {
        2 => format!("{host}.svc.cluster.local"),
        3 if host.ends_with(".svc") => format!("{host}.cluster.local"),
        _ => host.to_owned(),
    }
}

fn legacy_sampling(legacy: Option<&Legacy>) -> Double {
    let written = legacy.map_or(0.0, |legacy| legacy.sampling.get());
    if written == 0.0 || written > 100.0 {
        return Double::new(DEFAULT_SAMPLING);
    }
    Double::new(written)
}

/// The tracer of a provider, and the longest path in a tag.
fn tracer(
    provider: &ExtensionProvider,
    workload: &Workload<'_>,
    lookup: Lookup<'_>,
) -> Option<(Tracer, u32)> {
    if let Some(zipkin) = &provider.zipkin {
        let found = collector(&zipkin.service, zipkin.port, lookup)?;
        return Some((Tracer::Zipkin(found, zipkin.clone()), zipkin.max_tag_length));
    }
    if let Some(otel) = &provider.opentelemetry {
        let found = collector(&otel.service, otel.port, lookup)?;
        let name = otel_service_name(otel, workload);
        let tracer = Tracer::OpenTelemetry(found, otel.clone(), name);
        return Some((tracer, otel.max_tag_length));
    }
    if let Some(datadog) = &provider.datadog {
        let found = collector(&datadog.service, datadog.port, lookup)?;
        let tracer = Tracer::Datadog(found, service_cluster(workload));
        return Some((tracer, datadog.max_tag_length));
    }
    let skywalking = provider.skywalking.as_ref()?;
    let found = collector(&skywalking.service, skywalking.port, lookup)?;
    Some((Tracer::Skywalking(found), 0))
}

/// Who makes spans, as Envoy's `--service-cluster` says it, too.
fn service_cluster(workload: &Workload<'_>) -> String {
    let label = |name: &str| workload.labels.get(name).map(String::as_str);
    let name = label(CANONICAL_NAME)
        .or_else(|| label("app"))
        .unwrap_or("istio-proxy");
    format!("{name}.{}", workload.namespace)
}

/// `service.name` of spans, by OpenTelemetry's conventions for Kubernetes if they are asked for.
fn otel_service_name(otel: &OpenTelemetryTracingProvider, workload: &Workload<'_>) -> String {
    let label = |name: &str| workload.labels.get(name).cloned();
    match otel.service_attribute_enrichment {
        ServiceAttributeEnrichment::IstioCanonical => service_cluster(workload),
        ServiceAttributeEnrichment::OtelSemanticConventions => label("app.kubernetes.io/instance")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label(CANONICAL_NAME))
            .unwrap_or_else(|| "unknown_service".to_owned()),
    }
}

/// What every span of Istio says of its workload, and of policies that are on trial.
fn istio_tags(wanted: bool, mesh: &Mesh, workload: &Workload<'_>) -> BTreeMap<String, Tag> {
    if !wanted {
        return BTreeMap::new();
    }
    let label = |name: &str, default: &str| {
        let found = workload.labels.get(name).map(String::as_str);
        found.unwrap_or(default).to_owned()
    };
    let said = [
        (
            "istio.canonical_revision",
            label(CANONICAL_REVISION, "latest"),
        ),
        ("istio.canonical_service", label(CANONICAL_NAME, "unknown")),
        ("istio.mesh_id", mesh.trust_domain.clone()),
        ("istio.namespace", workload.namespace.to_owned()),
        ("istio.cluster_id", mesh.cluster_id.clone()),
    ];
    let said = said
        .into_iter()
        .map(|(name, value)| (name, Tag::Literal(value)));
    let trials = ["allow", "deny"].into_iter().flat_map(|action| {
        let key = |what: &str| Tag::DryRun(format!("istio_dry_run_{action}_{what}"));
        match action {
            "allow" => [
                (
                    "istio.authorization.dry_run.allow_policy.name",
                    key("shadow_effective_policy_id"),
                ),
                (
                    "istio.authorization.dry_run.allow_policy.result",
                    key("shadow_engine_result"),
                ),
            ],
            _ => [
                (
                    "istio.authorization.dry_run.deny_policy.name",
                    key("shadow_effective_policy_id"),
                ),
                (
                    "istio.authorization.dry_run.deny_policy.result",
                    key("shadow_engine_result"),
                ),
            ],
        }
    });
    said.chain(trials)
        .map(|(name, tag)| (name.to_owned(), tag))
        .collect()
}

fn custom(name: &str, tag: &CustomTag) -> Option<(String, Tag)> {
    let tag = if let Some(literal) = &tag.literal {
        Tag::Literal(literal.value.clone())
    } else if let Some(variable) = &tag.environment {
        Tag::Environment(variable.name.clone(), variable.default_value.clone())
    } else if let Some(header) = &tag.header {
        Tag::Header(header.name.clone(), header.default_value.clone())
    } else {
        Tag::Formatter(tag.formatter.as_ref()?.value.clone())
    };
    Some((name.to_owned(), tag))
}

fn legacy_tags(legacy: Option<&Legacy>) -> Vec<(String, Tag)> {
    let tags = legacy.into_iter().flat_map(|legacy| &legacy.custom_tags);
    tags.filter_map(|(name, tag)| {
        let tag = if let Some(literal) = &tag.literal {
            Tag::Literal(literal.value.clone())
        } else if let Some(variable) = &tag.environment {
            Tag::Environment(variable.name.clone(), variable.default_value.clone())
        } else {
            let header = tag.header.as_ref()?;
            Tag::Header(header.name.clone(), header.default_value.clone())
        };
        Some((name.clone(), tag))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_api::telemetry::{ProviderRef, TracingSelector};

    fn mesh() -> Mesh {
        Mesh {
            extension_providers: vec![ExtensionProvider {
                name: "spans".to_owned(),
                zipkin: Some(ZipkinTracingProvider {
                    service: "zipkin.obs.svc.cluster.local".to_owned(),
                    port: 9411,
                    max_tag_length: 99,
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Mesh::default()
        }
    }

    fn entry(provider: Option<&str>, mode: WorkloadMode) -> Written {
        let named = provider.map(|name| ProviderRef {
            name: name.to_owned(),
        });
        Written {
            providers: named.into_iter().collect(),
            r#match: Some(TracingSelector { mode }),
            ..Default::default()
        }
    }

    fn of(mesh: &Mesh, entries: Vec<Written>) -> ClassTracing {
        let labels = BTreeMap::from([(CANONICAL_NAME.to_owned(), "web".to_owned())]);
        let workload = Workload {
            namespace: "shop",
            labels: &labels,
        };
        let object = Telemetry {
            tracing: entries,
            ..Default::default()
        };
        let lookup = |name: &str| match name {
            "nowhere" => Err(String::new()),
            name => Ok(name.to_owned()),
        };
        tracing(&[&object], mesh, &workload, &lookup)
    }

    #[test]
    fn nothing_is_traced_unless_somebody_says_where_spans_go() {
        assert_eq!(of(&mesh(), vec![]), ClassTracing::default());
        let unknown = vec![entry(Some("nobody"), WorkloadMode::ClientAndServer)];
        assert_eq!(of(&mesh(), unknown), ClassTracing::default());
        let unnamed = vec![entry(None, WorkloadMode::ClientAndServer)];
        assert_eq!(of(&mesh(), unnamed), ClassTracing::default());
    }

    #[test]
    fn a_direction_may_have_its_own_share_and_providers_are_found_without_case() {
        let mut server = entry(None, WorkloadMode::Server);
        server.random_sampling_percentage = Some(Double::new(12.5));
        let both = entry(Some("SPANS"), WorkloadMode::ClientAndServer);
        let made = of(&mesh(), vec![both, server]);
        let (client, server) = (made.client.unwrap(), made.server.unwrap());
        assert_eq!(client.sampling, Double::new(1.0));
        assert_eq!(server.sampling, Double::new(12.5));
        assert_eq!(client.max_path_tag_length, 99);
        let Some(Tracer::Zipkin(collector, _)) = &client.tracer else {
            panic!("{client:?}");
        };
        assert_eq!(
            collector.cluster,
            "outbound|9411||zipkin.obs.svc.cluster.local"
        );
        assert_eq!(
            client.tags["istio.canonical_service"],
            Tag::Literal("web".to_owned())
        );
    }

    #[test]
    fn reporting_can_be_switched_off_for_one_direction() {
        let mut off = entry(None, WorkloadMode::Client);
        off.disable_span_reporting = Some(true);
        let both = entry(Some("spans"), WorkloadMode::ClientAndServer);
        let made = of(&mesh(), vec![both, off]);
        assert!(made.client.is_none() && made.server.is_some());
    }

    #[test]
    fn a_trace_may_end_here_for_one_direction() {
        let mut quiet = entry(Some("spans"), WorkloadMode::Client);
        quiet.disable_context_propagation = Some(true);
        let both = entry(Some("spans"), WorkloadMode::ClientAndServer);
        let made = of(&mesh(), vec![both, quiet]);
        assert!(made.client.unwrap().keeps_context);
        assert!(!made.server.unwrap().keeps_context);
    }

    #[test]
    fn enable_tracing_alone_follows_default_config() {
        let mut mesh = mesh();
        mesh.traces = true;
        mesh.legacy_tracing = Some(Legacy {
            zipkin: Some(lateen_api::mesh::Zipkin {
                address: "zipkin.obs:9411".to_owned(),
            }),
            sampling: Double::new(40.0),
            ..Default::default()
        });
        let made = of(&mesh, vec![]).client.unwrap();
        assert_eq!(made.sampling, Double::new(40.0));
        assert!(matches!(made.tracer, Some(Tracer::Zipkin(..))));
    }
}
