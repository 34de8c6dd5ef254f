//! What a key is made of, by type: RSA, elliptic curves, Ed25519, shared secrets.
//!
//! Everything about a key is checked here, once: sizes, curves, that a point is on its curve. Source: RFC 7518 section 6,
//! RFC 8037; the reasons are Envoy's.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine as _;

use super::{Algorithm, Signed};
use crate::jwt::token::{BASE64URL, field};
use crate::value::Value;

/// Bits of the smallest RSA modulus (RFC 7518 section 3.3). Envoy takes smaller ones.
const MIN_RSA_BITS: usize = 2048;
/// Bits of the largest RSA modulus that aws-lc verifies with.
const MAX_RSA_BITS: usize = 8192;

/// Bytes of an Ed25519 signature.
const ED25519_SIGNATURE: usize = 64;
/// Bytes of an Ed25519 public key.
const ED25519_KEY: usize = 32;

/// The six algorithms of an RSA key, in the order of [`rsa_slot`].
static RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
];

/// Something that verifies.
pub(super) enum Material {
    /// The same RSA key, once per algorithm.
    Rsa(Box<[ParsedPublicKey; 6]>),
    /// A point on a curve, for the curve's one algorithm.
    Ec(Algorithm, Box<ParsedPublicKey>),
    /// An Ed25519 key.
    Ed25519(Box<ParsedPublicKey>),
    /// A secret.
    Secret(Box<[u8]>),
}

/// What a key says of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Bad,
    WrongLength,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what it is made of: one of them is a secret.
        f.write_str(match self {
            Self::Rsa(_) => "RSA",
            Self::Ec(..) => "EC",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "secret",
        })
    }
}

impl Material {
    pub(super) const fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }

    /// Whether it made a signature by an algorithm that is for keys of its type.
    pub(super) fn verify(&self, algorithm: Algorithm, signed: &Signed<'_>) -> Verdict {
        let good = match self {
            Self::Rsa(keys) => RSA
                .iter()
                .position(|(known, _)| *known == algorithm)
                .is_some_and(|slot| public(&keys[slot], signed)),
            Self::Ec(own, key) => *own == algorithm && public(key, signed),
            Self::Ed25519(_) if algorithm != Algorithm::EdDsa => false,
            Self::Ed25519(_) if signed.signature.len() != ED25519_SIGNATURE => {
                return Verdict::WrongLength;
            }
            Self::Ed25519(key) => public(key, signed),
            Self::Secret(secret) => hmac_algorithm(algorithm).is_some_and(|algorithm| {
                let key = hmac::Key::new(algorithm, secret);
                hmac::verify(&key, signed.message, &signed.signature).is_ok()
            }),
        };
        if good { Verdict::Good } else { Verdict::Bad }
    }
}

fn public(key: &ParsedPublicKey, signed: &Signed<'_>) -> bool {
    key.verify_sig(signed.message, &signed.signature).is_ok()
}

fn hmac_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::Hs256 => Some(hmac::HMAC_SHA256),
        Algorithm::Hs384 => Some(hmac::HMAC_SHA384),
        Algorithm::Hs512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// The key in a JWK, or what is wrong with it.
pub(super) fn parse(jwk: &Value) -> Result<Material, &'static str> {
    let algorithm = match field(jwk, "alg") {
        Some(Value::String(text)) => &**text,
        _ => "",
    };
    match field(jwk, "kty") {
        None => Err("[kty] is missing in [keys]"),
        Some(Value::String(kind)) => match &**kind {
            "RSA" => rsa(jwk, algorithm),
            "EC" => ec(jwk, algorithm),
            "OKP" => okp(jwk, algorithm),
            "oct" => secret(jwk, algorithm),
            _ => Err("[kty] is not supported in [keys]"),
        },
        Some(_) => Err("[kty] is bad in [keys]"),
    }
}

/// A text of a key.
fn member<'a>(
    jwk: &'a Value,
    name: &str,
    missing: &'static str,
    wrong: &'static str,
) -> Result<&'a str, &'static str> {
    match field(jwk, name) {
        None => Err(missing),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong),
    }
}

fn rsa(jwk: &Value, algorithm: &str) -> Result<Material, &'static str> {
    if !algorithm.is_empty() && !algorithm.starts_with("RS") && !algorithm.starts_with("PS") {
        return Err("[alg] is not started with [RS] or [PS] for an RSA key");
    }
    const UNUSABLE: &str = "Jwks RSA [n] or [e] field is missing or has a parse error";
    let n = member(
        jwk,
        "n",
        "[n] field is missing for a RSA key",
        "[n] field is not string for a RSA key",
    )?;
    let e = member(
        jwk,
        "e",
        "[e] field is missing for a RSA key",
        "[e] field is not string for a RSA key",
    )?;
    let n = BASE64URL.decode(n).map_err(|_| UNUSABLE)?;
    let e = BASE64URL.decode(e).map_err(|_| UNUSABLE)?;
    let (n, e) = (without_zeros(&n), without_zeros(&e));
    // Source: Envoy takes these two exponents alone.
    if ![&[3_u8][..], &[1, 0, 1]].contains(&e) {
        return Err(UNUSABLE);
    }
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if bits < MIN_RSA_BITS {
        return Err("an RSA key has to have 2048 bits at least");
    }
    if bits > MAX_RSA_BITS {
        return Err("an RSA key may have 8192 bits at most");
    }
    let components = RsaPublicKeyComponents { n, e };
    let keys: Vec<ParsedPublicKey> = RSA
        .iter()
        .map(|(_, parameters)| components.to_parsed_public_key(parameters))
        .collect::<Result<_, _>>()
        .map_err(|_| UNUSABLE)?;
    let keys = keys.try_into().map_err(|_| UNUSABLE)?;
    Ok(Material::Rsa(keys))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// A curve: its algorithm, its name, its verifier and the bytes of a coordinate.
