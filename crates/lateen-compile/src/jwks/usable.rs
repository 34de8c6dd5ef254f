//! Whether proxies can use a key, as far as that shows without verifying anything: its type, its members, their sizes, that a point is on its curve.
//!
//! Proxies judge keys themselves; this is so that a set without a usable key is not sent to an Envoy, which would refuse the listener.
//! Source: Envoy's `source/common/jwt/jwks.cc`, and RFC 7518 section 3.3 for the size of RSA keys.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes of RSA moduli that are used.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Curves, the algorithm of each, and the bytes of a coordinate.
const CURVES: [(&str, &str, usize); 3] = [
    ("P-256", "ES256", 32),
    ("P-384", "ES384", 48),
    ("P-521", "ES512", 66),
];

/// Whether proxies can use a key.
pub(super) fn is_usable(key: &Value) -> bool {
    let algorithm = key.get("alg").and_then(Value::as_str).unwrap_or_default();
    let of = |prefixes: &[&str]| {
        algorithm.is_empty() || prefixes.iter().any(|prefix| algorithm.starts_with(prefix))
    };
    match key.get("kty").and_then(Value::as_str) {
        Some("RSA") => of(&["RS", "PS"]) && rsa(key).is_some(),
        Some("EC") => of(&["ES"]) && ec(key, algorithm).is_some(),
        Some("OKP") => of(&["EdDSA"]) && ed25519(key),
        Some("oct") => of(&["HS"]) && bytes(key, "k").is_some_and(|secret| !secret.is_empty()),
        _ => false,
    }
}

fn rsa(key: &Value) -> Option<()> {
    let exponent = bytes(key, "e")?;
    let known = [&[3_u8][..], &[1, 0, 1]].contains(&without_zeros(&exponent));
    let modulus = bytes(key, "n")?;
    (known && RSA_MODULUS.contains(&without_zeros(&modulus).len())).then_some(())
}

fn ec(key: &Value, algorithm: &str) -> Option<()> {
    let curve = match key.get("crv") {
        None => "",
        Some(name) => name.as_str()?,
    };
    let (name, _, size) = CURVES
        .iter()
        .find(|(name, its, _)| match (curve, algorithm) {
            ("", "") => *name == "P-256",
            ("", algorithm) => *its == algorithm,
            (curve, "") => *name == curve,
            (curve, algorithm) => *name == curve && *its == algorithm,
        })?;
    let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
    let fits = |number: &[u8]| without_zeros(number).len() <= *size;
    // Numbers that are too long are not computed with.
    (fits(&x) && fits(&y) && lateen_api::curve::has_point(name, &x, &y)).then_some(())
}

fn ed25519(key: &Value) -> bool {
    let curve = key.get("crv").and_then(Value::as_str);
    curve == Some("Ed25519") && bytes(key, "x").is_some_and(|x| x.len() == 32)
}

fn bytes(key: &Value, member: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(key.get(member)?.as_str()?).ok()
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
