//! What an authorizer's answer means for the request.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::HttpService;
use crate::matcher::StringMatcher;
use crate::value::Value;

/// Names the request headers an HTTP authorizer wants taken away.
static TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// What an authorizer decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The request goes on, changed.
    Allowed(Allowance),
    /// It is answered.
    Denied(Denial),
    /// The authorizer failed, which is no answer.
    Failed,
}

/// Changes to a request that goes on, and to its answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowance {
    /// Changes to the request's headers.
    pub request: Vec<Change>,
    /// Headers the request loses.
    pub remove: Vec<HeaderName>,
    /// Changes to the answer's headers.
    pub response: Vec<Change>,
    /// Query parameters the request gets.
    pub set_query: Vec<(String, String)>,
    /// Query parameters the request loses.
    pub remove_query: Vec<String>,
    /// What the filter's dynamic metadata becomes.
    pub metadata: Option<Value>,
}

/// The answer of a request that is denied.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<Change>,
    /// Its body.
    pub body: Bytes,
    /// What the filter's dynamic metadata becomes.
    pub metadata: Option<Value>,
}

/// A change to one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What becomes of values that are there.
    pub how: How,
}

/// What becomes of values that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// They stay, and this is one more.
    Add,
    /// This is appended to the last of them, after a comma; nothing is done if there is none.
    Append,
    /// They stay alone.
    AddIfAbsent,
    /// They go.
    Overwrite,
    /// They go; nothing is done if there is none.
    OverwriteIfPresent,
}

impl Change {
    /// Replaces what is there.
    pub fn overwrite(name: &HeaderName, value: &HeaderValue) -> Self {
        Self::new(name, value, How::Overwrite)
    }

    fn new(name: &HeaderName, value: &HeaderValue, how: How) -> Self {
        Self {
            name: name.clone(),
            value: value.clone(),
            how,
        }
    }

    /// Changes headers. How a message is framed is no authorizer's to say: it may hand on what a client sent it, and two lengths are what
    /// smuggling is made of.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if frames(&self.name) {
            return;
        }
        let present = headers.contains_key(&self.name);
        match self.how {
            How::AddIfAbsent if present => {}
            How::OverwriteIfPresent | How::Append if !present => {}
            How::Add | How::AddIfAbsent => {
                headers.append(self.name.clone(), self.value.clone());
            }
            How::Append => append(headers, &self.name, &self.value),
            How::Overwrite | How::OverwriteIfPresent => {
                headers.insert(self.name.clone(), self.value.clone());
            }
        }
    }
}

/// Whether a header is about a message's framing or its connection.
fn frames(name: &HeaderName) -> bool {
    const OTHERS: [&str; 2] = ["keep-alive", "proxy-connection"];
    *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
        || *name == header::UPGRADE
        || *name == header::TRAILER
        || OTHERS.contains(&name.as_str())
}

/// Joins values into one, as Envoy's `appendCopy` does.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let mut joined = Vec::new();
    for known in headers.get_all(name).iter().chain([value]) {
        if !joined.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(known.as_bytes());
    }
    // Values of headers joined by commas are a header's value.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name.clone(), joined);
    }
}

impl Allowance {
    /// Whether it changes anything that routes may look at.
    pub fn changes_request(&self) -> bool {
        !self.request.is_empty()
            || !self.remove.is_empty()
            || !self.set_query.is_empty()
            || !self.remove_query.is_empty()
    }

