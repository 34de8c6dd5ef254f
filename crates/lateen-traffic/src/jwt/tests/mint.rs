//! Signs tokens for tests: a key of each type, made anew in every run.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

/// A key that signs.
pub(crate) struct Signer {
    kind: Kind,
}

enum Kind {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
    Secret(&'static [u8]),
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Signer {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    Signer {
        kind: Kind::Ec(pair, curve),
    }
}

fn rsa(size: aws_lc_rs::rsa::KeySize) -> Signer {
    Signer {
        kind: Kind::Rsa(RsaKeyPair::generate(size).unwrap()),
    }
}

pub(crate) static RSA: LazyLock<Signer> = LazyLock::new(|| rsa(aws_lc_rs::rsa::KeySize::Rsa2048));
pub(crate) static OTHER_RSA: LazyLock<Signer> =
    LazyLock::new(|| rsa(aws_lc_rs::rsa::KeySize::Rsa2048));
pub(crate) static P256: LazyLock<Signer> =
    LazyLock::new(|| ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"));
pub(crate) static P384: LazyLock<Signer> =
    LazyLock::new(|| ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"));
pub(crate) static P521: LazyLock<Signer> =
    LazyLock::new(|| ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"));
pub(crate) static ED25519: LazyLock<Signer> = LazyLock::new(|| Signer {
    kind: Kind::Ed25519(Ed25519KeyPair::generate().unwrap()),
});
pub(crate) static SECRET: LazyLock<Signer> = LazyLock::new(|| Signer {
    kind: Kind::Secret(b"a secret of thirty-two bytes, or more"),
});

/// Base64url without padding.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL.encode(bytes)
}

impl Signer {
    /// The public key as a JWK, with further members.
    pub(crate) fn jwk(&self, members: Value) -> Value {
        let mut jwk = match &self.kind {
            Kind::Rsa(pair) => {
                let (n, e) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
            }
            Kind::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Kind::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())})
            }
            Kind::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
        };
        let Value::Object(members) = members else {
            panic!("members are an object")
        };
        jwk.as_object_mut().unwrap().extend(members);
        jwk
    }

    /// A token with this header and these claims, signed by what `alg` says as far as the key can.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of_text(&header.to_string(), &claims.to_string())
    }

    /// As [`Signer::token`], of texts that need not be JSON.
    pub(crate) fn token_of_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let parsed: Value = serde_json::from_str(header).unwrap_or_default();
        let algorithm = parsed["alg"].as_str().unwrap_or_default().to_owned();
        let signature = self.sign(&algorithm, message.as_bytes());
        format!("{message}.{}", encode(signature))
    }

    pub(crate) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.kind {
            Kind::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding(algorithm), &random, message, &mut out)
                    .unwrap();
                out
            }
            Kind::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Kind::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Kind::Secret(secret) => hmac_sign(secret, algorithm, message),
        }
    }
}

/// A MAC over a message with any bytes as the secret.
pub(crate) fn hmac_sign(secret: &[u8], algorithm: &str, message: &[u8]) -> Vec<u8> {
    let algorithm = match algorithm {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let key = hmac::Key::new(algorithm, secret);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn encoding(algorithm: &str) -> &'static dyn RsaEncoding {
    match algorithm {
        "RS384" => &signature::RSA_PKCS1_SHA384,
        "RS512" => &signature::RSA_PKCS1_SHA512,
        "PS256" => &signature::RSA_PSS_SHA256,
        "PS384" => &signature::RSA_PSS_SHA384,
        "PS512" => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 appendix A.1.1).
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    let bare = |number: &[u8]| number.iter().copied().skip_while(|b| *b == 0).collect();
    (bare(n), bare(e))
}

/// The content of the first DER element, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (len, start) = match der[1] {
        short @ 0..128 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let len = der[2..2 + count]
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte));
            (len, 2 + count)
        }
    };
    der[start..].split_at(len)
}