type Curve = (
    Algorithm,
    &'static str,
    &'static EcdsaVerificationAlgorithm,
    usize,
);

static CURVES: [Curve; 3] = [
    (
        Algorithm::Es256,
        "P-256",
        &signature::ECDSA_P256_SHA256_FIXED,
        32,
    ),
    (
        Algorithm::Es384,
        "P-384",
        &signature::ECDSA_P384_SHA384_FIXED,
        48,
    ),
    (
        Algorithm::Es512,
        "P-521",
        &signature::ECDSA_P521_SHA512_FIXED,
        66,
    ),
];

/// The curve of a key: of its `crv`, else of its `alg`, else P-256. If both are there they have to agree.
fn curve(jwk: &Value, algorithm: &str) -> Result<&'static Curve, &'static str> {
    if !algorithm.is_empty() && !algorithm.starts_with("ES") {
        return Err("[alg] is not started with [ES] for an EC key");
    }
    let name = match field(jwk, "crv") {
        None => "",
        Some(Value::String(text)) => &**text,
        Some(_) => return Err("[crv] field is not string for an EC key"),
    };
    let by_name = CURVES.iter().find(|(_, known, ..)| *known == name);
    let by_algorithm = CURVES
        .iter()
        .find(|(known, ..)| known.as_str() == algorithm);
    let found = match (name.is_empty(), algorithm.is_empty()) {
        (true, true) => CURVES.first(),
        (false, true) => by_name,
        (true, false) => by_algorithm,
        (false, false) => {
            let agree = by_name.is_some_and(|(known, ..)| known.as_str() == algorithm);
            if !agree {
                return Err("[crv] field specified is not compatible with [alg] for an EC key");
            }
            by_name
        }
    };
    found.ok_or("[crv] or [alg] field is not supported for an EC key")
}

fn ec(jwk: &Value, algorithm: &str) -> Result<Material, &'static str> {
    let (own, _, verifier, size) = *curve(jwk, algorithm)?;
    let x = member(
        jwk,
        "x",
        "[x] field is missing for an EC key",
        "[x] field is not string for an EC key",
    )?;
    let y = member(
        jwk,
        "y",
        "[y] field is missing for an EC key",
        "[y] field is not string for an EC key",
    )?;
    const NOT_BASE64: &str = "Jwks EC [x] or [y] field is an invalid Base64.";
    const NOT_A_POINT: &str = "Jwks EC [x] and [y] fields have a parse error.";
    let mut point = vec![4]; // an uncompressed point (SEC 1 section 2.3.3)
    for coordinate in [x, y] {
        let bytes = BASE64URL.decode(coordinate).map_err(|_| NOT_BASE64)?;
        let bytes = without_zeros(&bytes);
        let zeros = size.checked_sub(bytes.len()).ok_or(NOT_A_POINT)?;
        point.resize(point.len() + zeros, 0);
        point.extend_from_slice(bytes);
    }
    let key = ParsedPublicKey::new(verifier, &point).map_err(|_| NOT_A_POINT)?;
    Ok(Material::Ec(own, Box::new(key)))
}

fn okp(jwk: &Value, algorithm: &str) -> Result<Material, &'static str> {
    if !algorithm.is_empty() && algorithm != "EdDSA" {
        return Err("[alg] is not [EdDSA] for an OKP key");
    }
    let curve = member(
        jwk,
        "crv",
        "[crv] field is missing for an OKP key",
        "[crv] field is not string for an OKP key",
    )?;
    if curve != "Ed25519" {
        return Err("[crv] field is not supported for an OKP key");
    }
    let x = member(
        jwk,
        "x",
        "[x] field is missing for an OKP key",
        "[x] field is not string for an OKP key",
    )?;
    let x = BASE64URL
        .decode(x)
        .map_err(|_| "Jwks OKP [x] field is an invalid Base64.")?;
    if x.len() != ED25519_KEY {
        return Err("Jwks OKP [x] field is wrong length.");
    }
    let key = ParsedPublicKey::new(&signature::ED25519, &x)
        .map_err(|_| "Jwks OKP [x] field is no point of the curve")?;
    Ok(Material::Ed25519(Box::new(key)))
}

fn secret(jwk: &Value, algorithm: &str) -> Result<Material, &'static str> {
    if !["", "HS256", "HS384", "HS512"].contains(&algorithm) {
        return Err("[alg] does not start with [HS] for an HMAC key");
    }
    let secret = member(
        jwk,
        "k",
        "[k] field is missing for an HMAC key",
        "[k] field is not string for an HMAC key",
    )?;
    match BASE64URL.decode(secret) {
        Ok(secret) if !secret.is_empty() => Ok(Material::Secret(secret.into())),
        _ => Err("Jwks Oct key is an invalid Base64"),
    }
}
