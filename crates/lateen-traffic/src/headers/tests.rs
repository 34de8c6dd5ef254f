//! Tests of header changes and authorities.

use super::*;
use crate::format::{Command, RequestValues};
use crate::testing::Request;

struct Nothing;

impl Values for Nothing {
    fn write(&self, command: &Command, out: &mut String) -> bool {
        if &*command.name == "BAD" {
            out.push_str("a\r\nx-evil: 1");
            return true;
        }
        false
    }
}

fn applied(action: AppendAction, value: &str, before: &[&str]) -> Vec<String> {
    let name = HeaderName::from_static("x");
    let mut headers = HeaderMap::new();
    for value in before {
        headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    let add = HeaderAdd {
        name: name.clone(),
        value: Format::parse(value).unwrap(),
        action,
        keep_empty: false,
    };
    HeaderMutations {
        remove: vec![],
        add: vec![add],
    }
    .apply(&mut headers, &Nothing);
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn append_actions_do_what_they_say() {
    use AppendAction::*;
    assert_eq!(applied(AppendIfExistsOrAdd, "n", &["o"]), ["o", "n"]);
    assert_eq!(applied(AddIfAbsent, "n", &["o"]), ["o"]);
    assert_eq!(applied(AddIfAbsent, "n", &[]), ["n"]);
    assert_eq!(applied(OverwriteIfExistsOrAdd, "n", &["o", "p"]), ["n"]);
    assert_eq!(applied(OverwriteIfExists, "n", &[]), Vec::<String>::new());
    assert_eq!(applied(OverwriteIfExists, "n", &["o"]), ["n"]);
}

#[test]
fn a_value_that_is_empty_or_no_header_value_is_left_out() {
    assert_eq!(
        applied(AppendAction::AppendIfExistsOrAdd, "%NONE%", &[]),
        Vec::<String>::new()
    );
    assert_eq!(
        applied(AppendAction::AppendIfExistsOrAdd, "%BAD%", &[]),
        Vec::<String>::new()
    );
}

#[test]
fn headers_are_removed_before_others_are_added() {
    let mut headers = HeaderMap::new();
    headers.insert("x", HeaderValue::from_static("old"));
    let add = HeaderAdd {
        name: HeaderName::from_static("x"),
        value: Format::literal("new"),
        action: AppendAction::AppendIfExistsOrAdd,
        keep_empty: false,
    };
    HeaderMutations {
        remove: vec![HeaderName::from_static("x")],
        add: vec![add],
    }
    .apply(&mut headers, &Nothing);
    assert_eq!(headers.get_all("x").iter().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn request_values_are_written() {
    let request = Request::new("GET", "a.example", "/p").header("x-user", "jason");
    let view = request.view();
    let values = RequestValues {
        request: &view,
        protocol: "HTTP/1.1",
        route_name: "default",
        cluster: "c",
    };
    let rendered = |text: &str| Format::parse(text).unwrap().render(&values).into_owned();
    assert_eq!(rendered("%REQ(x-user)%"), "jason");
    assert_eq!(rendered("%REQ(none?:authority)%"), "a.example");
    assert_eq!(
        rendered("u=%REQ(none)% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        "u=- 10.0.0.1"
    );
    assert_eq!(rendered("%REQ(x-user):3%|100%%"), "jas|100%");
    assert_eq!(rendered("%REQ(none)%"), "");
}

#[test]
fn only_a_port_is_taken_for_a_port() {
    for (host, bare) in [
        ("a.example:8080", "a.example"),
        ("a.example", "a.example"),
        ("a.example:", "a.example:"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
        ("a:b", "a:b"),
    ] {
        assert_eq!(without_port(host), bare, "{host}");
    }
}

#[test]
fn authorities_are_stripped_as_asked() {
    let strip = |host, mode, dot| normalize_authority(host, mode, 80, dot).into_owned();
    assert_eq!(strip("a:80", StripPort::Never, false), "a:80");
    assert_eq!(strip("a:80", StripPort::Matching, false), "a");
    assert_eq!(strip("a:81", StripPort::Matching, false), "a:81");
    assert_eq!(strip("a:81", StripPort::Any, false), "a");
    assert_eq!(strip("a.:81", StripPort::Never, true), "a:81");
    assert_eq!(strip("a.", StripPort::Never, true), "a");
}
