//! Header names by their bytes. The same few come with every message, and parsing one costs ten times what recognising it does.
//!
//! What is remembered is bounded in number and length, so strangers cannot fill it; what they push out is parsed anew.

use std::cell::RefCell;

use http::HeaderName;

/// Names that are remembered by a thread, each in one place only. A power of two.
const PLACES: usize = 256;
/// Longer ones are not.
const LONGEST: usize = 64;

thread_local! {
    static KNOWN: RefCell<Vec<Option<Known>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Known {
    spelt: Box<[u8]>,
    name: HeaderName,
}

/// The name of these bytes; `None` if they are none.
pub(crate) fn name(bytes: &[u8]) -> Option<HeaderName> {
    let ([first, ..], [.., last]) = (bytes, bytes) else {
        return None;
    };
    if bytes.len() > LONGEST {
        return HeaderName::from_bytes(bytes).ok();
    }
    let middle = bytes[bytes.len() / 2];
    let mixed = bytes.len() * 7
        + usize::from(*first) * 31
        + usize::from(*last) * 13
        + usize::from(middle) * 61;
    KNOWN.with_borrow_mut(|known| {
        if known.is_empty() {
            known.resize_with(PLACES, || None);
        }
        let place = &mut known[mixed % PLACES];
        if let Some(known) = place
            && *known.spelt == *bytes
        {
            return Some(known.name.clone());
        }
        let name = HeaderName::from_bytes(bytes).ok()?;
        *place = Some(Known {
            spelt: bytes.into(),
            name: name.clone(),
        });
        Some(name)
    })
}

/// The name of these bytes; `None` if they are none, or not in lower case.
pub(crate) fn lower_case(bytes: &[u8]) -> Option<HeaderName> {
    name(bytes).filter(|name| name.as_str().as_bytes() == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_often_and_however_it_is_spelt() {
        for _ in 0..3 {
            for spelt in ["Host", "host", "HOST", "x-request-id", "X-Request-Id"] {
                let name = name(spelt.as_bytes()).unwrap();
                assert_eq!(name.as_str(), spelt.to_ascii_lowercase());
            }
        }
    }

    #[test]
    fn what_is_no_name_is_none_each_time() {
        for _ in 0..2 {
            for bytes in [&b""[..], b"a b", b"a:", b"\xff", b"a\0"] {
                assert_eq!(name(bytes), None, "{bytes:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_parsing(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let parsed = HeaderName::from_bytes(&bytes).ok();
            proptest::prop_assert_eq!(name(&bytes), parsed.clone());
            proptest::prop_assert_eq!(name(&bytes), parsed);
        }
    }
}
