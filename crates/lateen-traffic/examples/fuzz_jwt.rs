//! Mutates tokens, key sets and the places tokens are in, and has them judged: `fuzz_jwt SECONDS [SEED] [FOUND]`.
//!
//! Nothing may panic, and nothing may be accepted that was not signed: a token passes only if header, payload and signature are
//! those of a token that the run's own key made. The same seed gives the same mutations (keys differ). An input that breaks a
//! rule is written to the directory `FOUND` (else `fuzz-found`).

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::{HeaderMap, HeaderValue};
use lateen_traffic::jwt::{JwtAuthn, KeySet, TokenCache};
use lateen_traffic::request::{ConnectionInfo, FilterState, PeerTls, RequestView};
use lateen_traffic::value::Metadata;
use serde_json::json;

/// The time of every request.
const NOW: u64 = 1_800_000_000;
/// Inputs grow no larger than this, in bytes.
const MAX_INPUT: usize = 8 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seconds, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: fuzz_jwt SECONDS [SEED] [FOUND]");
        return ExitCode::from(2);
    };
    let Ok(seconds) = seconds.parse() else {
        eprintln!("`{seconds}` is not a number of seconds");
        return ExitCode::from(2);
    };
    let seed = rest.first().and_then(|text| text.parse().ok()).unwrap_or(1);
    let found = rest.get(1).map_or("fuzz-found", String::as_str);
    run(Duration::from_secs(seconds), seed, Path::new(found))
}

fn run(time: Duration, seed: u64, found: &Path) -> ExitCode {
    let target = Target::new();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut inputs, mut accepted, mut breaches) = (0_u64, 0_u64, 0_u64);
    let mut slowest = Duration::ZERO;
    let mut statuses = BTreeSet::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let input = mutate(&target.corpus, &mut random);
        let before = Instant::now();
        match std::panic::catch_unwind(AssertUnwindSafe(|| target.check(&input))) {
            Ok(Ok(None)) => accepted += 1,
            Ok(Ok(Some(status))) => {
                statuses.insert(status);
            }
            Ok(Err(_)) | Err(_) => {
                breaches += 1;
                save(found, &format!("breach-{seed}-{inputs}"), &input);
            }
        }
        slowest = slowest.max(before.elapsed());
        inputs += 1;
    }
    println!(
        "fuzz-jwt: {inputs} inputs, {accepted} accepted, {breaches} breaches, slowest {slowest:?}, {} outcomes",
        statuses.len()
    );
    ExitCode::from(u8::from(breaches > 0))
}

/// The filter, and what its key signed.
struct Target {
    config: JwtAuthn,
    corpus: Vec<Vec<u8>>,
    /// What decodes to these was signed.
    signed: BTreeSet<[Vec<u8>; 3]>,
}

/// A token that nobody signed was accepted.
struct Forged;

impl Target {
    fn new() -> Self {
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

    /// Judges an input in every place. `None` if it was accepted somewhere, else the last refusal.
    fn check(&self, input: &[u8]) -> Result<Option<String>, Forged> {
        let _ = KeySet::parse(&String::from_utf8_lossy(input));
        let mut last = Some("not a header".to_owned());
        for place in ["authorization", "cookie", "x-jwt", "path"] {
            if let Some(outcome) = self.judge(place, input) {
                match outcome {
                    Ok(()) if !self.was_signed(input, place) => return Err(Forged),
                    Ok(()) => last = None,
                    Err(status) => last = Some(status),
                }
            }
        }
        Ok(last)
    }

    /// What comes of a token in a place; `None` if it cannot be there or was not found there.
    fn judge(&self, place: &str, input: &[u8]) -> Option<Result<(), String>> {
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
            .authenticate(&request, None, (NOW, 0), &mut cache);
        let mut changed = headers.clone();
        outcome.edits.apply(&mut changed, &mut path.clone());
        let (explained, _) = self.config.explain(&request, None, (NOW, 0));
        assert_eq!(
            outcome.verdict, explained.verdict,
            "an explanation says what happens"
        );
        Some(outcome.verdict.map_err(|refusal| refusal.details))
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

fn save(dir: &Path, name: &str, input: &[u8]) {
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(name), input));
    if let Err(error) = written {
        eprintln!("{}: {error}", dir.join(name).display());
    }
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

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    for _ in 0..random.below(4) {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(64) + 1);
        match random.below(7) {
            0 => {
                input.drain(at..end);
            }
            1 => {
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            2 => {
                input.splice(at..end, random.pick(TOKENS).bytes());
            }
            3 => {
                input.splice(at..at, random.pick(TOKENS).bytes());
            }
            4 if at < input.len() => input[at] = random.byte(),
            5 => {
                let other = random.pick(corpus);
                let from = random.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                // Changes inside a part, as somebody would who decodes it.
                input = within_a_part(&input, random);
            }
        }
        input.truncate(MAX_INPUT);
    }
    input
}

/// Decodes a part of a token, changes it, and encodes it again.
fn within_a_part(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = input.split(|b| *b == b'.').map(<[u8]>::to_vec).collect();
    let index = random.below(parts.len());
    if let Ok(mut inner) = BASE64URL.decode(&parts[index]) {
        let at = random.below(inner.len() + 1);
        inner.splice(at..at, random.pick(TOKENS).bytes());
        parts[index] = BASE64URL.encode(inner).into_bytes();
    }
    parts.join(&b'.')
}

/// xorshift64*: repeatable, and good enough to choose with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
