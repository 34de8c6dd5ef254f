//! What httpbin says about the request it got.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use serde_json::{Map, Value, json};

use super::{Asked, Flavor};
use crate::bookinfo::page::percent_decoded;

/// Headers that the Python flavour takes for its platform's and hides, unless `show_env` is asked for.
const HIDDEN: [&str; 11] = [
    "connection",
    "via",
    "x-forwarded-for",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-ssl",
    "x-heroku-queue-depth",
    "x-real-ip",
    "x-request-start",
    "x-varnish",
];

/// The answer of `/get`.
pub(super) fn get(asked: &Asked) -> Value {
    let mut answer = Map::new();
    answer.insert("args".to_owned(), args(asked));
    answer.insert("headers".to_owned(), headers(asked));
    if asked.flavor == Flavor::Go {
        answer.insert("method".to_owned(), json!(asked.head.method.as_str()));
    }
    answer.insert("origin".to_owned(), json!(origin(asked)));
    answer.insert("url".to_owned(), json!(url(asked)));
    Value::Object(answer)
}

/// The answer of `/post` and its kind: with what the body holds.
pub(super) fn whole(asked: &Asked) -> Value {
    let mut answer = get(asked);
    let content_type = header(&asked.head.headers, CONTENT_TYPE.as_str());
    let body = String::from_utf8_lossy(&asked.body);
    let is_form = content_type.starts_with("application/x-www-form-urlencoded");
    answer["data"] = match (is_form, std::str::from_utf8(&asked.body)) {
        (true, _) => json!(""),
        (false, Ok(text)) => json!(text),
        (false, Err(_)) => json!(format!(
            "data:application/octet-stream;base64,{}",
            STANDARD.encode(&asked.body)
        )),
    };
    answer["files"] = json!({});
    answer["form"] = if is_form {
        pairs(&body, asked.flavor)
    } else {
        json!({})
    };
    answer["json"] = serde_json::from_slice(&asked.body).unwrap_or(Value::Null);
    if asked.flavor == Flavor::Python {
        sort(&mut answer);
    }
    answer
}

/// The answer of `/anything`.
pub(super) fn anything(asked: &Asked) -> Value {
    let mut answer = whole(asked);
    answer["method"] = json!(asked.head.method.as_str());
    if asked.flavor == Flavor::Python {
        sort(&mut answer);
    }
    answer
}

/// Python's flavour sorts its keys.
fn sort(answer: &mut Value) {
    if let Value::Object(map) = answer {
        map.sort_keys();
    }
}

/// The request's headers, under their names as people write them.
pub(super) fn headers(asked: &Asked) -> Value {
    let head = &asked.head;
    let hide = asked.flavor == Flavor::Python
        && !head
            .uri
            .query()
            .is_some_and(|query| query.contains("show_env"));
    let mut names: Vec<&str> = head.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let mut answer = Map::new();
    // HTTP/2 carries the host outside of the headers.
    if !head.headers.contains_key(HOST)
        && let Some(host) = head.uri.authority()
    {
        answer.insert("Host".to_owned(), shown(asked.flavor, &[host.to_string()]));
    }
    for name in names {
        if hide && HIDDEN.contains(&name) {
            continue;
        }
        let values = head.headers.get_all(name).into_iter();
        let values: Vec<String> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        answer.insert(title_case(name), shown(asked.flavor, &values));
    }
    answer.sort_keys();
    Value::Object(answer)
}

fn shown(flavor: Flavor, values: &[String]) -> Value {
    match flavor {
        Flavor::Go => json!(values),
        Flavor::Python => json!(values.join(",")),
    }
}

/// `x-request-id` as `X-Request-Id`.
fn title_case(name: &str) -> String {
    let mut start = true;
    let mut title = |c: char| {
        let upper = start;
        start = c == '-';
        if upper { c.to_ascii_uppercase() } else { c }
    };
    name.chars().map(&mut title).collect()
}

/// The query's parameters.
pub(super) fn args(asked: &Asked) -> Value {
    pairs(asked.head.uri.query().unwrap_or_default(), asked.flavor)
}

/// Name and value of each pair of a query or form.
pub(super) fn decoded_pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn pairs(text: &str, flavor: Flavor) -> Value {
    let mut map: Map<String, Value> = Map::new();
    for (name, value) in decoded_pairs(text) {
        let slot = map.entry(name).or_insert(Value::Null);
        *slot = match (slot.take(), flavor) {
            (Value::Null, Flavor::Python) => json!(value),
            (Value::Null, Flavor::Go) => json!([value]),
            (Value::Array(mut values), _) => {
                values.push(json!(value));
                Value::Array(values)
            }
            (first, _) => json!([first, value]),
        };
    }
    map.sort_keys();
    Value::Object(map)
}

/// Who asked, as far as proxies before us say.
pub(super) fn origin(asked: &Asked) -> String {
    match header(&asked.head.headers, "x-forwarded-for") {
        "" => asked.peer.ip().to_string(),
        forwarded if asked.flavor == Flavor::Python => forwarded.to_owned(),
        forwarded => forwarded
            .split(',')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned(),
    }
}

/// The URL that was asked for, as the client saw it.
pub(super) fn url(asked: &Asked) -> String {
    let head = &asked.head;
    let scheme = match header(&head.headers, "x-forwarded-proto") {
        "https" => "https",
        _ => "http",
    };
    let host = match header(&head.headers, "host") {
        "" => head
            .uri
            .authority()
            .map_or("localhost", |authority| authority.as_str()),
        host => host,
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{scheme}://{host}{path}")
}

/// A header's first value, if it is text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
