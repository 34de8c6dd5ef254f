//! Requests made of what rules ask for: every literal of the rules, something near it, and nothing, in many combinations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use lateen_traffic::rbac::Subject;
use lateen_traffic::value::{Metadata, Value as MetadataValue};
use lateen_traffic::{ConnectionInfo, PeerTls, RequestView};
use serde_json::Value;

/// Requests drawn beside those that differ from the plain one in a single place.
const DRAWN: usize = 6000;

/// What the rules ask for, by the place where it stands in a request.
#[derive(Debug, Default)]
pub(super) struct Pool {
    places: BTreeMap<Place, BTreeSet<String>>,
}

/// A place in a request or connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Header(String),
    Path,
    Port,
    /// The destination's address.
    Destination,
    /// The address of the socket's peer.
    Source,
    /// The address of the client.
    Client,
    ServerName,
    Identity,
    /// The filter, the path of keys, and whether the value is a list.
    Metadata(String, Vec<String>, bool),
    FilterState(String),
}

/// One request.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    values: BTreeMap<Place, String>,
}

impl Pool {
    /// Takes every literal out of a filter.
    pub(super) fn collect(&mut self, filter: &Value) {
        match filter {
            Value::Array(items) => items.iter().for_each(|item| self.collect(item)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.collect_field(key, value);
                }
            }
            _ => {}
        }
    }

    fn collect_field(&mut self, key: &str, value: &Value) {
        match key {
            "header" => {
                let name = text(value, "/name");
                self.put(Place::Header(name), header_samples(value));
            }
            "url_path" => self.put(Place::Path, value.pointer("/path").map(samples)),
            "uri_template" => {
                let template = text(value, "/typed_config/path_template");
                self.put(Place::Path, Some(template_samples(&template)));
            }
            "destination_port" => {
                let port = value.as_u64().unwrap_or(0);
                self.put(
                    Place::Port,
                    Some(vec![port.to_string(), (port + 1).to_string()]),
                );
            }
            "destination_ip" => self.put(Place::Destination, Some(range_samples(value))),
            "source_ip" | "direct_remote_ip" => self.put(Place::Source, Some(range_samples(value))),
            "remote_ip" => self.put(Place::Client, Some(range_samples(value))),
            "requested_server_name" => self.put(Place::ServerName, Some(samples(value))),
            "authenticated" => {
                let names = value.pointer("/principal_name").map(samples);
                self.put(Place::Identity, names.or_else(|| Some(Vec::new())));
            }
            "typed_config" if value.get("san_matcher").is_some() => {
                self.put(
                    Place::Identity,
                    value.pointer("/san_matcher/matcher").map(samples),
                );
            }
            "filter_state" => {
                let name = text(value, "/key");
                self.put(
                    Place::FilterState(name),
                    value.pointer("/string_match").map(samples),
                );
            }
            "metadata" | "sourced_metadata" if value.pointer("/filter").is_some() => {
                self.put(
                    metadata_place(value),
                    value.pointer("/value").map(value_samples),
                );
            }
            "metadata_matcher" => {
                self.put(
                    metadata_place(value),
                    value.pointer("/value").map(value_samples),
                );
            }
            _ => self.collect(value),
        }
    }

    fn put(&mut self, place: Place, values: Option<Vec<String>>) {
        let list = self.places.entry(place).or_default();
        list.insert("anything-else".to_owned());
        list.extend(values.unwrap_or_default());
    }

    /// The requests: the plain one, each with one value, then drawn ones. The draw is the same in every run.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut out = vec![Sample::default()];
        for (place, values) in &self.places {
            out.extend(values.iter().map(|value| Sample {
                values: BTreeMap::from([(place.clone(), value.clone())]),
            }));
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..DRAWN {
            let mut values = BTreeMap::new();
            for (place, list) in &self.places {
                let chosen = draw(&mut state) % (list.len() as u64 + 1);
                if let Some(value) = list.iter().nth(usize::try_from(chosen).unwrap_or(0)) {
                    values.insert(place.clone(), value.clone());
                }
            }
            out.push(Sample { values });
        }
        out
    }
}

