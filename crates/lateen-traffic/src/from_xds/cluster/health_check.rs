//! Active health checks of clusters.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::r#type::v3 as ty;
use lateen_envoy::pb::google::protobuf as google;

use crate::cluster::{TRANSPORT_SOCKET_MATCH, UpstreamProtocol};
use crate::from_xds::basic::{flag, non_empty, object, optional_duration, texts};
use crate::from_xds::error::Within as _;
use crate::from_xds::{XdsError, headers, matchers};
use crate::health_check::{Checker, GrpcCheck, HealthCheck, HttpCheck, Intervals, TcpCheck};
use crate::value::Metadata;

use core::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};

/// The wait between checks of a cluster that nobody has connected to. Source: Envoy.
const NO_TRAFFIC: Duration = Duration::from_secs(60);
/// How much of an answer's body is looked at. Source: Envoy.
const RESPONSE_BUFFER: usize = 1024;

/// The check of a cluster; Envoy has one at most.
pub(super) fn compile(
    from: &[core::HealthCheck],
    protocol: UpstreamProtocol,
) -> Result<Option<Arc<HealthCheck>>, XdsError> {
    match from {
        [] => Ok(None),
        [one] => {
            let check = check(one).at("health_checks", 0)?;
            let grpc = matches!(check.checker, Checker::Grpc(_));
            if grpc && protocol != UpstreamProtocol::Http2 {
                let reason = "a gRPC health check needs a cluster that speaks HTTP/2";
                return Err(XdsError::new(reason).within("health_checks"));
            }
            Ok(Some(Arc::new(check)))
        }
        _ => Err(XdsError::new("there is one health check at most").within("health_checks")),
    }
}

fn check(from: &core::HealthCheck) -> Result<HealthCheck, XdsError> {
    if from.alt_port.is_some() {
        return Err(XdsError::new("is not supported; endpoints say it").within("alt_port"));
    }
    let tls = from.tls_options.as_ref();
    Ok(HealthCheck {
        timeout: required(from.timeout.as_ref(), "timeout")?,
        intervals: intervals(from)?,
        unhealthy_threshold: threshold(from.unhealthy_threshold.as_ref(), "unhealthy_threshold")?,
        healthy_threshold: threshold(from.healthy_threshold.as_ref(), "healthy_threshold")?,
        reuse_connection: flag(from.reuse_connection.as_ref(), true),
        alpn: tls
            .map_or_else(Vec::new, |tls| texts(&tls.alpn_protocols))
            .into(),
        transport_match: from.transport_socket_match_criteria.as_ref().map(|fields| {
            let mut metadata = Metadata::default();
            metadata
                .namespaces
                .insert(TRANSPORT_SOCKET_MATCH.into(), object(fields));
            metadata
        }),
        checker: checker(from.health_checker.as_ref())?,
    })
}

fn checker(from: Option<&HealthChecker>) -> Result<Checker, XdsError> {
    match from {
        Some(HealthChecker::HttpHealthCheck(from)) => http(from)
            .within("http_health_check")
            .map(|check| Checker::Http(Box::new(check))),
        Some(HealthChecker::TcpHealthCheck(from)) => {
            tcp(from).within("tcp_health_check").map(Checker::Tcp)
        }
        Some(HealthChecker::GrpcHealthCheck(from)) => {
            grpc(from).within("grpc_health_check").map(Checker::Grpc)
        }
        Some(HealthChecker::CustomHealthCheck(from)) => {
            Err(XdsError::new(format!("{:?} is not supported", from.name))
                .within("custom_health_check"))
        }
        None => Err(XdsError::new("the checker is missing")),
    }
}

fn positive(from: Option<&google::Duration>, field: &str) -> Result<Option<Duration>, XdsError> {
    match optional_duration(from, field)? {
        Some(Duration::ZERO) => Err(XdsError::new("has to be more than nothing").within(field)),
        duration => Ok(duration),
    }
}

fn required(from: Option<&google::Duration>, field: &str) -> Result<Duration, XdsError> {
    positive(from, field)?.ok_or_else(|| XdsError::new("is missing").within(field))
}

fn threshold(from: Option<&google::UInt32Value>, field: &str) -> Result<u32, XdsError> {
    let missing = || XdsError::new("is missing").within(field);
    from.map(|value| value.value).ok_or_else(missing)
}