    /// Changes a request's headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for change in &self.request {
            change.apply(headers);
        }
        let own = |name: &&HeaderName| **name != header::HOST && !frames(name);
        for name in self.remove.iter().filter(own) {
            headers.remove(name);
        }
    }

    /// The path with its query changed; `None` if nothing changes.
    pub fn path(&self, path: &str) -> Option<String> {
        if self.set_query.is_empty() && self.remove_query.is_empty() {
            return None;
        }
        let (before, query) = path.split_once('?').unwrap_or((path, ""));
        let key = |part: &str| part.split('=').next().unwrap_or_default().to_owned();
        let replaced = |part: &str| {
            let key = key(part);
            self.remove_query.contains(&key) || self.set_query.iter().any(|(k, _)| *k == key)
        };
        let mut parts: Vec<String> = query
            .split('&')
            .filter(|part| !part.is_empty() && !replaced(part))
            .map(str::to_owned)
            .collect();
        let set = self.set_query.iter();
        parts.extend(
            set.filter(|(key, _)| !self.remove_query.contains(key))
                .map(|(key, value)| format!("{key}={value}")),
        );
        Some(match parts.is_empty() {
            true => before.to_owned(),
            false => format!("{before}?{}", parts.join("&")),
        })
    }
}

impl HttpService {
    /// What an answer means: 200 allows, 5xx is a failure, anything else denies.
    pub fn verdict(&self, status: u16, headers: &HeaderMap, body: Bytes) -> Verdict {
        match status {
            200 => Verdict::Allowed(self.allowance(headers)),
            500..=599 => Verdict::Failed,
            status => Verdict::Denied(Denial {
                status,
                headers: self.denial_headers(headers),
                body,
                metadata: self.metadata(headers),
            }),
        }
    }

    fn allowance(&self, headers: &HeaderMap) -> Allowance {
        let chosen = |list: &[StringMatcher], how: How| -> Vec<Change> {
            headers
                .iter()
                .filter(|(name, _)| matches_any(list, name))
                .map(|(name, value)| Change::new(name, value, how))
                .collect()
        };
        let mut request = first_overwrites(chosen(&self.to_upstream, How::Add));
        request.extend(chosen(&self.append_to_upstream, How::Append));
        Allowance {
            request,
            remove: removals(headers),
            response: chosen(&self.to_client_on_allow, How::Add),
            metadata: self.metadata(headers),
            ..Allowance::default()
        }
    }

    /// Without a list the client gets all of them; with one it gets the headers an answer cannot do without, too.
    fn denial_headers(&self, headers: &HeaderMap) -> Vec<Change> {
        let needed = [header::WWW_AUTHENTICATE, header::LOCATION];
        let given = |name: &HeaderName| {
            if self.to_client_on_deny.is_empty() {
                return name != header::HOST;
            }
            needed.contains(name) || matches_any(&self.to_client_on_deny, name)
        };
        headers
            .iter()
            // The body's length and framing are the answer's own.
            .filter(|(name, _)| {
                given(name)
                    && **name != header::CONTENT_LENGTH
                    && **name != header::TRANSFER_ENCODING
                    && **name != header::CONNECTION
            })
            .map(|(name, value)| Change::new(name, value, How::Add))
            .collect()
    }

    fn metadata(&self, headers: &HeaderMap) -> Option<Value> {
        if self.to_metadata.is_empty() {
            return None;
        }
        let fields = headers
            .iter()
            .filter(|(name, _)| matches_any(&self.to_metadata, name))
            .map(|(name, value)| {
                let text = String::from_utf8_lossy(value.as_bytes());
                (Arc::from(name.as_str()), Value::String(text.into()))
            });
        Some(Value::Struct(fields.collect()))
    }
}

/// Of headers that come twice the first replaces what the request has, and the others join it.
fn first_overwrites(mut changes: Vec<Change>) -> Vec<Change> {
    let mut seen: Vec<HeaderName> = Vec::new();
    for change in &mut changes {
        if !seen.contains(&change.name) {
            change.how = How::Overwrite;
            seen.push(change.name.clone());
        }
    }
    changes
}

fn matches_any(list: &[StringMatcher], name: &HeaderName) -> bool {
    list.iter()
        .any(|matcher| matcher.matches(name.as_str().as_bytes()))
}

fn removals(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(&TO_REMOVE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect()
}

#[cfg(test)]
mod tests;