/// xorshift64*: no more than an even spread is needed.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn metadata_place(matcher: &Value) -> Place {
    let path = matcher.pointer("/path").and_then(Value::as_array);
    let keys = path
        .into_iter()
        .flatten()
        .map(|segment| text(segment, "/key"))
        .collect();
    let is_list = matcher.pointer("/value/list_match").is_some();
    Place::Metadata(text(matcher, "/filter"), keys, is_list)
}

/// Texts for a string matcher: ones that match, and near ones that do not.
fn samples(matcher: &Value) -> Vec<String> {
    let Some(fields) = matcher.as_object() else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (kind, value) in fields {
        match (kind.as_str(), value.as_str()) {
            ("exact", Some(text)) => out.extend([text.to_owned(), format!("{text}x")]),
            ("prefix", Some(text)) => {
                out.extend([text.to_owned(), format!("{text}x"), format!("x{text}")]);
            }
            ("suffix" | "contains", Some(text)) => {
                out.extend([text.to_owned(), format!("x{text}"), format!("{text}x")]);
            }
            ("safe_regex", _) => {
                let expression = self::text(value, "/regex");
                out.extend([plain(&expression, "x"), plain(&expression, "")]);
                out.push(format!("{}x", plain(&expression, "x")));
            }
            _ => {}
        }
    }
    let upper: Vec<String> = out.iter().map(|text| text.to_uppercase()).collect();
    out.extend(upper);
    out
}

/// A text that an expression of the kind Istio writes matches: wildcards filled in, the rest as it is.
fn plain(expression: &str, fill: &str) -> String {
    [".*", ".+", "[^/]*", "[^/]+", "\\S+"]
        .iter()
        .fold(expression.to_owned(), |text, wild| text.replace(wild, fill))
        .replace("\\.", ".")
        .replace(['^', '$', '(', ')', '?', '\\'], "")
}

fn header_samples(matcher: &Value) -> Option<Vec<String>> {
    if let Some(string) = matcher.get("string_match") {
        return Some(samples(string));
    }
    let legacy: Vec<String> = [
        ("exact_match", "exact"),
        ("prefix_match", "prefix"),
        ("suffix_match", "suffix"),
        ("contains_match", "contains"),
        ("safe_regex_match", "safe_regex"),
    ]
    .iter()
    .filter_map(|(old, new)| Some(serde_json::json!({*new: matcher.get(*old)?})))
    .flat_map(|string| samples(&string))
    .collect();
    Some(legacy)
}

fn value_samples(matcher: &Value) -> Vec<String> {
    let nested = ["/string_match", "/list_match/one_of/string_match"];
    let mut out: Vec<String> = nested
        .iter()
        .filter_map(|pointer| matcher.pointer(pointer))
        .flat_map(samples)
        .collect();
    let any = matcher
        .pointer("/or_match/value_matchers")
        .and_then(Value::as_array);
    out.extend(any.into_iter().flatten().flat_map(value_samples));
    out
}

fn template_samples(template: &str) -> Vec<String> {
    let fill = |one: &str, many: &str| {
        template
            .replace("{**}", many)
            .replace("**", many)
            .replace("{*}", one)
            .replace('*', one)
    };
    vec![
        fill("a", "b/c"),
        fill("a/b", "b"),
        fill("", ""),
        template.to_owned(),
    ]
}

/// The first address of a range, and one outside.
fn range_samples(range: &Value) -> Vec<String> {
    vec![text(range, "/address_prefix"), "198.51.100.7".to_owned()]
}

impl Sample {
    fn get(&self, place: &Place) -> Option<&str> {
        self.values.get(place).map(String::as_str)
    }

    fn address(&self, place: &Place) -> SocketAddr {
        let ip: Option<IpAddr> = self.get(place).and_then(|text| text.parse().ok());
        SocketAddr::new(ip.unwrap_or(IpAddr::from([192, 0, 2, 1])), 40_000)
    }

