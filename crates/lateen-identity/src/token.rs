//! Tokens by which local workloads authenticate to the certificate authority.
//!
//! They have the form of Kubernetes' service account tokens: JSON Web Tokens (RFC 7519) with the same claims, so that the
//! same agent works in both places. They are signed with HMAC-SHA-256 and a key that only the mesh's own user can read. No
//! other algorithm is accepted, whatever a token's header says, and nothing of a token is parsed before its signature
//! has verified.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::{SpiffeId, TrustDomain};

/// The audience of tokens for the certificate authority, as Istio's projected tokens have it.
pub const AUDIENCE: &str = "istio-ca";
/// The issuer of our tokens.
const ISSUER: &str = "lateen";
/// Longest token looked at, in bytes. Ours have about 600; Kubernetes' about 1,500.
const MAX_TOKEN: usize = 16 * 1024;
/// The one header that is accepted, byte for byte: RFC 7515's `alg` cannot be confused if it is never read.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// Key length in bytes: that of the hash, as RFC 7518, section 3.2 demands at least.
const KEY_LEN: usize = 32;

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The file cannot be read or written, or is open to others.
    #[error("token key")]
    File(#[source] FileError),
    /// The file does not hold a key.
    #[error(
        "`{0}` does not hold a token key (32 bytes in base64); remove it and a new one is made"
    )]
    Content(std::path::PathBuf),
}

/// Why a token was refused. Shown to an operator; a caller learns only that it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than any honest token.
    #[error("token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts of unpadded base64url.
    #[error("not a JSON web token")]
    Form,
    /// Another header than the one we write: another algorithm, say.
    #[error("token has another header than `{HEADER}`")]
    Header,
    /// Not signed with the key.
    #[error("token is not signed by this mesh")]
    Signature,
    /// The claims are not what they have to be.
    #[error("token's claims cannot be read")]
    Claims,
    /// Meant for somebody else.
    #[error("token is for another audience")]
    Audience,
    /// Too old, or from the future.
    #[error("token has expired or is not valid yet")]
    Time,
    /// The subject is not a service account.
    #[error("token's subject is not a service account")]
    Subject,
}

/// The claims of a token; the names are those of Kubernetes' bound service account tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// `system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT`.
    pub sub: String,
    /// Whom it is for.
    pub aud: Vec<String>,
    /// Seconds since the Unix epoch from which it is no longer valid.
    pub exp: u64,
    /// Seconds since the Unix epoch at which it was issued.
    pub iat: u64,
    /// The pod it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Binding,
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The namespace of pod and service account.
    pub namespace: String,
    /// The pod.
    pub pod: ObjectRef,
    /// The service account.
    pub serviceaccount: ObjectRef,
}

/// A name and a UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The name.
    pub name: String,
    /// The UID; empty where there is none.
    #[serde(default)]
    pub uid: String,
}

/// For which pod a token is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRef<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service account.
    pub service_account: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
}

impl Claims {
    /// The identity in `trust_domain`.
    ///
    /// # Errors
    /// The subject is not a service account of the namespace the token is bound to.
    pub fn identity(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, TokenError> {
        let account = self
            .sub
            .strip_prefix("system:serviceaccount:")
            .ok_or(TokenError::Subject)?;
        let (namespace, account) = account.split_once(':').ok_or(TokenError::Subject)?;
        if namespace != self.kubernetes.namespace || account != self.kubernetes.serviceaccount.name
        {
            return Err(TokenError::Subject);
        }
        SpiffeId::new(trust_domain.clone(), namespace, account).map_err(|_| TokenError::Subject)
    }
}

/// The key that tokens are signed and verified with.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl TokenKey {
    /// Reads the key at `path`, or makes one there that only its owner can read.
    ///
    /// # Errors
    /// The file cannot be read or written, is open to others, or holds something else.
    pub fn open(path: &Path) -> Result<Self, TokenKeyError> {
        match files::read_private(path) {
            Ok(content) => Self::decode(path, &content),
            Err(error) if error.is_not_found() => Self::create(path),
            Err(error) => Err(TokenKeyError::File(error)),
        }
    }

    /// A key that exists only in memory.
    pub fn ephemeral() -> Self {
        Self::from_bytes(&rand::random::<[u8; KEY_LEN]>())
    }

    fn create(path: &Path) -> Result<Self, TokenKeyError> {
        if let Some(dir) = path.parent() {
            files::private_dir(dir).map_err(TokenKeyError::File)?;
        }
        let bytes: [u8; KEY_LEN] = rand::random();
        let text = format!("{}\n", STANDARD.encode(bytes));
        files::write_atomic(path, text.as_bytes(), 0o600).map_err(TokenKeyError::File)?;
        Ok(Self::from_bytes(&bytes))
    }

    fn decode(path: &Path, content: &[u8]) -> Result<Self, TokenKeyError> {
        let bytes = STANDARD.decode(content.trim_ascii()).unwrap_or_default();
        if bytes.len() != KEY_LEN {
            return Err(TokenKeyError::Content(path.to_owned()));
        }
        Ok(Self::from_bytes(&bytes))
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Issues a token for a pod.
    pub fn issue(&self, pod: PodRef<'_>, lifetime: Duration, now: SystemTime) -> String {
        let named = |name: &str, uid: &str| ObjectRef {
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                pod.namespace, pod.service_account
            ),
            aud: vec![AUDIENCE.to_owned()],
            exp: seconds(now + lifetime),
            iat: seconds(now),
            kubernetes: Binding {
                namespace: pod.namespace.to_owned(),
                pod: named(pod.name, pod.uid),
                serviceaccount: named(pod.service_account, ""),
            },
        };
        let claims =
            serde_json::to_vec(&claims).expect("a struct of strings and numbers serializes");
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(HEADER),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let tag = hmac::sign(&self.0, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    /// Verifies a token: signature in constant time first, then issuer, audience and time.
    ///
    /// # Errors
    /// It was not issued with this key, or is for another audience or another time.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Form)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Form);
        if decode(header)? != HEADER.as_bytes() {
            return Err(TokenError::Header);
        }
        hmac::verify(&self.0, signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims =
            serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Claims)?;
        check(&claims, seconds(now))?;
        Ok(claims)
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

fn check(claims: &Claims, now: u64) -> Result<(), TokenError> {
    /// Seconds by which the issuer's clock may be ahead; issuer and verifier share a machine.
    const SKEW: u64 = 60;
    if claims.iss != ISSUER {
        return Err(TokenError::Claims);
    }
    if !claims.aud.iter().any(|audience| audience == AUDIENCE) {
        return Err(TokenError::Audience);
    }
    if now >= claims.exp || claims.iat > now + SKEW {
        return Err(TokenError::Time);
    }
    Ok(())
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
