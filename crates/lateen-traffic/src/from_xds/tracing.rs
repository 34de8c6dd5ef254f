//! An HTTP connection manager's tracing, with the tracers that Lateen has.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::config::trace::v3 as trace;
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use lateen_envoy::pb::envoy::r#type::tracing::v3 as tags;
use lateen_envoy::pb::google::protobuf::Any;

use super::XdsError;
use super::basic::{flag, non_empty, number, optional_duration, percent};
use super::error::Within;
use super::ext_authz::grpc_service;
use super::extension;
use crate::tracing::{
    Collector, CustomTag, Datadog, HttpCollector, OpenTelemetry, SkyWalking, TagValue, Tracer,
    Tracing, Zipkin,
};

/// Longest path in a tag. Source: Envoy.
const MAX_PATH: u32 = 256;

/// Where Datadog's agent takes traces, and how long it has. Source: Envoy.
const DATADOG: &str = "/v0.4/traces";
const DATADOG_TIMEOUT: Duration = Duration::from_secs(2);

/// Where Zipkin's tracer sends spans if only the older fields say so.
const ZIPKIN: &str = "/api/v2/spans";

pub(super) fn compile(from: &hcm::Tracing) -> Result<Tracing, XdsError> {
    let provider = from.provider.as_ref();
    let any = provider.and_then(|provider| match provider.config_type.as_ref()? {
        trace::tracing::http::ConfigType::TypedConfig(any) => Some(any),
    });
    let longest = number(from.max_path_tag_length.as_ref()).unwrap_or(MAX_PATH);
    Ok(Tracing {
        client_sampling: percent(from.client_sampling.as_ref(), 100.0),
        random_sampling: percent(from.random_sampling.as_ref(), 100.0),
        overall_sampling: percent(from.overall_sampling.as_ref(), 100.0),
        max_path_tag_length: usize::try_from(longest).unwrap_or(usize::MAX),
        tags: from.custom_tags.iter().filter_map(tag).collect(),
        tracer: any
            .map(|any| tracer(any).map(Arc::new))
            .transpose()
            .within("provider")?,
        spawn_upstream_span: flag(from.spawn_upstream_span.as_ref(), false),
        propagates: !from.no_context_propagation,
    })
}

fn tag(from: &tags::CustomTag) -> Option<CustomTag> {
    use tags::custom_tag::Type;
    let text = |text: &str| Arc::<str>::from(text);
    let value = match from.r#type.as_ref()? {
        Type::Literal(literal) => TagValue::Literal(text(&literal.value)),
        Type::Environment(variable) => {
            TagValue::Environment(text(&variable.name), text(&variable.default_value))
        }
        Type::RequestHeader(header) => {
            let name = HeaderName::try_from(header.name.as_str()).ok()?;
            TagValue::Header(name, text(&header.default_value))
        }
        Type::Metadata(metadata) => metadata_value(metadata)?,
        Type::Value(format) => TagValue::Format(text(format)),
    };
    Some(CustomTag {
        name: non_empty(&from.tag)?,
        value,
    })
}

/// What filters wrote for a request; other metadata has no value here.
fn metadata_value(from: &tags::custom_tag::Metadata) -> Option<TagValue> {
    use lateen_envoy::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    use lateen_envoy::pb::envoy::r#type::metadata::v3::metadata_kind::Kind;
    let Kind::Request(_) = from.kind.as_ref()?.kind.as_ref()? else {
        return None;
    };
    let key = from.metadata_key.as_ref()?;
    let segments = key
        .path
        .iter()
        .map(|segment| match segment.segment.as_ref()? {
            Segment::Key(key) => Some(Arc::from(key.as_str())),
            Segment::Index(_) => None,
        });
    Some(TagValue::Metadata(
        key.key.as_str().into(),
        segments.collect::<Option<_>>()?,
        from.default_value.as_str().into(),
    ))
}

fn tracer(any: &Any) -> Result<Tracer, XdsError> {
    Ok(match extension::type_name(any)?.as_str() {
        "envoy.config.trace.v3.ZipkinConfig" => Tracer::Zipkin(zipkin(&extension::message(any)?)?),
        "envoy.config.trace.v3.OpenTelemetryConfig" => {
            Tracer::OpenTelemetry(open_telemetry(&extension::message(any)?)?)
        }
        "envoy.config.trace.v3.DatadogConfig" => {
            Tracer::Datadog(datadog(&extension::message(any)?)?)
        }
        "envoy.config.trace.v3.SkyWalkingConfig" => {
            Tracer::SkyWalking(sky_walking(&extension::message(any)?)?)
        }
        other => Tracer::Unsupported(other.into()),
    })
}

