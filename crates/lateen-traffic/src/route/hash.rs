//! The hash of a request, for consistent hashing and sticky weighted clusters (`RouteAction.HashPolicy`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};

use crate::matcher::{RegexRewrite, query_parameter};
use crate::request::RequestView;

/// One way to hash a request.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// What is hashed.
    pub kind: HashPolicyKind,
    /// If it gave a hash, the policies after it are not looked at.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug)]
pub enum HashPolicyKind {
    /// A header.
    Header {
        /// Its name.
        name: HeaderName,
        /// Changes its value first.
        rewrite: Option<RegexRewrite>,
    },
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address, without the port.
    SourceIp,
    /// A query parameter.
    QueryParameter(Box<str>),
    /// A string in the filter state.
    FilterState(Arc<str>),
    /// Nothing: as if the policy were not there.
    Nothing,
}

/// A cookie that is hashed, and made if it is absent and has a lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: Arc<str>,
    /// Its lifetime; `None` makes none, zero makes a session cookie.
    pub ttl: Option<Duration>,
    /// Its path; empty for none.
    pub path: Arc<str>,
    /// Further attributes, as `SameSite=Strict`.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// The hash of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashResult<'a> {
    /// The hash; `None` if no policy had anything to hash.
    pub hash: Option<u64>,
    /// A cookie that the response must set, with its value (write it as 16 hex digits: see [`HashCookie::set_cookie`]).
    pub new_cookie: Option<(&'a HashCookie, u64)>,
}

/// Hashes a request by the policies of a route.
pub fn request_hash<'a>(policies: &'a [HashPolicy], request: &RequestView<'_>) -> HashResult<'a> {
    let mut result = HashResult::default();
    for policy in policies {
        let Some(hash) = policy.kind.hash(request, &mut result) else {
            continue;
        };
        // Rotating keeps two equal policies from cancelling each other out. Source: Envoy's `HashPolicyImpl::generateHash`.
        result.hash = Some(result.hash.map_or(0, |old| old.rotate_left(1)) ^ hash);
        if policy.terminal {
            break;
        }
    }
    result
}

/// Hashes a connection without requests, by the policies of a TCP proxy. Of them only the client's address is ever there.
pub fn connection_hash_by(policies: &[HashPolicy], client: IpAddr) -> Option<u64> {
    policies
        .iter()
        .any(|policy| matches!(policy.kind, HashPolicyKind::SourceIp))
        .then(|| ip_hash(client))
}

impl HashPolicyKind {
    fn hash<'a>(&'a self, request: &RequestView<'_>, result: &mut HashResult<'a>) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => header_hash(request, name, rewrite.as_ref()),
            Self::Cookie(cookie) => match cookie.find(request) {
                Some(value) => Some(xx_hash64(value.as_bytes(), 0)),
                None => {
                    cookie.ttl?;
                    let value = connection_hash(request);
                    result.new_cookie = Some((cookie, value));
                    Some(xx_hash64(&hex(value), 0))
                }
            },
            Self::SourceIp => Some(ip_hash(request.client.ip())),
            Self::QueryParameter(name) => {
                query_parameter(request.query(), name).map(|value| xx_hash64(value.as_bytes(), 0))
            }
            Self::Nothing => None,
            Self::FilterState(key) => request
                .filter_state
                .get(key)
                .map(|value| xx_hash64(value.as_bytes(), 0)),
        }
    }
}

