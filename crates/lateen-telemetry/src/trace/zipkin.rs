//! Spans as Zipkin takes them: `POST /api/v2/spans`, a list in JSON.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Kind, Span, since_epoch};

/// Who made spans.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// The service: Envoy's `--service-cluster`.
    pub service: String,
    /// Its address.
    pub address: Option<IpAddr>,
}

/// The body of a request with these spans.
pub fn body(spans: &[Span], endpoint: &Endpoint) -> Vec<u8> {
    let list: Vec<Value> = spans.iter().map(|one| span(one, endpoint)).collect();
    Value::Array(list).to_string().into_bytes()
}

fn span(span: &Span, endpoint: &Endpoint) -> Value {
    let mut local = json!({"serviceName": endpoint.service});
    match endpoint.address {
        Some(IpAddr::V4(address)) => local["ipv4"] = json!(address.to_string()),
        Some(IpAddr::V6(address)) => local["ipv6"] = json!(address.to_string()),
        None => {}
    }
    let tags: Map<String, Value> = span
        .tags
        .iter()
        // Zipkin has no use for a tag without a value, and Envoy leaves it out.
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_string(), json!(value)))
        .collect();
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(0);
    let mut out = json!({
        "traceId": span.trace.short(),
        "id": format!("{:016x}", span.id),
        "kind": match span.kind { Kind::Server => "SERVER", Kind::Client => "CLIENT" },
        "name": span.name,
        "timestamp": micros(since_epoch(span.start)),
        // Zero would say that it is not known.
        "duration": micros(span.duration).max(1),
        "localEndpoint": local,
        "tags": tags,
    });
    if let Some(parent) = span.parent {
        out["parentId"] = json!(format!("{parent:016x}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::context::TraceId;
    use super::*;

    #[test]
    fn a_span_is_what_zipkins_api_asks_for() {
        let span = Span {
            trace: TraceId(0xabc),
            id: 1,
            parent: Some(2),
            state: String::new(),
            kind: Kind::Client,
            name: "web:80/*".to_owned(),
            start: UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001),
            duration: Duration::from_micros(250),
            tags: vec![("http.method".into(), "GET".to_owned())],
            failed: false,
        };
        let endpoint = Endpoint {
            service: "client.default".to_owned(),
            address: Some([10, 0, 0, 1].into()),
        };
        let body: Value = serde_json::from_slice(&body(&[span], &endpoint)).unwrap();
        assert_eq!(
            body,
            json!([{
                "traceId": "0000000000000abc", "id": "0000000000000001", "parentId": "0000000000000002",
                "kind": "CLIENT", "name": "web:80/*", "timestamp": 1_700_000_000_000_001_u64, "duration": 250,
                "localEndpoint": {"serviceName": "client.default", "ipv4": "10.0.0.1"},
                "tags": {"http.method": "GET"},
            }])
        );
    }
}
