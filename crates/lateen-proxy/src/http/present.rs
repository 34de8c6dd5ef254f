//! Which of the headers that the proxy asks every request for are there, from one look at each name.
//!
//! Most of them are not: asking the map for one of them by name costs as much as looking at all names of a usual head.

use http::{HeaderMap, HeaderName, header};

use super::headers::{self, is_envoys, is_hop_by_hop};

/// What a head held when it came. What is not in it was not there; what is may have been taken away since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present(u16);

impl Present {
    /// `content-type`.
    pub(crate) const CONTENT_TYPE: Self = Self(1);
    /// `upgrade`.
    pub(crate) const UPGRADE: Self = Self(1 << 1);
    /// `transfer-encoding`.
    pub(crate) const TRANSFER_ENCODING: Self = Self(1 << 2);
    /// What concerns one connection only; the two before are of these.
    pub(crate) const HOP_BY_HOP: Self = Self(1 << 3);
    /// Any of Envoy's own.
    pub(crate) const ENVOYS: Self = Self(1 << 4);
    /// `x-forwarded-for`.
    pub(crate) const FORWARDED_FOR: Self = Self(1 << 5);
    /// `x-forwarded-client-cert`.
    pub(crate) const CLIENT_CERT: Self = Self(1 << 6);
    /// `x-forwarded-proto`.
    pub(crate) const FORWARDED_PROTO: Self = Self(1 << 7);
    /// `x-request-id`.
    pub(crate) const REQUEST_ID: Self = Self(1 << 8);
    /// `host`.
    pub(crate) const HOST: Self = Self(1 << 9);

    /// Of a head.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        headers
            .keys()
            .fold(Self::default(), |all, name| Self(all.0 | Self::bits(name)))
    }

    /// Whether one of these was there.
    pub(crate) const fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    fn bits(name: &HeaderName) -> u16 {
        // Most names are told from all of them by their first letter.
        let found = match name.as_str().as_bytes() {
            [b'x', ..] if is_envoys(name) => Self::ENVOYS,
            [b'x', ..] if *name == headers::FORWARDED_FOR => Self::FORWARDED_FOR,
            [b'x', ..] if *name == headers::CLIENT_CERT => Self::CLIENT_CERT,
            [b'x', ..] if *name == headers::FORWARDED_PROTO => Self::FORWARDED_PROTO,
            [b'x', ..] if *name == headers::REQUEST_ID => Self::REQUEST_ID,
            [b'h', ..] if *name == header::HOST => Self::HOST,
            [b'c', ..] if *name == header::CONTENT_TYPE => Self::CONTENT_TYPE,
            [b'c' | b'e' | b'k' | b'p' | b't' | b'u', ..] if is_hop_by_hop(name) => {
                let more = if *name == header::UPGRADE {
                    Self::UPGRADE
                } else if *name == header::TRANSFER_ENCODING {
                    Self::TRANSFER_ENCODING
                } else {
                    Self::default()
                };
                Self(Self::HOP_BY_HOP.0 | more.0)
            }
            _ => Self::default(),
        };
        found.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&'static str]) -> Present {
        let value = http::HeaderValue::from_static("");
        let names = names.iter().map(|name| HeaderName::from_static(name));
        Present::of(&names.map(|name| (name, value.clone())).collect())
    }

    #[test]
    fn each_name_is_found_and_others_are_not_taken_for_it() {
        let none = of(&[
            "accept",
            "user-agent",
            "cookie",
            "x-request",
            "x-a",
            "x",
            "hosts",
        ]);
        assert_eq!(none, Present::default());
        for (name, present) in [
            ("content-type", Present::CONTENT_TYPE),
            ("x-envoy-attempt-count", Present::ENVOYS),
            ("x-forwarded-for", Present::FORWARDED_FOR),
            ("x-forwarded-client-cert", Present::CLIENT_CERT),
            ("x-forwarded-proto", Present::FORWARDED_PROTO),
            ("x-request-id", Present::REQUEST_ID),
            ("host", Present::HOST),
        ] {
            assert_eq!(of(&["user-agent", name, "accept"]), present, "{name}");
        }
        for name in [
            "connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "expect",
            "keep-alive",
            "proxy-connection",
        ] {
            let found = of(&["a", name]);
            assert!(found.has(Present::HOP_BY_HOP), "{name}");
            assert_eq!(found.has(Present::UPGRADE), name == "upgrade");
            let coded = found.has(Present::TRANSFER_ENCODING);
            assert_eq!(coded, name == "transfer-encoding");
        }
    }
}
