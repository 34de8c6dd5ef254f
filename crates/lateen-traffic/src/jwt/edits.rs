//! What verification changes of a request: tokens taken out, payloads and claims put in.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A change to a request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Takes all values of a header away.
    Remove(HeaderName),
    /// Adds a value to a header.
    Append(HeaderName, HeaderValue),
    /// Takes all occurrences of a query parameter away.
    RemoveParameter(Box<str>),
}

/// Changes in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits(Vec<Edit>);

impl Edits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes.
    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.0.iter()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap, path: &mut String) {
        for edit in &self.0 {
            match edit {
                Edit::Remove(name) => {
                    headers.remove(name);
                }
                Edit::Append(name, value) => {
                    headers.append(name, value.clone());
                }
                Edit::RemoveParameter(name) => remove_parameter(path, name),
            }
        }
    }

    /// Whether a header was taken away, so that later verifiers do not see it.
    pub(super) fn removes(&self, header: &HeaderName) -> bool {
        self.0
            .iter()
            .any(|edit| matches!(edit, Edit::Remove(name) if name == header))
    }

    pub(super) fn removes_parameter(&self, parameter: &str) -> bool {
        self.0
            .iter()
            .any(|edit| matches!(edit, Edit::RemoveParameter(name) if **name == *parameter))
    }

    pub(super) fn push(&mut self, edit: Edit) {
        self.0.push(edit);
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes back what came after a length.
    pub(super) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

/// Takes a parameter out of a query and leaves every other byte as it is. A query that becomes empty goes with its mark.
fn remove_parameter(path: &mut String, name: &str) {
    let Some((before, rest)) = path.split_once('?') else {
        return;
    };
    let (query, fragment) = match rest.find('#') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
            *super::extract::percent_decode(key.as_bytes()) != *name.as_bytes()
        })
        .collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    *path = format!("{before}{mark}{}{fragment}", kept.join("&"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_and_everything_else_stays_as_it_was() {
        let check = |path: &str, want: &str| {
            let mut path = path.to_owned();
            remove_parameter(&mut path, "token");
            assert_eq!(path, want);
        };
        check("/a?token=x", "/a");
        check("/a?b=%20c&token=x&d", "/a?b=%20c&d");
        check("/a?token=x&token=y&b=1", "/a?b=1");
        check("/a?to%6ben=x&b", "/a?b");
        check("/a?tokens=x", "/a?tokens=x");
        check("/a?token=x#f", "/a#f");
        check("/a", "/a");
    }
}
