//! Tokens of the compiled policies: claims signed by a key of the run's own.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

/// Tokens by name, and their key.
pub(super) struct Tokens {
    texts: BTreeMap<String, String>,
    jwks: String,
}

impl Tokens {
    /// Signs each of the claims; makes a forged and an unsigned token besides.
    pub(super) fn new(claims: &BTreeMap<String, Value>) -> Self {
        let [own, foreign] =
            [(); 2].map(|()| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
        let mut texts = BTreeMap::new();
        for (name, claims) in claims {
            texts.insert(name.clone(), signed(claims, &own));
            texts.insert(format!("forged {name}"), signed(claims, &foreign));
            let header = BASE64URL.encode(json!({"alg": "none", "kid": "k"}).to_string());
            let payload = BASE64URL.encode(claims.to_string());
            texts.insert(format!("unsigned {name}"), format!("{header}.{payload}."));
        }
        // An uncompressed point: 4, x, y.
        let point = own.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64URL.encode(half));
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y});
        Self {
            texts,
            jwks: json!({"keys": [key]}).to_string(),
        }
    }

    /// A text with tokens in place of `{NAME}`.
    pub(super) fn expand(&self, text: &str) -> String {
        self.texts
            .iter()
            .fold(text.to_owned(), |text, (name, token)| {
                text.replace(&format!("{{{name}}}"), token)
            })
    }

    /// A value with the keys in place of `{jwks}`.
    pub(super) fn with_keys(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text == "{jwks}" => json!(self.jwks),
            Value::Array(list) => list.iter().map(|item| self.with_keys(item)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, item)| (key.clone(), self.with_keys(item)))
                .collect(),
            other => other.clone(),
        }
    }
}

fn signed(claims: &Value, key: &EcdsaKeyPair) -> String {
    let header = json!({"alg": "ES256", "kid": "k"}).to_string();
    let message = format!(
        "{}.{}",
        BASE64URL.encode(header),
        BASE64URL.encode(claims.to_string())
    );
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", BASE64URL.encode(signature.as_ref()))
}
