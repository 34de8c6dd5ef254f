//! Tokens, key sets and the places tokens are in: nothing may panic, and nothing may be accepted that was not signed.
//!
//! A token passes only if header, payload and signature are those of a token that the run's own key made. The same seed gives the
//! same mutations; keys differ.

use std::collections::BTreeSet;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::{HeaderMap, HeaderValue};
use lateen_traffic::jwt::{JwtAuthn, KeySet, TokenCache};
use lateen_traffic::request::{ConnectionInfo, FilterState, PeerTls, RequestView};
use lateen_traffic::value::Metadata;
use serde_json::json;

use super::mutate::{self, Random};

/// The time of every request.
const NOW: u64 = 1_800_000_000;
/// Inputs grow no larger than this, in bytes.
const MAX_INPUT: usize = 8 << 10;

/// The filter, and what its key signed.
pub(super) struct Judge {
    config: JwtAuthn,
    corpus: Vec<Vec<u8>>,
    /// What decodes to these was signed.
    signed: BTreeSet<[Vec<u8>; 3]>,
}

impl Judge {
    pub(super) fn new() -> Self {
        let pair = Ed25519KeyPair::generate().expect("keys can be made");
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64URL.encode(pair.public_key())});
        let set = json!({"keys": [jwk, {"kty": "oct", "k": "c2VjcmV0"}]}).to_string();
        let texts = [
            json!({"iss": "a", "sub": "alice", "exp": NOW + 600}),
            json!({"iss": "a", "aud": ["x", "me"], "roles": {"a": [1, null]}}),
            json!({"iss": "a", "nbf": NOW, "scope": "read write", "jti": "7"}),
        ];
        let mut corpus = vec![set.clone().into_bytes()];
        let mut signed = BTreeSet::new();
        for claims in texts {
            let header = json!({"alg": "EdDSA", "kid": "k"}).to_string();
            let message = format!(
                "{}.{}",
                BASE64URL.encode(&header),
                BASE64URL.encode(claims.to_string())
            );
            let signature = pair.sign(message.as_bytes());
            corpus.push(format!("{message}.{}", BASE64URL.encode(signature.as_ref())).into_bytes());
            signed.insert([
                header.into_bytes(),
                claims.to_string().into_bytes(),
                signature.as_ref().to_vec(),
            ]);
        }
        Self {
            config: config(&set),
            corpus,
            signed,
        }
    }

    /// A key set, and tokens that its key signed.
    pub(super) fn seeds(&self) -> Vec<Vec<u8>> {
        self.corpus.clone()
    }

    /// Judges an input in every place.
    pub(super) fn check(&self, input: &[u8]) -> Result<(), &'static str> {
        let _ = KeySet::parse(&String::from_utf8_lossy(input));
        for place in ["authorization", "cookie", "x-jwt", "path"] {
            if self.judge(place, input) == Some(true) && !self.was_signed(input, place) {
                return Err("a token that nobody signed was accepted");
            }
        }
        Ok(())
    }

    /// Whether a token in a place is accepted; `None` if it cannot be there.
    fn judge(&self, place: &str, input: &[u8]) -> Option<bool> {
        let mut headers = HeaderMap::new();
        let mut path = "/".to_owned();
        let prefixed = |prefix: &[u8]| HeaderValue::from_bytes(&[prefix, input].concat()).ok();
        match place {
            "authorization" => headers.insert("authorization", prefixed(b"Bearer ")?),
            "cookie" => headers.insert("cookie", prefixed(b"a=b; session=")?),
            "x-jwt" => headers.insert("x-jwt", prefixed(b"")?),
            _ => {
                path.push_str("?t=");
                path.push_str(std::str::from_utf8(input).ok()?);
                None
            }
        };
        let address = ([127, 0, 0, 1], 80).into();
        let connection = ConnectionInfo::plain(address, address);
        let request = RequestView {
            method: "GET",
            scheme: "http",
            authority: "a",
            path: &path,
            protocol: None,
            headers: &headers,
            client: address,
            connection: &connection,
            peer: &PeerTls::default(),
            dynamic_metadata: &Metadata::default(),
            filter_state: &FilterState::new(),
        };
        let mut cache = TokenCache::default();
        let outcome = self
            .config
            .authenticate(&request, None, (NOW, 0), (&mut cache, &()));
        let mut changed = headers.clone();
        outcome.edits.apply(&mut changed, &mut path.clone());
        let (explained, _) = self.config.explain(&request, None, (NOW, 0), &());
        assert_eq!(
            outcome.verdict, explained.verdict,
            "an explanation says what happens"
        );
        Some(outcome.verdict.is_ok())
    }

    /// Whether what was accepted is in what the key signed. Escapes in a path and text around the token count as the token's own.
    fn was_signed(&self, input: &[u8], place: &str) -> bool {
        let text = String::from_utf8_lossy(input);
        let text = match place {
            "authorization" => text.rsplit("Bearer ").next().unwrap_or_default(),
            "cookie" => text.split(';').next().unwrap_or_default().trim(),
            "path" => text.split(['&', '#']).next().unwrap_or_default(),
            _ => &text,
        };
        let lenient = text
            .trim_matches('"')
            .trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let decoded = |part: &str| BASE64URL.decode(part.trim_end_matches('=')).ok();
        let mut parts = lenient.split('.').map(decoded);
        let parts = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(Some(header)), Some(Some(payload)), Some(Some(signature)), None) = parts else {
            // Percent escapes are decoded by the filter; such inputs are rare, and judged by their effect in the other places.
            return place == "path" && text.contains('%');
        };
        self.signed.contains(&[header, payload, signature])
    }
}