    /// Shows the request to the rules, as a request or as the connection alone.
    pub(super) fn with<T>(&self, http: bool, look: impl FnOnce(&Subject<'_>) -> T) -> T {
        let port = self.get(&Place::Port).and_then(|text| text.parse().ok());
        let mut local = self.address(&Place::Destination);
        local.set_port(port.unwrap_or(8000));
        let source = self.address(&Place::Source);
        let connection = ConnectionInfo {
            server_name: self.get(&Place::ServerName),
            ..ConnectionInfo::plain(source, local)
        };
        let identities: Vec<String> = self
            .get(&Place::Identity)
            .map(str::to_owned)
            .into_iter()
            .collect();
        let peer = PeerTls {
            is_tls: !identities.is_empty(),
            presented: !identities.is_empty(),
            validated: !identities.is_empty(),
            uri_sans: &identities,
            ..PeerTls::default()
        };
        let (metadata, state, headers) = (self.metadata(), self.filter_state(), self.headers());
        let header = |name: &str| self.get(&Place::Header(name.to_owned()));
        let request = RequestView {
            method: header(":method").unwrap_or("GET"),
            scheme: header(":scheme").unwrap_or("http"),
            authority: header(":authority").unwrap_or("plain.example.com"),
            path: self
                .get(&Place::Path)
                .or_else(|| header(":path"))
                .unwrap_or("/plain"),
            protocol: None,
            headers: &headers,
            client: self.address(&Place::Client),
            connection: &connection,
            peer: &peer,
            dynamic_metadata: &metadata,
            filter_state: &state,
        };
        let subject = Subject {
            connection: &connection,
            peer: &peer,
            request: http.then_some(&request),
            dynamic_metadata: &metadata,
            filter_state: &state,
        };
        look(&subject)
    }

    fn headers(&self) -> HeaderMap {
        self.values
            .iter()
            .filter_map(|(place, value)| match place {
                Place::Header(name) if !name.starts_with(':') => {
                    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                    Some((name, HeaderValue::from_str(value).ok()?))
                }
                _ => None,
            })
            .collect()
    }

    fn filter_state(&self) -> lateen_traffic::request::FilterState {
        self.values
            .iter()
            .filter_map(|(place, value)| match place {
                Place::FilterState(key) => Some((key.as_str().into(), value.as_str().into())),
                _ => None,
            })
            .collect()
    }

    /// What authentication would have left behind.
    fn metadata(&self) -> Metadata {
        let mut roots: BTreeMap<&str, BTreeMap<std::sync::Arc<str>, MetadataValue>> =
            BTreeMap::new();
        for (place, value) in &self.values {
            let Place::Metadata(filter, keys, is_list) = place else {
                continue;
            };
            let text = MetadataValue::String(value.as_str().into());
            let leaf = if *is_list {
                MetadataValue::List(vec![text])
            } else {
                text
            };
            insert(roots.entry(filter.as_str()).or_default(), keys, leaf);
        }
        let mut out = Metadata::default();
        for (filter, fields) in roots {
            out.set(filter, MetadataValue::Struct(fields));
        }
        out
    }
}

fn insert(
    fields: &mut BTreeMap<std::sync::Arc<str>, MetadataValue>,
    keys: &[String],
    leaf: MetadataValue,
) {
    let Some((first, rest)) = keys.split_first() else {
        return;
    };
    if rest.is_empty() {
        fields.insert(first.as_str().into(), leaf);
        return;
    }
    let entry = fields
        .entry(first.as_str().into())
        .or_insert_with(|| MetadataValue::Struct(BTreeMap::new()));
    if let MetadataValue::Struct(inner) = entry {
        insert(inner, rest, leaf);
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.values.is_empty() {
            return f.write_str("a plain request");
        }
        f.write_str("a request with")?;
        for (place, value) in &self.values {
            write!(f, " {place:?}={value:?}")?;
        }
        Ok(())
    }
}
