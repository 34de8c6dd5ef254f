//! How the names of a head were spelt, where they are to be passed on that way (Envoy: `preserve_case`).
//!
//! Inside the proxy names are in lower case. A spelling travels beside the head, as an extension of the message.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

/// The spellings of a head's names, in the order of their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling(HeaderMap<Bytes>);

impl Spelling {
    /// Notes how the next value's name was spelt.
    pub(crate) fn note(&mut self, name: &HeaderName, spelt: Bytes) {
        self.0.append(name, spelt);
    }
}

/// Hands out spellings while a head is written.
#[derive(Debug)]
pub(crate) struct Speller<'s> {
    spelling: &'s Spelling,
    /// The name written last, and how many of its values.
    last: Option<(HeaderName, usize)>,
}

impl<'s> Speller<'s> {
    /// At the beginning of a head.
    pub(crate) const fn new(spelling: &'s Spelling) -> Self {
        Self {
            spelling,
            last: None,
        }
    }

    /// How the name of the next value is spelt; `None` if it did not come with the head.
    pub(crate) fn next(&mut self, name: &HeaderName) -> Option<&'s [u8]> {
        let at = match &mut self.last {
            Some((last, at)) if last == name => {
                *at += 1;
                *at
            }
            last => {
                *last = Some((name.clone(), 0));
                0
            }
        };
        let mut known = self.spelling.0.get_all(name).iter();
        known.nth(at).map(|spelt| &spelt[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_keeps_its_own_spelling() {
        let mut spelling = Spelling::default();
        let name = HeaderName::from_static("x-a");
        spelling.note(&name, Bytes::from_static(b"X-A"));
        spelling.note(&name, Bytes::from_static(b"x-A"));
        let other = HeaderName::from_static("x-b");
        let mut speller = Speller::new(&spelling);
        assert_eq!(speller.next(&name), Some(&b"X-A"[..]));
        assert_eq!(speller.next(&name), Some(&b"x-A"[..]));
        assert_eq!(speller.next(&name), None, "added by the proxy");
        assert_eq!(speller.next(&other), None);
    }
}
