//! Tracing of HTTP connection managers, as Istio sets it up for each kind of provider.
//!
//! Source: Istio, `networking/core/tracing.go`.

use std::time::Duration;

use lateen_api::mesh::{
    HttpHeader, OpenTelemetryTracingProvider, TraceContextOption, ZipkinTracingProvider,
};
use lateen_envoy::pb::envoy::config::trace::v3 as trace;
use lateen_envoy::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3 as detectors;
use lateen_envoy::pb::envoy::r#type::metadata::v3 as metadata;
use lateen_envoy::pb::envoy::r#type::tracing::v3 as tags;
use prost::{Message, Name};

use crate::authorization::HTTP_RBAC;
use crate::filters::Class;
use crate::mesh::{Collector, Mesh, Tag, Tracer, Tracing};
use crate::proto::{any, bool_value, core, duration, envoy_type, extension, hcm, u32_value};

use hcm::http_connection_manager as manager;

/// How long a collector has to take spans, unless the provider says otherwise.
const ZIPKIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Where Zipkin's second version takes spans.
const ZIPKIN_PATH: &str = "/api/v2/spans";

/// How requests of a class of listeners are traced.
pub(crate) fn of_class(mesh: &Mesh, class: Class) -> Option<&Tracing> {
    match class {
        Class::SidecarInbound => mesh.tracing.server.as_ref(),
        Class::SidecarOutbound | Class::Gateway => mesh.tracing.client.as_ref(),
    }
}

/// A connection manager's tracing.
pub(crate) fn settings(tracing: &Tracing, class: Class) -> manager::Tracing {
    let percent = |value| Some(envoy_type::Percent { value });
    let skywalking = matches!(tracing.tracer, Some(Tracer::Skywalking(_)));
    // A gateway is a hop of its own: what it gets and what it sends are two spans.
    let two = tracing.tracer.is_some() && (class == Class::Gateway || skywalking);
    let longest = tracing.max_path_tag_length;
    manager::Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(tracing.sampling.get()),
        overall_sampling: percent(100.0),
        max_path_tag_length: u32_value(longest).filter(|_| longest > 0),
        custom_tags: tracing
            .tags
            .iter()
            .map(|(name, tag)| custom_tag(name, tag))
            .collect(),
        provider: tracing.tracer.as_ref().map(provider),
        spawn_upstream_span: bool_value(true).filter(|_| two),
        no_context_propagation: tracing.keeps_context,
        ..Default::default()
    }
}

fn provider(tracer: &Tracer) -> trace::tracing::Http {
    match tracer {
        Tracer::Zipkin(to, settings) => named("envoy.tracers.zipkin", &zipkin(to, settings)),
        Tracer::OpenTelemetry(to, settings, name) => named(
            "envoy.tracers.opentelemetry",
            &open_telemetry(to, settings, name),
        ),
        Tracer::Datadog(to, service) => named(
            "envoy.tracers.datadog",
            &trace::DatadogConfig {
                collector_cluster: to.cluster.clone(),
                collector_hostname: to.hostname.clone(),
                service_name: service.clone(),
                ..Default::default()
            },
        ),
        Tracer::Skywalking(to) => named(
            "envoy.tracers.skywalking",
            &trace::SkyWalkingConfig {
                grpc_service: Some(grpc_service(to)),
                ..Default::default()
            },
        ),
    }
}

fn named<M: Message + Name>(name: &str, config: &M) -> trace::tracing::Http {
    trace::tracing::Http {
        name: name.to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(any(config))),
    }
}

fn zipkin(to: &Collector, settings: &ZipkinTracingProvider) -> trace::ZipkinConfig {
    use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption as Wire};
    let path = match settings.path.as_str() {
        "" => ZIPKIN_PATH,
        path => path,
    };
    let context = match settings.trace_context_option {
        TraceContextOption::UseB3 => Wire::UseB3,
        TraceContextOption::UseB3WithW3cPropagation => Wire::UseB3WithW3cPropagation,
    };
    let timeout = settings.timeout.unwrap_or(ZIPKIN_TIMEOUT);
    trace::ZipkinConfig {
        collector_endpoint_version: CollectorEndpointVersion::HttpJson as i32,
        trace_id_128bit: !settings.enable_64bit_trace_id,
        shared_span_context: bool_value(false),
        trace_context_option: context as i32,
        collector_service: Some(http_service(to, path, Some(timeout), &settings.headers)),
        ..Default::default()
    }
}

