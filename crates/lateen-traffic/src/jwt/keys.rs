//! Key sets: JSON Web Keys to something that verifies.
//!
//! A key works for the algorithms of its type alone, whatever a token's header says: a public key never is an HMAC secret, and
//! `none` is no algorithm at all (RFC 8725 sections 2.1 and 3.1). Keys in a token's own header (`jwk`, `jku`, `x5c`) are not
//! looked at.

mod material;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::json;
use super::status::JwtStatus;
use super::token::{Signed, field};
use crate::value::Value;
use material::{Material, Verdict};

/// Bytes of the largest key set. The largest public ones have some tens of KiB.
pub const MAX_JWKS_BYTES: usize = 1024 * 1024;

/// Keys of a set, at most. A token without `kid` is tried with all of them.
pub const MAX_KEYS: usize = 256;

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// The algorithm of a name, whose case counts.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }
}

/// The keys of an issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    /// A digest of the text it came from.
    id: [u8; 32],
    /// Keys that cannot be used.
    problems: Vec<KeyProblem>,
}

#[derive(Debug)]
struct Key {
    id: Option<Arc<str>>,
    /// `alg` as written: a key with an algorithm is for no other, even if it is not one of ours.
    algorithm: Option<Arc<str>>,
    material: Material,
}

/// A key of a set that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {index}{}: {reason}", key_id.as_ref().map_or_else(String::new, |kid| format!(" (`{kid}`)")))]
pub struct KeyProblem {
    /// Its place in the set.
    pub index: usize,
    /// Its `kid`.
    pub key_id: Option<Arc<str>>,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Why a text is no key set. The words are Envoy's where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is larger than [`MAX_JWKS_BYTES`].
    #[error("the key set is larger than {MAX_JWKS_BYTES} bytes")]
    TooLarge,
    /// It is not a JSON object, or one with a name that occurs twice.
    #[error("Jwks is an invalid JSON")]
    NotJson,
    /// There is no `keys`.
    #[error("Jwks does not have [keys] field")]
    NoKeys,
    /// `keys` is not a list.
    #[error("[keys] in Jwks is not an array")]
    NotAList,
    /// There are more than [`MAX_KEYS`].
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    /// None of the keys can be used.
    #[error("Jwks doesn't have any valid public key{}", problems.first().map_or_else(String::new, |first| format!(": {first}")))]
    NoneUsable {
        /// What is wrong with each.
        problems: Vec<KeyProblem>,
    },
}

impl KeySet {
    /// The key set in a text (RFC 7517 section 5). A key that cannot be used is passed over, as the standard wants it.
    ///
    /// # Errors
    /// It is not one, or no key in it can be used.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        if text.len() > MAX_JWKS_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let set = json::object(text.as_bytes()).ok_or(KeySetError::NotJson)?;
        let list = match field(&set, "keys") {
            Some(Value::List(list)) => list,
            Some(_) => return Err(KeySetError::NotAList),
            None => return Err(KeySetError::NoKeys),
        };
        if list.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut problems) = (Vec::new(), Vec::new());
        for (index, value) in list.iter().enumerate() {
            let key_id = string(value, "kid");
            match material::parse(value) {
                Ok(material) => keys.push(Key {
                    id: key_id.filter(|kid| !kid.is_empty()),
                    algorithm: string(value, "alg").filter(|alg| !alg.is_empty()),
                    material,
                }),
                Err(reason) => problems.push(KeyProblem {
                    index,
                    key_id,
                    reason,
                }),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable { problems });
        }
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Ok(Self { keys, id, problems })
    }

    /// The set without secrets, for one that anybody may fetch: who can read a secret can sign with it.
    ///
    /// # Errors
    /// No key is left.
    pub fn of_public_keys(mut self) -> Result<Self, KeySetError> {
        self.keys.retain(|key| !key.material.is_secret());
        if self.keys.is_empty() {
            return Err(KeySetError::NoneUsable {
                problems: self.problems,
            });
        }
        Ok(self)
    }

    /// Keys that can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key; a set that was parsed has one.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys' `kid`s, for who explains what was looked for.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.id.as_deref())
    }

    /// What is wrong with keys that cannot be used.
    pub fn problems(&self) -> &[KeyProblem] {
        &self.problems
    }

    /// Whether a secret that both sides know is among the keys: who can read the set can sign.
    pub fn has_secrets(&self) -> bool {
        self.keys.iter().any(|key| key.material.is_secret())
    }

    /// The digest under which a token that these keys verified is kept.
    pub(super) fn fingerprint(&self, token: &[u8]) -> [u8; 32] {
        let mut context = aws_lc_rs::digest::Context::new(&SHA256);
        context.update(&self.id);
        context.update(token);
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }

    /// Whether a key of the set made a signature. A key with another `kid` or `alg` than the token's is not tried; one without is.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        key_id: Option<&str>,
        signed: &Signed<'_>,
    ) -> Result<(), JwtStatus> {
        let mut outcome = JwtStatus::NoMatchingKey;
        for key in &self.keys {
            let other_id = matches!((&key.id, key_id), (Some(has), Some(wants)) if **has != *wants);
            let other_algorithm = key
                .algorithm
                .as_ref()
                .is_some_and(|has| **has != *algorithm.as_str());
            if other_id || other_algorithm {
                continue;
            }
            match key.material.verify(algorithm, signed) {
                Verdict::Good => return Ok(()),
                Verdict::Bad => outcome = JwtStatus::VerificationFails,
                Verdict::WrongLength => return Err(JwtStatus::Ed25519WrongLength),
            }
        }
        Err(outcome)
    }
}

fn string(object: &Value, name: &str) -> Option<Arc<str>> {
    match field(object, name) {
        Some(Value::String(text)) => Some(Arc::clone(text)),
        _ => None,
    }
}