impl HashCookie {
    fn find<'r>(&self, request: &RequestView<'r>) -> Option<&'r str> {
        let headers = request.headers.get_all(header::COOKIE).iter();
        let mut pairs = headers
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'));
        pairs.find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (name.trim() == &*self.name).then(|| value.trim().trim_matches('"'))
        })
    }

    /// The `set-cookie` header for a value that [`request_hash`] gave.
    pub fn set_cookie(&self, value: u64) -> String {
        use std::fmt::Write as _;
        let mut out = format!("{}=\"{value:016x}\"", self.name);
        // Writing to a `String` cannot fail.
        if let Some(ttl) = self.ttl.filter(|ttl| !ttl.is_zero()) {
            let _ = write!(out, "; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            let _ = write!(out, "; Path={}", self.path);
        }
        for (name, value) in &self.attributes {
            let _ = if value.is_empty() {
                write!(out, "; {name}")
            } else {
                write!(out, "; {name}={value}")
            };
        }
        out.push_str("; HttpOnly");
        out
    }
}

fn header_hash(
    request: &RequestView<'_>,
    name: &HeaderName,
    rewrite: Option<&RegexRewrite>,
) -> Option<u64> {
    let mut values = request.headers.get_all(name).iter();
    let first = values.next()?;
    if let Some(rewrite) = rewrite {
        return Some(xx_hash64(
            rewrite
                .replace(&String::from_utf8_lossy(first.as_bytes()))
                .as_bytes(),
            0,
        ));
    }
    if values.next().is_none() {
        return Some(xx_hash64(first.as_bytes(), 0));
    }
    // Several values count in any order. Source: Envoy's `HeaderHashMethod`.
    let mut all: Vec<&[u8]> = request
        .headers
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes())
        .collect();
    all.sort_unstable();
    Some(
        all.into_iter()
            .fold(0, |seed, value| xx_hash64(value, seed)),
    )
}

fn connection_hash(request: &RequestView<'_>) -> u64 {
    let port = u64::from(request.client.port());
    ip_hash(request.connection.local.ip()) ^ ip_hash(request.client.ip()).rotate_left(1) ^ port
}

/// Hashes an address as its text, as Envoy does.
fn ip_hash(ip: IpAddr) -> u64 {
    use std::io::Write as _;
    let mut text = [0; 46];
    let mut cursor = std::io::Cursor::new(text.as_mut_slice());
    // The longest textual IPv6 address has 45 bytes.
    let _ = write!(cursor, "{ip}");
    let length = usize::try_from(cursor.position()).unwrap_or(0);
    xx_hash64(&text[..length], 0)
}

fn hex(value: u64) -> [u8; 16] {
    std::array::from_fn(|index| b"0123456789abcdef"[(value >> (60 - 4 * index) & 0xf) as usize])
}

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// xxHash, 64 bit: the hash Envoy's rings, tables and hash policies use, so that a mixed fleet agrees on hosts.
/// Source: the XXH64 specification.
pub fn xx_hash64(data: &[u8], seed: u64) -> u64 {
    let mut rest = data;
    let mut hash = if data.len() >= 32 {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        while let Some((block, tail)) = rest.split_first_chunk::<32>() {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
                *lane = round(*lane, read64(word));
            }
            rest = tail;
        }
        let merged = lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7));
        let merged = merged
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18));
        lanes.iter().fold(merged, |hash, lane| {
            (hash ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
        })
    } else {
        seed.wrapping_add(P5)
    };
    hash = hash.wrapping_add(data.len() as u64);
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ round(0, u64::from_le_bytes(*word)))
            .rotate_left(27)
            .wrapping_mul(P1)
            .wrapping_add(P4);
        rest = tail;
    }
    if let Some((word, tail)) = rest.split_first_chunk::<4>() {
        let word = u64::from(u32::from_le_bytes(*word));
        hash = (hash ^ word.wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
        rest = tail;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5))
            .rotate_left(11)
            .wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P2);
    hash = (hash ^ hash >> 29).wrapping_mul(P3);
    hash ^ hash >> 32
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

fn read64(word: &[u8]) -> u64 {
    word.first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_xxhash() {
        // Values of the reference implementation (xxhsum -H1).
        assert_eq!(xx_hash64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(xx_hash64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xx_hash64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(
            xx_hash64(b"Nobody inspects the spammish repetition", 0),
            0xFBCE_A83C_8A37_8BF1
        );
    }
}