fn datadog(from: &trace::DatadogConfig) -> Result<Datadog, XdsError> {
    let missing = |field| XdsError::new("is missing").within(field);
    let cluster = non_empty(&from.collector_cluster).ok_or_else(|| missing("collector_cluster"))?;
    Ok(Datadog {
        collector: HttpCollector {
            authority: non_empty(&from.collector_hostname).unwrap_or_else(|| cluster.clone()),
            cluster,
            path: DATADOG.into(),
            timeout: Some(DATADOG_TIMEOUT),
            headers: Vec::new(),
        },
        service_name: non_empty(&from.service_name).ok_or_else(|| missing("service_name"))?,
    })
}

fn sky_walking(from: &trace::SkyWalkingConfig) -> Result<SkyWalking, XdsError> {
    use trace::client_config::BackendTokenSpecifier;
    let missing = || XdsError::new("is missing").within("grpc_service");
    let service = from.grpc_service.as_ref().ok_or_else(missing)?;
    let client = from.client_config.as_ref();
    let token = client.and_then(|client| client.backend_token_specifier.as_ref());
    Ok(SkyWalking {
        service: grpc_service(service).within("grpc_service")?,
        service_name: client.and_then(|client| non_empty(&client.service_name)),
        instance_name: client.and_then(|client| non_empty(&client.instance_name)),
        token: token.and_then(|BackendTokenSpecifier::BackendToken(token)| non_empty(token)),
    })
}

fn zipkin(from: &trace::ZipkinConfig) -> Result<Zipkin, XdsError> {
    use trace::zipkin_config::TraceContextOption;
    let collector = match &from.collector_service {
        Some(service) => http_collector(service).within("collector_service")?,
        None if from.collector_cluster.is_empty() => {
            return Err(XdsError::new("is missing").within("collector_cluster"));
        }
        None => HttpCollector {
            cluster: from.collector_cluster.as_str().into(),
            authority: non_empty(&from.collector_hostname)
                .unwrap_or_else(|| from.collector_cluster.as_str().into()),
            path: non_empty(&from.collector_endpoint).unwrap_or_else(|| ZIPKIN.into()),
            timeout: Some(Duration::from_secs(5)),
            headers: Vec::new(),
        },
    };
    Ok(Zipkin {
        collector,
        wide_ids: from.trace_id_128bit,
        w3c: from.trace_context_option() == TraceContextOption::UseB3WithW3cPropagation,
    })
}

fn open_telemetry(from: &trace::OpenTelemetryConfig) -> Result<OpenTelemetry, XdsError> {
    let collector = match (&from.grpc_service, &from.http_service) {
        (Some(grpc), _) => Collector::Grpc(grpc_service(grpc).within("grpc_service")?),
        (None, Some(http)) => Collector::Http(http_collector(http).within("http_service")?),
        (None, None) => return Err(XdsError::new("nobody gets the spans: no service")),
    };
    let detects = |name: &core::TypedExtensionConfig| name.name.ends_with(".environment");
    Ok(OpenTelemetry {
        collector,
        service_name: non_empty(&from.service_name)
            .unwrap_or_else(|| "unknown_service:envoy".into()),
        reads_environment: from.resource_detectors.iter().any(detects),
    })
}

pub(super) fn http_collector(from: &core::HttpService) -> Result<HttpCollector, XdsError> {
    let missing = || XdsError::new("is missing").within("http_uri");
    let to = from.http_uri.as_ref().ok_or_else(missing)?;
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &to.http_upstream_type else {
        return Err(XdsError::new("is missing").within("http_uri.cluster"));
    };
    let rest = to.uri.split_once("://").map_or(&*to.uri, |(_, rest)| rest);
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let headers = from.request_headers_to_add.iter().filter_map(|option| {
        let header = option.header.as_ref()?;
        let name = HeaderName::try_from(header.key.as_str()).ok()?;
        Some((name, HeaderValue::try_from(header.value.as_str()).ok()?))
    });
    Ok(HttpCollector {
        cluster: cluster.as_str().into(),
        authority: non_empty(authority).unwrap_or_else(|| cluster.as_str().into()),
        path: path.into(),
        timeout: optional_duration(to.timeout.as_ref(), "http_uri.timeout")?
            .filter(|timeout| !timeout.is_zero()),
        headers: headers.collect(),
    })
}