fn open_telemetry(
    to: &Collector,
    settings: &OpenTelemetryTracingProvider,
    service_name: &str,
) -> trace::OpenTelemetryConfig {
    use lateen_api::mesh::ServiceAttributeEnrichment::OtelSemanticConventions;
    let mut out = trace::OpenTelemetryConfig {
        service_name: service_name.to_owned(),
        ..Default::default()
    };
    match &settings.http {
        Some(http) => {
            let path = format!("/{}", http.path.trim_start_matches('/'));
            out.http_service = Some(http_service(to, &path, http.timeout, &http.headers));
        }
        None => {
            let grpc = settings.grpc.clone().unwrap_or_default();
            out.grpc_service = Some(core::GrpcService {
                timeout: grpc.timeout.map(duration),
                initial_metadata: headers(&grpc.initial_metadata).collect(),
                ..grpc_service(to)
            });
        }
    }
    let written = settings.resource_detectors.as_ref();
    let wants_environment = written.is_some_and(|all| all.environment.is_some())
        || settings.service_attribute_enrichment == OtelSemanticConventions;
    if wants_environment {
        out.resource_detectors.push(extension(
            "envoy.tracers.opentelemetry.resource_detectors.environment",
            &detectors::EnvironmentResourceDetectorConfig {},
        ));
    }
    if written.is_some_and(|all| all.dynatrace.is_some()) {
        out.resource_detectors.push(extension(
            "envoy.tracers.opentelemetry.resource_detectors.dynatrace",
            &detectors::DynatraceResourceDetectorConfig {},
        ));
    }
    out
}

/// A collector that speaks HTTP.
fn http_service(
    to: &Collector,
    path: &str,
    timeout: Option<Duration>,
    with: &[HttpHeader],
) -> core::HttpService {
    let added = headers(with).map(|header| core::HeaderValueOption {
        header: Some(header),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    });
    core::HttpService {
        http_uri: Some(core::HttpUri {
            uri: format!("http://{}{path}", to.hostname),
            timeout: Some(duration(timeout.unwrap_or(ZIPKIN_TIMEOUT))),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
                to.cluster.clone(),
            )),
        }),
        request_headers_to_add: added.collect(),
        ..Default::default()
    }
}

/// A collector that speaks gRPC.
pub(crate) fn grpc_service(to: &Collector) -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: to.cluster.clone(),
            authority: to.hostname.clone(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Headers with values. One from istiod's environment (`envName`) is left out: nothing here reads it.
fn headers(written: &[HttpHeader]) -> impl Iterator<Item = core::HeaderValue> {
    written.iter().filter_map(|header| {
        Some(core::HeaderValue {
            key: header.name.clone(),
            value: header.value.clone()?,
            ..Default::default()
        })
    })
}

fn custom_tag(name: &str, tag: &Tag) -> tags::CustomTag {
    use tags::custom_tag::{Environment, Header, Literal, Type};
    let value = match tag {
        Tag::Literal(value) => Type::Literal(Literal {
            value: value.clone(),
        }),
        Tag::Environment(name, default) => Type::Environment(Environment {
            name: name.clone(),
            default_value: default.clone(),
        }),
        Tag::Header(name, default) => Type::RequestHeader(Header {
            name: name.clone(),
            default_value: default.clone(),
        }),
        Tag::Formatter(format) => Type::Value(format.clone()),
        Tag::DryRun(key) => Type::Metadata(dry_run(key)),
    };
    tags::CustomTag {
        tag: name.to_owned(),
        r#type: Some(value),
    }
}

/// What the access rules' filter left under a key.
fn dry_run(key: &str) -> tags::custom_tag::Metadata {
    use metadata::metadata_key::{PathSegment, path_segment::Segment};
    use metadata::metadata_kind::{Kind, Request};
    tags::custom_tag::Metadata {
        kind: Some(metadata::MetadataKind {
            kind: Some(Kind::Request(Request {})),
        }),
        metadata_key: Some(metadata::MetadataKey {
            key: HTTP_RBAC.to_owned(),
            path: vec![PathSegment {
                segment: Some(Segment::Key(key.to_owned())),
            }],
        }),
        default_value: String::new(),
    }
}
