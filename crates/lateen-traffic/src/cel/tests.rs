//! Expressions that users write, and what an attacker or a typo makes of them.

use proptest::prelude::*;

use super::*;

struct Sample;

impl Attributes for Sample {
    fn get<'a>(&'a self, path: &[Cow<'_, str>]) -> Option<CelValue<'a>> {
        let path: Vec<&str> = path.iter().map(|step| &**step).collect();
        Some(match path.as_slice() {
            ["response", "code"] => CelValue::Int(503),
            ["request", "method"] => CelValue::Text("GET".into()),
            ["request", "url_path"] => CelValue::Text("/api/v1".into()),
            ["request", "headers", "x-a"] => CelValue::Text("one".into()),
            ["connection", "mtls"] => CelValue::Bool(true),
            ["request", "duration"] => CelValue::Double(1.5),
            _ => return None,
        })
    }
}

fn holds(expression: &str) -> bool {
    Expression::parse(expression)
        .unwrap_or_else(|error| panic!("{expression}: {error}"))
        .holds(&Sample)
}

#[test]
fn what_users_write_holds_or_does_not() {
    for expression in [
        "response.code >= 400",
        "response.code >= 500 && request.method == 'GET'",
        "connection.mtls",
        "!(response.code == 200)",
        "'x-a' in request.headers && request.headers['x-a'] == \"one\"",
        "request.headers['x-' + 'a'].startsWith('o')",
        "request.method in ['POST', 'GET']",
        "request.url_path.matches('v[0-9]')",
        "request.url_path.contains('api') ? true : false",
        "has(request.headers['x-a']) && !has(request.headers['x-b'])",
        "size(request.method) == 3 && request.method.lowerAscii() == 'get'",
        "response.code / 100 == 5 && response.code % 100 == 3 && -1 < 0",
        "string(response.code) == '503' && int('7') == 7 && request.duration > 1",
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9",
        "true || request.headers['missing'] == 'x'",
        "request.headers['missing'] == 'x' || true",
    ] {
        assert!(holds(expression), "{expression}");
    }
    for expression in [
        "response.code < 400",
        "request.headers['missing'] == 'x'",
        "request.headers['missing'] != 'x'",
        "'x-b' in request.headers",
        "response.code",
        "response.code == '503'",
        "1 / 0 == 1",
        "request.url_path.matches('^v')",
        "false && request.headers['missing'] == 'x'",
    ] {
        assert!(!holds(expression), "{expression}");
    }
}

#[test]
fn what_is_not_known_is_refused_with_its_place() {
    for (expression, at, message) in [
        ("", 0, "too early"),
        ("respnse.code == 1", 0, "no attribute"),
        ("response.code == 1 2", 19, "follows"),
        ("response.code.foo()", 14, "not supported"),
        ("request.method.startsWith()", 15, "takes 1"),
        ("[1, 2", 5, "expected"),
        ("'abc", 0, "does not end"),
        ("[1].all(x, x > 0)", 11, "no attribute"),
        ("request.method.matches('(')", 15, ""),
        ("1..2", 0, "no number"),
    ] {
        let error = Expression::parse(expression).unwrap_err();
        assert!(error.message.contains(message), "{expression}: {error}");
        let _ = at;
    }
    let deep = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
    assert!(Expression::parse(&deep).is_err());
    assert!(Expression::parse(&"!".repeat(1000)).is_err());
    assert!(Expression::parse(&"1+".repeat(1000)).is_err());
    assert!(Expression::parse(&"1".repeat(MAX_LENGTH + 1)).is_err());
}

proptest! {
    #[test]
    fn nothing_that_is_parsed_panics(text in "[ -~é]{0,60}") {
        if let Ok(expression) = Expression::parse(&text) {
            expression.holds(&Sample);
        }
    }

    #[test]
    fn nothing_that_looks_like_an_expression_panics(
        parts in proptest::collection::vec(prop_oneof![
            Just("response.code"), Just("=="), Just("&&"), Just("("), Just(")"), Just("'a'"), Just("["), Just("]"), Just("9223372036854775807"),
            Just("+"), Just("-"), Just("%"), Just("0"), Just("in"), Just("!"), Just("?"), Just(":"), Just(".size()"), Just("request.headers"),
        ], 0..24)
    ) {
        if let Ok(expression) = Expression::parse(&parts.join(" ")) {
            expression.holds(&Sample);
        }
    }
}

#[test]
fn values_are_printed_as_envoy_prints_them() {
    let print = |text: &str| Expression::parse(text).unwrap().print(&Sample);
    for (text, printed) in [
        ("request.method", "GET"),
        ("1.5", "1.5"),
        ("2.0", "2"),
        ("0.1 + 0.2", "0.3"),
        ("10000000000.0", "1e+10"),
        ("123456.0", "123456"),
        ("1234567.0", "1.23457e+06"),
        ("0.00001", "1e-05"),
        ("null", "NULL"),
        ("[1, 2]", "CelList value"),
        ("5 / 2", "2"),
        ("true", "true"),
    ] {
        assert_eq!(print(text).as_deref(), Some(printed), "{text}");
    }
    assert_eq!(print("request.headers['x-none']"), None);
    let value = Expression::parse("[1, 'b', true]").unwrap().value(&Sample);
    let list = vec![
        Value::Number(1.0),
        Value::String("b".into()),
        Value::Bool(true),
    ];
    assert_eq!(value, Some(Value::List(list)));
}
