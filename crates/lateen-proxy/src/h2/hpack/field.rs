//! Fields in the form they are used in, and those that everybody knows (RFC 7541 appendix A).

use std::sync::LazyLock;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{OVERHEAD, STATIC};
use crate::codec::names;

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// `:authority`.
    Authority(Authority),
    /// `:method`.
    Method(Method),
    /// `:path`.
    Path(PathAndQuery),
    /// `:protocol`.
    Protocol(Bytes),
    /// `:scheme`.
    Scheme(Scheme),
    /// `:status`.
    Status(StatusCode),
    /// A header.
    Header(HeaderName, HeaderValue),
    /// One that no message may have. Its name may still be referred to.
    Malformed(Name),
}

/// The name of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
    Header(HeaderName),
    Malformed,
}

impl Name {
    /// The name that bytes are. Names are lower case (RFC 9113 section 8.2.1).
    pub(super) fn read(bytes: &[u8]) -> Self {
        match bytes {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            _ => names::lower_case(bytes).map_or(Self::Malformed, Self::Header),
        }
    }
}

impl Field {
    /// A field of a name and a value.
    pub(super) fn read(name: Name, value: &[u8]) -> Self {
        let bytes = || Bytes::copy_from_slice(value);
        let read = match &name {
            Name::Authority => authority(value),
            Name::Method => Method::from_bytes(value).ok().map(Self::Method),
            Name::Path => path(value),
            Name::Protocol => std::str::from_utf8(value)
                .is_ok_and(|text| !text.is_empty())
                .then(|| Self::Protocol(bytes())),
            Name::Scheme => Scheme::try_from(value).ok().map(Self::Scheme),
            Name::Status => StatusCode::from_bytes(value).ok().map(Self::Status),
            Name::Header(name) => HeaderValue::from_maybe_shared(bytes())
                .ok()
                .map(|value| Self::Header(name.clone(), value)),
            Name::Malformed => None,
        };
        read.unwrap_or(Self::Malformed(name))
    }

    /// Its name.
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Authority(_) => Name::Authority,
            Self::Method(_) => Name::Method,
            Self::Path(_) => Name::Path,
            Self::Protocol(_) => Name::Protocol,
            Self::Scheme(_) => Name::Scheme,
            Self::Status(_) => Name::Status,
            Self::Header(name, _) => Name::Header(name.clone()),
            Self::Malformed(name) => name.clone(),
        }
    }
}

/// A host without what would end it elsewhere, such as user information (RFC 9113 section 8.3.1).
fn authority(value: &[u8]) -> Option<Field> {
    if value.contains(&b'@') {
        return None;
    }
    let authority = Authority::from_maybe_shared(Bytes::copy_from_slice(value));
    authority.ok().map(Field::Authority)
}

/// A path that begins with a slash, or the asterisk of OPTIONS (RFC 9113 section 8.3.1).
fn path(value: &[u8]) -> Option<Field> {
    if value.first() != Some(&b'/') && value != b"*" {
        return None;
    }
    let path = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(value));
    path.ok().map(Field::Path)
}

/// A field as a table keeps it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) field: Field,
    /// What it counts.
    pub(super) size: usize,
    /// Bytes of its name, whatever that is.
    pub(super) name_length: usize,
}

impl Entry {
    /// A field whose name is so long on the wire.
    pub(super) fn new(name: Name, name_length: usize, value: &[u8]) -> Self {
        Self {
            name_length,
            size: name_length + value.len() + OVERHEAD,
            field: Field::read(name, value),
        }
    }
}

/// The static table's field with an index from 1 to [`STATIC`].
pub(super) fn known(index: usize) -> Option<&'static Entry> {
    static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let entry = |(name, value): &(&str, &str)| {
            Entry::new(Name::read(name.as_bytes()), name.len(), value.as_bytes())
        };
        TEXT.iter().map(entry).collect()
    });
    TABLE.get(index.checked_sub(1)?)
}

/// The first index of a name in the static table.
pub(super) fn index_of(name: &str) -> Option<usize> {
    Some(match name {
        ":authority" => 1,
        ":method" => 2,
        ":path" => 4,
        ":scheme" => 6,
        ":status" => 8,
        "accept-charset" => 15,
        "accept-encoding" => 16,
        "accept-language" => 17,
        "accept-ranges" => 18,
        "accept" => 19,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "authorization" => 23,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => 28,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "expect" => 35,
        "expires" => 36,
        "from" => 37,
        "host" => 38,
        "if-match" => 39,
        "if-modified-since" => 40,
        "if-none-match" => 41,
        "if-range" => 42,
        "if-unmodified-since" => 43,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "max-forwards" => 47,
        "proxy-authenticate" => 48,
        "proxy-authorization" => 49,
        "range" => 50,
        "referer" => 51,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "transfer-encoding" => 57,
        "user-agent" => 58,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    })
}

#[rustfmt::skip]
const TEXT: [(&str, &str); STATIC] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_static_table_is_found_at_its_first_place() {
        for (at, (name, _)) in TEXT.iter().enumerate() {
            let first = TEXT.iter().position(|(other, _)| other == name).unwrap();
            assert_eq!(index_of(name), Some(first + 1), "{name} at {at}");
        }
        assert_eq!(index_of("x-request-id"), None);
    }

    #[test]
    fn static_fields_are_those_of_the_standard() {
        let get = known(2).unwrap();
        assert_eq!(get.field, Field::Method(Method::GET));
        assert_eq!(get.size, 7 + 3 + 32);
        assert_eq!(known(8).unwrap().field, Field::Status(StatusCode::OK));
        let last = known(61).unwrap();
        assert_eq!(
            last.field.name(),
            Name::Header(http::header::WWW_AUTHENTICATE)
        );
        assert!(known(0).is_none() && known(62).is_none());
    }

    #[test]
    fn what_no_message_may_have_is_malformed() {
        for (name, value) in [
            ("X-Upper", "a"),
            ("x y", "a"),
            ("", "a"),
            (":unknown", "a"),
            ("x-a", "a\r\nb"),
            ("x-a", "a\0"),
            (":path", ""),
            (":path", "a"),
            (":path", "/ HTTP/1.1"),
            (":authority", "a@b"),
            (":authority", "a\r\nb"),
            (":method", "G T"),
            (":status", "99"),
            (":scheme", "h t"),
        ] {
            let entry = Entry::new(Name::read(name.as_bytes()), name.len(), value.as_bytes());
            assert!(
                matches!(entry.field, Field::Malformed(_)),
                "{name}: {value}"
            );
            assert_eq!(entry.size, name.len() + value.len() + 32);
        }
    }
}