fn config(set: &str) -> JwtAuthn {
    let message: lateen_envoy::pb::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication =
        lateen_envoy::json::from_value(json!({
            "providers": {"p": {
                "issuer": "a",
                "local_jwks": {"inline_string": set},
                "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-jwt"}],
                "from_params": ["t"],
                "from_cookies": ["session"],
                "payload_in_metadata": "payload",
                "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}],
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
        }))
        .expect("the configuration is valid");
    lateen_traffic::from_xds::jwt_authn(&lateen_envoy::pack(&message))
        .expect("the configuration compiles")
}

/// What tokens, JSON and places are sensitive to.
const TOKENS: &[&str] = &[
    ".",
    "..",
    "=",
    "==",
    "-",
    "_",
    "+",
    "/",
    " ",
    "\t",
    ",",
    ";",
    "\"",
    "&",
    "%2E",
    "%",
    "e30",
    "e30.",
    "W10",
    "eyJhbGciOiJub25lIn0",
    "eyJhbGciOiJIUzI1NiJ9",
    "eyJhbGciOiJFZERTQSJ9",
    "Bearer ",
    "bearer ",
    "session=",
    "{",
    "}",
    "[",
    "]",
    ":",
    "null",
    "1e999",
    "\\u0000",
    "\"alg\":",
    "\"kty\":\"oct\"",
    "\"keys\":[",
    "AA",
    "\u{e9}",
];

/// One input of the corpus, changed as bytes or, as somebody would who decodes it, inside a part.
pub(super) fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = mutate::bytes(corpus, TOKENS, random);
    for _ in 0..random.below(3) {
        input = within_a_part(&input, random);
    }
    input.truncate(MAX_INPUT);
    input
}

/// Decodes a part of a token, changes it, and encodes it again.
fn within_a_part(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = input.split(|b| *b == b'.').map(<[u8]>::to_vec).collect();
    let index = random.below(parts.len());
    if let Ok(mut inner) = BASE64URL.decode(&parts[index]) {
        let at = random.below(inner.len() + 1);
        inner.splice(at..at, random.pick::<&str>(TOKENS).bytes());
        parts[index] = BASE64URL.encode(inner).into_bytes();
    }
    parts.join(&b'.')
}
