//! Which descriptors requests have, and which buckets those ask.

use http::HeaderMap;

use super::*;
use crate::matcher::{HeaderMatch, StringMatcher};
use crate::request::{ConnectionInfo, FilterState, PeerTls};

fn with<T>(
    path: &str,
    headers: &[(&'static str, &str)],
    ask: impl FnOnce(&RateLimitSubject<'_>) -> T,
) -> T {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let remote = "10.1.2.3:4".parse().unwrap();
    let connection = ConnectionInfo::plain(remote, "10.0.0.1:80".parse().unwrap());
    let (peer, metadata, state) = (PeerTls::default(), Metadata::default(), FilterState::new());
    let request = RequestView {
        method: "GET",
        scheme: "http",
        authority: "a.example",
        path,
        protocol: None,
        headers: &map,
        client: remote,
        connection: &connection,
        peer: &peer,
        dynamic_metadata: &metadata,
        filter_state: &state,
    };
    ask(&RateLimitSubject {
        request: &request,
        route_metadata: &metadata,
        cluster: "outbound|80||b",
        route_name: "default",
        source_cluster: "a.default",
    })
}

fn header(name: &str, optional: bool) -> RateLimitAction {
    RateLimitAction::Header {
        name: HeaderKey::parse(name).unwrap(),
        key: name.trim_start_matches(':').into(),
        optional,
    }
}

fn made(
    actions: Vec<RateLimitAction>,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Option<String> {
    let rule = RateLimitRule {
        stage: 0,
        actions,
        hits: 1,
    };
    let descriptor = with(path, headers, |subject| rule.descriptor(subject))?;
    let entries = descriptor
        .entries
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    Some(entries.collect::<Vec<_>>().join(","))
}

#[test]
fn an_entry_that_cannot_be_made_makes_no_descriptor_unless_it_may_be_left_out() {
    let both = |optional| vec![header("x-user", optional), header(":method", false)];
    let user = [("x-user", "u")];
    assert_eq!(
        made(both(false), "/", &user).as_deref(),
        Some("x-user=u,method=GET")
    );
    assert_eq!(made(both(false), "/", &[]), None);
    assert_eq!(made(both(true), "/", &[]).as_deref(), Some("method=GET"));
    assert_eq!(
        made(vec![header("x-user", true)], "/", &[]),
        None,
        "nothing is left"
    );
}

#[test]
fn entries_come_from_addresses_queries_formats_and_matches() {
    let value = |text: &str, default: &str| EntryValue {
        format: Format::parse(text).unwrap(),
        default: default.into(),
    };
    let query = |name: &str| RateLimitAction::Query {
        name: name.into(),
        key: "q".into(),
        optional: false,
    };
    let cases = [
        (
            RateLimitAction::RemoteAddress,
            Some("remote_address=10.1.2.3"),
        ),
        (
            RateLimitAction::MaskedRemoteAddress { v4: 16, v6: 64 },
            Some("masked_remote_address=10.1.0.0/16"),
        ),
        (
            RateLimitAction::DestinationCluster,
            Some("destination_cluster=outbound|80||b"),
        ),
        (
            RateLimitAction::SourceCluster,
            Some("source_cluster=a.default"),
        ),
        (query("b"), Some("q=2")),
        (query("c"), None),
        (
            RateLimitAction::Generic {
                key: "k".into(),
                value: value("%REQ(x-user)%", ""),
            },
            Some("k=u"),
        ),
        (
            RateLimitAction::Generic {
                key: "k".into(),
                value: value("%REQ(x-none)%", "d"),
            },
            Some("k=d"),
        ),
        (
            RateLimitAction::HeaderMatch {
                key: "m".into(),
                value: value("yes", ""),
                expect: false,
                headers: vec![HeaderMatcher {
                    key: HeaderKey::parse("x-user").unwrap(),
                    condition: HeaderMatch::String(StringMatcher::exact("u")),
                    invert: false,
                    missing_as_empty: false,
                }],
            },
            None,
        ),
        (
            RateLimitAction::AddressMatch {
                key: "n".into(),
                value: value("inside", ""),
                ranges: vec!["10.0.0.0/8".parse().unwrap()],
                invert: false,
            },
            Some("n=inside"),
        ),
    ];
    for (action, expected) in cases {
        let text = format!("{action:?}");
        let got = made(vec![action], "/p?a=1&b=2", &[("x-user", "u")]);
        assert_eq!(got.as_deref(), expected, "{text}");
    }
}

#[test]
fn an_empty_value_stands_for_any() {
    let bucket = TokenBucket {
        max_tokens: 1,
        tokens_per_fill: 1,
        fill_interval: Duration::from_secs(1),
    };
    let limited = |value: &str| LimitedDescriptor {
        entries: vec![("user".into(), value.into())],
        bucket,
        shadow: false,
    };
    let asked = |key: &str, value: &str| Descriptor {
        entries: vec![(key.into(), value.to_owned())],
        hits: 1,
    };
    assert!(limited("a").fits(&asked("user", "a")) && !limited("a").is_dynamic());
    assert!(!limited("a").fits(&asked("user", "b")));
    assert!(limited("").fits(&asked("user", "b")) && limited("").is_dynamic());
    assert!(!limited("").fits(&asked("path", "b")));
}