fn intervals(from: &core::HealthCheck) -> Result<Intervals, XdsError> {
    let jitter = |from: Option<&google::Duration>, field| {
        optional_duration(from, field).map(Option::unwrap_or_default)
    };
    let interval = required(from.interval.as_ref(), "interval")?;
    let or = |value: Option<&google::Duration>, field, default| {
        positive(value, field).map(|value| value.unwrap_or(default))
    };
    let unhealthy = or(
        from.unhealthy_interval.as_ref(),
        "unhealthy_interval",
        interval,
    )?;
    let no_traffic = or(
        from.no_traffic_interval.as_ref(),
        "no_traffic_interval",
        NO_TRAFFIC,
    )?;
    Ok(Intervals {
        initial_jitter: jitter(from.initial_jitter.as_ref(), "initial_jitter")?,
        jitter: jitter(from.interval_jitter.as_ref(), "interval_jitter")?,
        jitter_percent: from.interval_jitter_percent,
        healthy: interval,
        unhealthy,
        healthy_edge: or(
            from.healthy_edge_interval.as_ref(),
            "healthy_edge_interval",
            interval,
        )?,
        unhealthy_edge: or(
            from.unhealthy_edge_interval.as_ref(),
            "unhealthy_edge_interval",
            unhealthy,
        )?,
        no_traffic,
        no_traffic_healthy: or(
            from.no_traffic_healthy_interval.as_ref(),
            "no_traffic_healthy_interval",
            no_traffic,
        )?,
    })
}

fn http(from: &HttpHealthCheck) -> Result<HttpCheck, XdsError> {
    if from.path.is_empty() {
        return Err(XdsError::new("is missing").within("path"));
    }
    let size = from.response_buffer_size.as_ref().map(|size| size.value);
    let size = size.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    let without = from.request_headers_to_remove.iter().enumerate();
    let without =
        without.map(|(index, name)| headers::name(name).at("request_headers_to_remove", index));
    let mut expected = ranges(&from.expected_statuses, "expected_statuses")?;
    if expected.is_empty() {
        expected.push((200, 201));
    }
    Ok(HttpCheck {
        host: non_empty(&from.host),
        path: from.path.as_str().into(),
        method: method(from.method())?,
        http2: match from.codec_client_type() {
            ty::CodecClientType::Http1 => false,
            ty::CodecClientType::Http2 => true,
            ty::CodecClientType::Http3 => {
                return Err(XdsError::new("HTTP/3 is not supported").within("codec_client_type"));
            }
        },
        send: payload(from.send.as_ref()).within("send")?,
        receive: payloads(&from.receive)?,
        response_buffer: match size {
            None => Some(RESPONSE_BUFFER),
            Some(0) => None,
            Some(size) => Some(size),
        },
        headers: added(&from.request_headers_to_add, "request_headers_to_add")?,
        without_headers: without.collect::<Result<_, _>>()?,
        expected,
        retriable: ranges(&from.retriable_statuses, "retriable_statuses")?,
        service: from
            .service_name_matcher
            .as_ref()
            .map(matchers::string)
            .transpose()
            .within("service_name_matcher")?,
    })
}

fn method(from: core::RequestMethod) -> Result<Method, XdsError> {
    use core::RequestMethod;
    Ok(match from {
        RequestMethod::MethodUnspecified | RequestMethod::Get => Method::GET,
        RequestMethod::Head => Method::HEAD,
        RequestMethod::Post => Method::POST,
        RequestMethod::Put => Method::PUT,
        RequestMethod::Delete => Method::DELETE,
        RequestMethod::Options => Method::OPTIONS,
        RequestMethod::Trace => Method::TRACE,
        RequestMethod::Patch => Method::PATCH,
        RequestMethod::Connect => {
            return Err(XdsError::new("a check is no CONNECT").within("method"));
        }
    })
}

fn tcp(from: &TcpHealthCheck) -> Result<TcpCheck, XdsError> {
    let proxy = from.proxy_protocol_config.as_ref();
    Ok(TcpCheck {
        send: payload(from.send.as_ref()).within("send")?,
        receive: payloads(&from.receive)?,
        proxy: proxy.map(super::proxy_version),
    })
}

fn grpc(from: &GrpcHealthCheck) -> Result<GrpcCheck, XdsError> {
    Ok(GrpcCheck {
        service: from.service_name.as_str().into(),
        authority: non_empty(&from.authority),
        headers: added(&from.initial_metadata, "initial_metadata")?,
    })
}

