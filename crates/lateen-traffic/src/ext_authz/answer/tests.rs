//! Tests of what authorizers' answers mean.

use std::time::Duration;

use super::*;
use crate::matcher::StringPattern;

fn service() -> HttpService {
    let prefix = |text: &str| vec![StringMatcher::new(StringPattern::Prefix(text.into()), true)];
    HttpService {
        cluster: "authz".into(),
        timeout: Duration::from_secs(1),
        path_prefix: "".into(),
        path_override: None,
        headers_to_add: vec![],
        to_upstream: prefix("x-up"),
        append_to_upstream: prefix("x-more"),
        to_client_on_deny: prefix("x-deny"),
        to_client_on_allow: prefix("x-allow"),
        to_metadata: vec![],
    }
}

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn allowed(verdict: Verdict) -> Allowance {
    match verdict {
        Verdict::Allowed(allowance) => allowance,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_listed_headers_reach_the_upstream_and_the_client() {
    let answer = headers(&[
        ("x-up-a", "1"),
        ("x-more", "2"),
        ("x-allow", "3"),
        ("x-secret", "4"),
        ("x-envoy-auth-headers-to-remove", "authorization, cookie"),
    ]);
    let allowance = allowed(service().verdict(200, &answer, Bytes::new()));
    let mut request = headers(&[
        ("x-up-a", "forged"),
        ("x-more", "0"),
        ("authorization", "t"),
    ]);
    allowance.apply(&mut request);
    assert_eq!(request, headers(&[("x-up-a", "1"), ("x-more", "0,2")]));
    let to_client: Vec<_> = allowance.response.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(to_client, ["x-allow"]);
}

#[test]
fn a_denial_keeps_what_an_answer_cannot_do_without() {
    let answer = headers(&[
        ("x-deny-why", "no"),
        ("location", "/login"),
        ("set-cookie", "a=b"),
        ("content-length", "4"),
    ]);
    let Verdict::Denied(denial) = service().verdict(302, &answer, "body".into()) else {
        panic!("allowed")
    };
    let names: Vec<_> = denial.headers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["x-deny-why", "location"]);
    assert_eq!((denial.status, &*denial.body), (302, &b"body"[..]));
    let all = HttpService {
        to_client_on_deny: vec![],
        ..service()
    };
    let Verdict::Denied(denial) = all.verdict(401, &answer, Bytes::new()) else {
        panic!("allowed")
    };
    assert_eq!(denial.headers.len(), 3, "all but the length");
}

#[test]
fn a_server_error_is_a_failure_and_only_200_allows() {
    for (status, failed) in [
        (500, true),
        (503, true),
        (201, false),
        (204, false),
        (404, false),
    ] {
        let verdict = service().verdict(status, &HeaderMap::new(), Bytes::new());
        assert_eq!(verdict == Verdict::Failed, failed, "{status}");
        assert!(!matches!(verdict, Verdict::Allowed(_)), "{status}");
    }
}

#[test]
fn queries_are_changed_by_key() {
    let allowance = Allowance {
        set_query: vec![("a".into(), "9".into()), ("c".into(), "3".into())],
        remove_query: vec!["b".into()],
        ..Allowance::default()
    };
    assert_eq!(allowance.path("/x?a=1&b=2&d").unwrap(), "/x?d&a=9&c=3");
    assert_eq!(allowance.path("/x").unwrap(), "/x?a=9&c=3");
    let removal = Allowance {
        remove_query: vec!["b".into()],
        ..Allowance::default()
    };
    assert_eq!(removal.path("/x?b=1").unwrap(), "/x");
    assert_eq!(Allowance::default().path("/x?b"), None);
}

#[test]
fn each_way_of_changing_a_header_minds_what_is_there() {
    let change = |how| Change {
        name: HeaderName::from_static("x"),
        value: HeaderValue::from_static("new"),
        how,
    };
    let after = |how, before: &[(&'static str, &'static str)]| {
        let mut headers = headers(before);
        change(how).apply(&mut headers);
        let values = headers.get_all("x").iter();
        values
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let old = [("x", "old")];
    assert_eq!(after(How::Add, &old), ["old", "new"]);
    assert_eq!(after(How::Append, &old), ["old,new"]);
    assert!(after(How::Append, &[]).is_empty());
    assert_eq!(after(How::AddIfAbsent, &old), ["old"]);
    assert_eq!(after(How::AddIfAbsent, &[]), ["new"]);
    assert_eq!(after(How::Overwrite, &old), ["new"]);
    assert!(after(How::OverwriteIfPresent, &[]).is_empty());
}

/// Class: smuggling by way of an authorizer that hands on what a client sent it. Outcome: framing stays what the message's own body says.
#[test]
fn an_authorizer_does_not_say_how_a_message_is_framed() {
    let own = [("content-length", "5"), ("x-a", "b")];
    let mut there = headers(&own);
    let mut allowance = Allowance::default();
    for how in [
        How::Add,
        How::Append,
        How::Overwrite,
        How::OverwriteIfPresent,
    ] {
        for (name, value) in [
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-a"),
            ("upgrade", "h2c"),
        ] {
            let (name, value) = (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
            allowance.request.push(Change::new(&name, &value, how));
        }
    }
    allowance.remove = vec![header::CONTENT_LENGTH, header::HOST];
    allowance.apply(&mut there);
    assert_eq!(there, headers(&own));
}
