//! Who a side of a connection is: said once, in a frame of its own, and left out of the heads that would repeat it.
//!
//! Istio's sidecars introduce themselves with every request and every answer, in half a kilobyte that never changes. That is most of a
//! small request; and an answer of a kilobyte is two segments of TCP with it and one without, of which the second has its
//! receiver acknowledge both at once, in a packet that carries nothing else.
//!
//! ```text
//! introduction = x-envoy-peer-metadata: text | x-envoy-peer-metadata-id: text
//! ```
//! A side says at most one, before the first head that refers to it. A head that says something else says it itself.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head;
use crate::http::exchange::{PEER_METADATA, PEER_METADATA_ID};

/// Bytes of its frame.
pub(crate) const MOST: usize = 16 * 1024;

/// What a side says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Introduction<V = HeaderValue> {
    metadata: V,
    id: V,
}

/// Whether a field belongs to it.
pub(crate) fn is_part(name: &HeaderName) -> bool {
    *name == PEER_METADATA || *name == PEER_METADATA_ID
}

impl<'f> Introduction<&'f HeaderValue> {
    /// The one that a head holds; none if it is not whole, or not the only one, or too long.
    pub(crate) fn of(
        fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    ) -> Option<Self> {
        let (mut metadata, mut id) = (None, None);
        for (name, value) in fields {
            let part = match name {
                name if *name == PEER_METADATA => &mut metadata,
                name if *name == PEER_METADATA_ID => &mut id,
                _ => continue,
            };
            if part.replace(value).is_some() {
                return None;
            }
        }
        let (metadata, id) = (metadata?, id?);
        // Beside the two there are their lengths.
        (metadata.len() + id.len() + 8 <= MOST).then_some(Self { metadata, id })
    }

    /// The same, to be kept.
    pub(super) fn to_owned(self) -> Introduction {
        Introduction {
            metadata: self.metadata.clone(),
            id: self.id.clone(),
        }
    }
}

impl Introduction {
    /// Whether a head says the same.
    pub(super) fn is(&self, said: Introduction<&HeaderValue>) -> bool {
        self.metadata == *said.metadata && self.id == *said.id
    }

    /// Writes its frame's payload.
    pub(super) fn put(&self, out: &mut BytesMut) {
        head::put_text(out, self.metadata.as_bytes());
        head::put_text(out, self.id.as_bytes());
    }

    /// Reads its frame's payload; none if that is something else.
    pub(super) fn read(mut from: Bytes) -> Option<Self> {
        let mut value = || HeaderValue::from_maybe_shared(head::text(&mut from).ok()?).ok();
        let (metadata, id) = (value()?, value()?);
        from.is_empty().then_some(Self { metadata, id })
    }

    /// Adds what a head left out.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        headers.append(&PEER_METADATA, self.metadata.clone());
        headers.append(&PEER_METADATA_ID, self.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Introduction {
        pub(in crate::mux) fn sample() -> Self {
            Self {
                metadata: HeaderValue::from_static("metadata"),
                id: HeaderValue::from_static("sidecar~10.0.0.1~a.b~b.svc"),
            }
        }
    }

    fn is_one(fields: &[(&HeaderName, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Introduction::of(headers.iter()).is_some()
    }

    #[test]
    fn it_is_whole_and_the_only_one() {
        let (metadata, id) = (&PEER_METADATA, &PEER_METADATA_ID);
        assert!(is_one(&[(metadata, "a"), (id, "b")]));
        assert!(!is_one(&[(metadata, "a")]));
        assert!(!is_one(&[(metadata, "a"), (id, "b"), (metadata, "c")]));
        let long: &'static str = "x".repeat(MOST).leak();
        assert!(!is_one(&[(metadata, long), (id, "b")]));
    }

    #[test]
    fn it_is_read_as_it_was_put() {
        let mut out = BytesMut::new();
        Introduction::sample().put(&mut out);
        let bytes = out.freeze();
        assert_eq!(
            Introduction::read(bytes.clone()),
            Some(Introduction::sample())
        );
        for length in 0..bytes.len() {
            assert_eq!(Introduction::read(bytes.slice(..length)), None);
        }
        let more = Bytes::from([&bytes[..], b"x"].concat());
        assert_eq!(Introduction::read(more), None);
    }
}