/// Headers whose values are texts: there is no request that a command could be about.
fn added(
    from: &[core::HeaderValueOption],
    field: &str,
) -> Result<Vec<(http::HeaderName, HeaderValue, bool)>, XdsError> {
    use core::header_value_option::HeaderAppendAction;
    let one = |option: &core::HeaderValueOption| {
        let missing = || XdsError::new("the header is missing");
        let header = option.header.as_ref().ok_or_else(missing)?;
        if header.value.contains('%') {
            return Err(XdsError::new("commands are not supported in health checks"));
        }
        let value = if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        };
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| XdsError::new(format!("the value of {:?} is none", header.key)))?;
        let append = match option.append_action() {
            HeaderAppendAction::AppendIfExistsOrAdd => true,
            HeaderAppendAction::OverwriteIfExistsOrAdd
            | HeaderAppendAction::OverwriteIfExists
            | HeaderAppendAction::AddIfAbsent => false,
        };
        Ok((headers::name(&header.key)?, value, append))
    };
    let all = from.iter().enumerate();
    all.map(|(index, option)| one(option).at(field, index))
        .collect()
}

fn ranges(from: &[ty::Int64Range], field: &str) -> Result<Vec<(u16, u16)>, XdsError> {
    let bound = |number: i64| {
        let status = u16::try_from(number)
            .ok()
            .filter(|status| (100..=600).contains(status));
        status.ok_or_else(|| XdsError::new(format!("{number} is no status")))
    };
    let all = from.iter().enumerate();
    all.map(|(index, range)| {
        let pair = bound(range.start).and_then(|start| Ok((start, bound(range.end)?)));
        pair.at(field, index)
    })
    .collect()
}

fn payloads(from: &[Payload]) -> Result<Vec<Arc<[u8]>>, XdsError> {
    let all = from.iter().enumerate();
    all.map(|(index, one)| payload(Some(one)).at("receive", index))
        .collect()
}

/// Text is hexadecimal.
fn payload(from: Option<&Payload>) -> Result<Arc<[u8]>, XdsError> {
    use core::health_check::payload::Payload as Kind;
    match from.and_then(|from| from.payload.as_ref()) {
        None => Ok(Arc::default()),
        Some(Kind::Binary(bytes)) => Ok(bytes.as_slice().into()),
        Some(Kind::Text(text)) => {
            let wrong = || XdsError::new(format!("{text:?} is not hexadecimal"));
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
                [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
                _ => None,
            });
            pairs
                .collect::<Option<Vec<u8>>>()
                .map(Arc::from)
                .ok_or_else(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<HealthCheck, String> {
        let mut whole = serde_json::json!({
            "timeout": "1s", "interval": "5s", "unhealthy_threshold": 2, "healthy_threshold": 1,
        });
        whole
            .as_object_mut()
            .unwrap()
            .extend(json.as_object().unwrap().clone());
        let from: core::HealthCheck = lateen_envoy::json::from_value(whole).unwrap();
        check(&from).map_err(|error| error.to_string())
    }

    #[test]
    fn intervals_fall_back_as_in_envoy() {
        let found =
            read(serde_json::json!({"tcp_health_check": {}, "unhealthy_interval": "7s"})).unwrap();
        let s = Duration::from_secs;
        let i = found.intervals;
        assert_eq!(
            (i.healthy, i.unhealthy, i.healthy_edge, i.unhealthy_edge),
            (s(5), s(7), s(5), s(7))
        );
        assert_eq!((i.no_traffic, i.no_traffic_healthy), (s(60), s(60)));
    }

    #[test]
    fn a_request_is_read_with_its_ranges_and_payloads() {
        let found = read(serde_json::json!({"http_health_check": {
            "path": "/ready", "host": "a", "method": "HEAD", "codec_client_type": "HTTP2",
            "expected_statuses": [{"start": 200, "end": 300}], "retriable_statuses": [{"start": 503, "end": 504}],
            "receive": [{"text": "504f4e47"}],
            "request_headers_to_add": [{"header": {"key": "x-a", "value": "b"}}],
        }})).unwrap();
        let Checker::Http(http) = found.checker else {
            panic!()
        };
        assert!(http.http2 && http.method == Method::HEAD);
        assert_eq!(
            (http.expected, http.retriable),
            (vec![(200, 300)], vec![(503, 504)])
        );
        assert_eq!(&*http.receive[0], b"PONG");
        assert_eq!(http.response_buffer, Some(1024));
        assert_eq!(http.headers.len(), 1);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let refused = [
            serde_json::json!({}),
            serde_json::json!({"tcp_health_check": {"send": {"text": "0"}}}),
            serde_json::json!({"http_health_check": {"path": "/", "expected_statuses": [{"start": 1, "end": 9}]}}),
            serde_json::json!({"custom_health_check": {"name": "envoy.health_checkers.redis"}}),
            serde_json::json!({"tcp_health_check": {}, "interval": "0s"}),
            serde_json::json!({"grpc_health_check": {"initial_metadata": [{"header": {"key": "a", "value": "%A%"}}]}}),
        ];
        for json in refused {
            assert!(read(json.clone()).is_err(), "{json}");
        }
    }
}
