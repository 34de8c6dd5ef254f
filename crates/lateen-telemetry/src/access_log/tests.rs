//! Access-log lines as a reader sees them.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{ResponseFlag, ResponseFlags};

/// One request through a sidecar.
#[derive(Clone)]
struct Request {
    path: &'static str,
    user_agent: &'static [u8],
    server_name: &'static str,
    flags: ResponseFlags,
    grpc: Option<u64>,
    metadata: serde_json::Value,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            path: "/reviews/0?x=1&y=%20z",
            user_agent: b"curl/8",
            server_name: "",
            flags: ResponseFlags::NONE,
            grpc: None,
            metadata: json!({ "key": { "number": 4.5, "text": "t", "flag": true } }),
        }
    }
}

impl LogContext for Request {
    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::new(1_527_593_000, 528_000_000)
    }

    fn emit_time(&self) -> SystemTime {
        self.start_time() + Duration::from_millis(7)
    }

    fn header(&self, source: HeaderSource, key: &HeaderKey) -> Option<&[u8]> {
        match (source, key) {
            (HeaderSource::Request, HeaderKey::Method) => Some(b"GET"),
            (HeaderSource::Request, HeaderKey::Path) => Some(self.path.as_bytes()),
            (HeaderSource::Request, HeaderKey::Authority) => Some(b"reviews:9080"),
            (HeaderSource::Request, HeaderKey::Name(name)) => match name.as_str() {
                "user-agent" => Some(self.user_agent),
                "x-request-id" => Some(b"c3b1"),
                _ => None,
            },
            (HeaderSource::Response, HeaderKey::Name(name)) => {
                (name == "x-envoy-upstream-service-time").then_some(b"5")
            }
            _ => None,
        }
    }

    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Protocol => Some("HTTP/1.1"),
            TextField::ResponseCodeDetails => Some("via upstream"),
            TextField::UpstreamClusterRaw => {
                Some("outbound|9080||reviews.default.svc.cluster.local")
            }
            TextField::RequestedServerName => Some(self.server_name),
            TextField::RouteName => Some("default"),
            TextField::Tls(Side::Downstream, TlsField::PeerUriSan) => {
                Some("spiffe://a/b,spiffe://c")
            }
            _ => None,
        }
    }

    fn number(&self, field: NumberField) -> Option<u64> {
        match field {
            NumberField::ResponseCode => Some(200),
            NumberField::BytesSent => Some(295),
            NumberField::GrpcStatus => self.grpc,
            _ => None,
        }
    }

    fn address(&self, field: AddressField) -> Option<Address<'_>> {
        match field {
            AddressField::UpstreamHost => Some(Address::Ip("10.244.1.2:9080".parse().unwrap())),
            AddressField::UpstreamLocal => Some(Address::Ip("[fd00::1]:41000".parse().unwrap())),
            AddressField::DownstreamLocal => Some(Address::Ip("10.96.3.4:9080".parse().unwrap())),
            AddressField::DownstreamRemote => Some(Address::Ip("10.244.9.9:5555".parse().unwrap())),
            _ => None,
        }
    }

    fn time_point(&self, point: TimePoint) -> Option<Duration> {
        match point {
            TimePoint::End => Some(Duration::from_micros(6_999)),
            TimePoint::UpstreamRxBegin => Some(Duration::from_micros(5_500)),
            TimePoint::DownstreamTxEnd => Some(Duration::from_micros(6_900)),
            TimePoint::DownstreamRxEnd => Some(Duration::from_micros(9_000)),
            _ => None,
        }
    }

    fn response_flags(&self) -> ResponseFlags {
        self.flags
    }

    fn metadata(
        &self,
        _: MetadataSource,
        namespace: &str,
        path: &[Box<str>],
    ) -> Option<LogValue<'_>> {
        let mut value = &self.metadata;
        if namespace != "ns" {
            return None;
        }
        for key in path {
            value = value.get(&**key)?;
        }
        Some(LogValue::Json(value))
    }

    fn evaluate(&self, expression: &(dyn Any + Send + Sync), form: ValueForm) -> Option<Value> {
        let text = expression.downcast_ref::<String>()?;
        match (text.as_str(), form) {
            ("list", ValueForm::Text) => Some("CelList value".into()),
            ("list", ValueForm::Json) => Some(json!([1, 2])),
            ("missing", _) => None,
            (text, _) => Some(text.into()),
        }
    }

    fn filter_state(&self, _: Side, key: &str, form: FilterStateForm<'_>) -> Option<LogValue<'_>> {
        match (key, form) {
            ("peer", FilterStateForm::Plain) => Some(LogValue::Text("plain")),
            ("peer", FilterStateForm::Field("workload")) => Some(LogValue::Text("reviews-v1")),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Motd;

impl Content for Motd {
    fn text(&self) -> Arc<str> {
        "welcome".into()
    }
}

fn line(format: &str, request: &Request) -> String {
    let environment = Environment {
        hostname: "reviews-v1-abc",
        variable: &|name| (name == "HOME").then(|| "/root".to_owned()),
        expression: &|text| match text {
            "broken" => Err("no expression".to_owned()),
            text => Ok(Arc::new(text.to_owned())),
        },
        file: &|path| (path == "/etc/motd").then(|| Arc::new(Motd) as Arc<dyn Content>),
    };
    let format = TextFormat::parse(format, false, &environment).unwrap();
    let mut out = Vec::new();
    format.write(request, &mut out);
    String::from_utf8(out).unwrap()
}

fn error(format: &str) -> FormatError {
    TextFormat::parse(format, false, &Environment::default()).unwrap_err()
}

#[test]
fn istios_text_format_prints_as_istio_prints() {
    assert_eq!(
        line(ISTIO_TEXT_FORMAT, &Request::default()),
        "[2018-05-29T11:23:20.528Z] \"GET /reviews/0?x=1&y=%20z HTTP/1.1\" 200 - via_upstream - \"-\" \
         0 295 6 5 \"-\" \"curl/8\" \"c3b1\" \"reviews:9080\" \"10.244.1.2:9080\" \
         outbound|9080||reviews.default.svc.cluster.local [fd00::1]:41000 10.96.3.4:9080 \
         10.244.9.9:5555 - default\n"
    );
}

#[test]
fn istios_json_format_keeps_types_and_sorts_keys() {
    let format = JsonFormat::parse(&istio_json_format(), false, &Environment::default()).unwrap();
    let mut out = Vec::new();
    format.write(&Request::default(), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with(
            "{\"authority\":\"reviews:9080\",\"bytes_received\":0,\"bytes_sent\":295,"
        )
    );
    assert!(text.ends_with("}\n"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["response_code"], json!(200));
    assert_eq!(value["response_flags"], json!("-"));
    assert_eq!(value["upstream_transport_failure_reason"], json!(null));
    assert_eq!(
        value["upstream_service_time"],
        json!("5"),
        "a header is text"
    );
    assert_eq!(value.as_object().unwrap().len(), 24);
}

#[test]
fn json_formats_nest_and_omit() {
    let tree = json!({
        "b": { "inner": ["%DURATION%", "%REQ(X-NONE)%", 7, true] },
        "a": "%REQ(:METHOD)% %REQ(X-NONE)%",
        "c": "%REQ(X-NONE)%",
        "z": { "q": "%REQ(X-NONE)%", "n": null },
        "d": "100%%",
        "e\"": "%DYNAMIC_METADATA(ns:key)%",
        "f": 9080.0,
    });
    let write = |omit| {
        let format = JsonFormat::parse(&tree, omit, &Environment::default()).unwrap();
        let mut out = Vec::new();
        format.write(&Request::default(), &mut out);
        String::from_utf8(out).unwrap()
    };
    let metadata = "{\"number\":4.5,\"text\":\"t\",\"flag\":true}";
    assert_eq!(
        write(false),
        format!(
            "{{\"a\":\"GET -\",\"b\":{{\"inner\":[6,null,7,true]}},\"c\":null,\"d\":\"100%\",\
             \"e\\\"\":{metadata},\"f\":9080,\"z\":{{\"n\":null,\"q\":null}}}}\n"
        )
    );
    assert_eq!(
        write(true),
        format!(
            "{{\"a\":\"GET \",\"b\":{{\"inner\":[6,7,true]}},\"d\":\"100%\",\"e\\\"\":{metadata},\"f\":9080}}\n"
        )
    );
}

#[test]
fn a_json_format_must_be_a_shallow_object() {
    let environment = Environment::default();
    let error = JsonFormat::parse(&json!("%PROTOCOL%"), false, &environment).unwrap_err();
    assert_eq!(error, JsonFormatError::NotAnObject);
    let mut deep = json!("x");
    for _ in 0..100 {
        deep = json!({ "k": deep });
    }
    let error = JsonFormat::parse(&deep, false, &environment).unwrap_err();
    assert!(matches!(error, JsonFormatError::TooDeep { .. }));
    let error = JsonFormat::parse(&json!({"a": ["%X%"]}), false, &environment).unwrap_err();
    let JsonFormatError::Format { path, source } = error else {
        panic!("a format error")
    };
    assert_eq!((path.as_str(), source.position), ("a.0", 0));
}

#[test]
fn operators_print_what_they_name() {
    let request = Request {
        flags: ResponseFlags::of(ResponseFlag::NoRouteFound).with(ResponseFlag::UpstreamOverflow),
        grpc: Some(14),
        ..Request::default()
    };
    for (format, expected) in [
        ("%REQ(X-NONE?USER-AGENT):4%", "curl"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/reviews/0"),
        ("%PATH(NQ:PATH)%", "/reviews/0"),
        ("%PATH%", "/reviews/0?x=1&y=%20z"),
        (
            "%QUERY_PARAM(x)%|%QUERY_PARAM(y)%|%QUERY_PARAM(none)%",
            "1| z|-",
        ),
        (
            "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%6f)%",
            "2018/05/29T11:23:20+0000 1527593000.528000",
        ),
        ("%EMIT_TIME(%3f)%", "535"),
        (
            "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "NR,UO NoRouteFound,UpstreamOverflow",
        ),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via upstream"),
        (
            "%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_TX_DURATION%",
            "5 1 -",
        ),
        ("%COMMON_DURATION(US_RX_BEG:DS_TX_END:us)%", "1400"),
        ("%COMMON_DURATION(DS_RX_END:DS_TX_END:ms)%", "-2"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%",
            "10.244.9.9 5555",
        ),
        ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "fd00::1"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://a/b,spiffe://c"),
        (
            "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%",
            "Unavailable UNAVAILABLE 14 14",
        ),
        (
            "%DYNAMIC_METADATA(ns:key:text)% %METADATA(ROUTE:ns:key:number)%",
            "t 4.5",
        ),
        ("%DYNAMIC_METADATA(ns:key):10%", "{\"number\":"),
        (
            "%FILTER_STATE(peer:PLAIN)% %FILTER_STATE(peer:FIELD:workload)% %FILTER_STATE(peer)%",
            "plain reviews-v1 -",
        ),
        (
            "%HOSTNAME% %ENVIRONMENT(HOME)% %ENVIRONMENT(NONE)%",
            "reviews-v1-abc /root -",
        ),
        ("100%% %CONNECTION_ID%", "100% 0"),
        ("%TRAILER(GRPC-MESSAGE)% [%LOCAL_REPLY_BODY%]", "- []"),
    ] {
        assert_eq!(line(format, &request), expected, "{format}");
    }
}

#[test]
fn errors_point_at_what_is_wrong() {
    use FormatErrorKind as K;
    for (format, position, kind) in [
        ("a %FOO% b", 2, K::UnknownOperator("FOO".to_owned())),
        ("a % b", 2, K::StrayPercent),
        ("%REQ(X%", 0, K::StrayPercent),
        ("%req(x)%", 0, K::StrayPercent),
        ("x%REQ%", 1, K::MissingParameters("REQ".to_owned())),
        (
            "%PROTOCOL(x)%",
            0,
            K::UnexpectedParameters("PROTOCOL".to_owned()),
        ),
        (
            "%PROTOCOL:3%",
            0,
            K::UnexpectedLength("PROTOCOL".to_owned()),
        ),
        (
            "%REQ(A):99999999999%",
            0,
            K::InvalidLength("99999999999".to_owned()),
        ),
        (
            "%UPSTREAM_CONNECTION_IDS_ATTEMPTED%",
            0,
            K::Unsupported("UPSTREAM_CONNECTION_IDS_ATTEMPTED".to_owned()),
        ),
    ] {
        assert_eq!(error(format), FormatError { position, kind }, "{format}");
    }
    for format in [
        "%REQ(A?B?C)%",
        "%REQ(a b)%",
        "%START_TIME(%Q)%",
        "%START_TIME(a\nb)%",
        "%COMMON_DURATION(A:B)%",
        "%FILTER_STATE(a:FIELD)%",
        "%METADATA(NONE:a)%",
        "%GRPC_STATUS(x)%",
    ] {
        assert!(
            matches!(error(format).kind, K::InvalidParameters { .. }),
            "{format}"
        );
    }
    assert_eq!(
        error("ab%X%").to_string(),
        "at byte 2: unknown operator `X`"
    );
}

#[test]
fn a_peer_cannot_forge_a_line() {
    let request = Request {
        user_agent: b"a\x1b[2J\tb\x01",
        server_name: "evil\" 200\nnext",
        ..Request::default()
    };
    assert_eq!(line("%REQ(USER-AGENT)%", &request), "a\\x1b[2J\tb\\x01");
    assert_eq!(line("%REQUESTED_SERVER_NAME%", &request), "evil__200_next");
}

#[test]
fn a_cut_falls_between_characters() {
    let request = Request {
        user_agent: "aü€😀".as_bytes(),
        ..Request::default()
    };
    let cut = |max: usize| line(&format!("%REQ(USER-AGENT):{max}%"), &request);
    assert_eq!(cut(0), "");
    assert_eq!(cut(2), "a");
    assert_eq!(cut(3), "aü");
    assert_eq!(cut(9), "aü€");
    assert_eq!(cut(10), "aü€😀");
}

#[test]
fn omitting_empty_values_leaves_nothing_but_the_flags() {
    let format = TextFormat::parse(
        "[%REQ(X-NONE)%] [%ROUTE_NAME%] [%RESPONSE_FLAGS%]",
        true,
        &Environment::default(),
    )
    .unwrap();
    let mut out = Vec::new();
    format.write(&Request::default(), &mut out);
    assert_eq!(out, b"[] [default] [-]");
}

proptest! {
    #[test]
    fn no_format_string_makes_the_parser_panic(format in "[%A-Z_():?0-9 a-zü\n]{0,60}") {
        let _ = TextFormat::parse(&format, false, &Environment::default());
    }

    #[test]
    fn a_format_without_percent_signs_prints_itself(format in "[^%]{0,60}") {
        prop_assert_eq!(line(&format, &Request::default()), format);
    }

    #[test]
    fn any_header_makes_a_readable_json_line(value in prop::collection::vec(any::<u8>(), 0..40)) {
        let request = Request { user_agent: Box::leak(value.into_boxed_slice()), ..Request::default() };
        let tree = json!({ "one": "%REQ(USER-AGENT)%", "two": "x %REQ(USER-AGENT):7%" });
        let format = JsonFormat::parse(&tree, false, &Environment::default()).unwrap();
        let mut out = Vec::new();
        format.write(&request, &mut out);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}

/// A request with two tries.
struct Tried;

impl LogContext for Tried {
    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH
    }

    fn emit_time(&self) -> SystemTime {
        UNIX_EPOCH
    }

    fn attempted(&self, index: usize) -> Option<Attempted<'_>> {
        let hosts = [("10.0.0.1:80", None), ("10.0.0.2:80", Some("b.example:80"))];
        let (address, name) = hosts.get(index)?;
        Some(Attempted {
            address: Address::Ip(address.parse().unwrap()),
            name: *name,
        })
    }
}

#[test]
fn the_hosts_that_were_tried_are_told_in_their_order() {
    let told = |format: &str| {
        let format = TextFormat::parse(format, false, &Environment::default()).unwrap();
        let mut out = Vec::new();
        format.write(&Tried, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        told("%UPSTREAM_HOSTS_ATTEMPTED%"),
        "10.0.0.1:80,10.0.0.2:80"
    );
    assert_eq!(
        told("%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT%"),
        "10.0.0.1,10.0.0.2"
    );
    assert_eq!(
        told("%UPSTREAM_HOST_NAMES_ATTEMPTED%"),
        "10.0.0.1:80,b.example:80"
    );
    assert_eq!(
        told("%UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%"),
        "10.0.0.1,b.example"
    );
    assert_eq!(told("<%CUSTOM_FLAGS%>"), "<>");
    assert_eq!(told("%QUERY_PARAMS%"), "-");
    let id = told("%UNIQUE_ID%");
    assert_eq!(id.len(), 36);
    assert_eq!((&id[14..15], id.matches('-').count()), ("4", 4));
}

#[test]
fn expressions_keep_their_type_in_json_alone() {
    let request = Request::default();
    assert_eq!(
        line("%CEL(list)%|%TYPED_CEL(list)%|%CEL(missing)%", &request),
        "CelList value|CelList value|-"
    );
    assert_eq!(line("%CEL(size(a) > 1 ? 'b' : 'c'):4%", &request), "size");
    let environment = Environment {
        expression: &|text| Ok(Arc::new(text.to_owned())),
        ..Environment::default()
    };
    let tree = json!({"a": "%CEL(list)%", "b": "%TYPED_CEL(list):1%", "c": "<%TYPED_CEL(list)%>"});
    let format = JsonFormat::parse(&tree, false, &environment).unwrap();
    let mut out = Vec::new();
    format.write(&request, &mut out);
    let read: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        read,
        json!({"a": "CelList value", "b": [1, 2], "c": "<CelList value>"})
    );
}

#[test]
fn the_first_operator_with_a_value_is_written() {
    let request = Request::default();
    let of = |operators: &str| {
        line(
            &format!("%COALESCE({{\"operators\": [{operators}]}})%"),
            &request,
        )
    };
    assert_eq!(
        of(r#"{"command": "CEL", "param": "missing"}, {"command": "CEL", "param": "here"}"#),
        "here"
    );
    assert_eq!(
        of(r#"{"command": "FILE_CONTENT", "param": "/etc/motd", "max_length": 3}"#),
        "wel"
    );
    assert_eq!(of(r#"{"command": "CEL", "param": "missing"}"#), "-");
    for (wrong, why) in [
        ("%COALESCE(x)%", "JSON"),
        ("%COALESCE({})%", "operators"),
        (r#"%COALESCE({"operators": []})%"#, "not empty"),
        (r#"%COALESCE({"operators": ["NOBODY"]})%"#, "NOBODY"),
        (
            r#"%COALESCE({"operators": [{"command": "COALESCE"}]})%"#,
            "itself",
        ),
        ("%FILE_CONTENT(/nowhere)%", "cannot be read"),
        ("%SECRET(token)%", "not written into logs"),
        ("%CEL(x)%", "not known here"),
    ] {
        let said = error(wrong).to_string();
        assert!(said.contains(why), "{wrong}: {said}");
    }
}
