//! A token taken apart. Nothing of it is believed yet.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::json;
use super::keys::Algorithm;
use super::status::JwtStatus;
use crate::value::Value;

/// Bytes of the largest token that is looked at. Header fields are limited to 60 KiB all together; tokens with hundreds of groups
/// have a few.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// Padding may be there or not (some issuers pad, against RFC 7515 section 2), but bits that mean nothing may not be set: a token
/// has one spelling.
pub(super) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a token says.
#[derive(Debug)]
pub struct Token {
    /// The JOSE header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
    /// The payload as it was sent.
    pub payload: Box<str>,
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub key_id: Option<Arc<str>>,
    /// `iss`; empty if there is none.
    pub issuer: Arc<str>,
    /// `sub`; empty if there is none.
    pub subject: Arc<str>,
    /// `aud`.
    pub audiences: Vec<Arc<str>>,
    /// `exp`, in seconds since 1970.
    pub expires: Option<u64>,
    /// `nbf`, in seconds since 1970.
    pub not_before: u64,
    /// Whether the header asks for understanding that is not there (`crit`).
    pub critical: bool,
}

/// What a signature has to be checked against.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// Header and payload as sent.
    pub(super) message: &'a [u8],
    /// The signature.
    pub(super) signature: Vec<u8>,
}

/// Takes a token apart. The order of checks is Envoy's, so that the same thing is said of a token with several faults.
pub(super) fn parse(bytes: &[u8]) -> Result<(Token, Signed<'_>), JwtStatus> {
    let (message, [header, payload, signature]) = sections(bytes)?;
    let header = BASE64URL
        .decode(header)
        .map_err(|_| JwtStatus::HeaderBadBase64)?;
    let header = json::object(&header).ok_or(JwtStatus::HeaderBadJson)?;
    let algorithm = match field(&header, "alg") {
        Some(Value::String(name)) => Algorithm::parse(name).ok_or(JwtStatus::HeaderUnknownAlg)?,
        _ => return Err(JwtStatus::HeaderBadAlg),
    };
    let key_id = text(&header, "kid", JwtStatus::HeaderBadKid)?.filter(|kid| !kid.is_empty());
    let claims = BASE64URL
        .decode(payload)
        .map_err(|_| JwtStatus::PayloadBadBase64)?;
    let claims = json::object(&claims).ok_or(JwtStatus::PayloadBadJson)?;
    let payload = std::str::from_utf8(payload).map_err(|_| JwtStatus::PayloadBadBase64)?;
    let token = Token {
        algorithm,
        key_id,
        critical: field(&header, "crit").is_some(),
        payload: payload.into(),
        issuer: text(&claims, "iss", JwtStatus::IssuerNotString)?.unwrap_or_default(),
        subject: text(&claims, "sub", JwtStatus::SubjectNotString)?.unwrap_or_default(),
        not_before: {
            let (not_integer, out_of_range) =
                (JwtStatus::IssuedAtNotInteger, JwtStatus::IssuedAtOutOfRange);
            seconds(&claims, "iat", not_integer, out_of_range)?;
            let (not_integer, out_of_range) = (
                JwtStatus::NotBeforeNotInteger,
                JwtStatus::NotBeforeOutOfRange,
            );
            seconds(&claims, "nbf", not_integer, out_of_range)?.unwrap_or(0)
        },
        expires: seconds(
            &claims,
            "exp",
            JwtStatus::ExpiresNotInteger,
            JwtStatus::ExpiresOutOfRange,
        )?,
        audiences: {
            text(&claims, "jti", JwtStatus::IdNotString)?;
            audiences(&claims)?
        },
        header,
        claims,
    };
    let signature = BASE64URL
        .decode(signature)
        .map_err(|_| JwtStatus::SignatureBadBase64)?;
    Ok((token, Signed { message, signature }))
}

/// The three parts, and the first two with the dot between them. Empty parts are none: an unsecured token is not in this form.
fn sections(bytes: &[u8]) -> Result<(&[u8], [&[u8]; 3]), JwtStatus> {
    if bytes.len() > MAX_TOKEN_BYTES {
        return Err(JwtStatus::BadFormat);
    }
    let mut parts = bytes.split(|byte| *byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwtStatus::BadFormat);
    };
    if header.is_empty() || payload.is_empty() || signature.is_empty() {
        return Err(JwtStatus::BadFormat);
    }
    let message = &bytes[..header.len() + 1 + payload.len()];
    Ok((message, [header, payload, signature]))
}

pub(super) fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.at(&[name])
}

fn text(object: &Value, name: &str, wrong: JwtStatus) -> Result<Option<Arc<str>>, JwtStatus> {
    match field(object, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(Arc::clone(text))),
        Some(_) => Err(wrong),
    }
}

/// A time. Fractions are cut off (RFC 7519 allows them).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and fractions are cut off on purpose"
)]
fn seconds(
    claims: &Value,
    name: &str,
    not_integer: JwtStatus,
    out_of_range: JwtStatus,
) -> Result<Option<u64>, JwtStatus> {
    const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
    match field(claims, name) {
        None => Ok(None),
        Some(Value::Number(number)) if (0.0..BEYOND_U64).contains(number) => {
            Ok(Some(*number as u64))
        }
        Some(Value::Number(_)) => Err(out_of_range),
        Some(_) => Err(not_integer),
    }
}

fn audiences(claims: &Value) -> Result<Vec<Arc<str>>, JwtStatus> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(Arc::clone(text)),
        _ => Err(JwtStatus::AudienceNotString),
    };
    match field(claims, "aud") {
        None => Ok(Vec::new()),
        Some(Value::List(list)) => list.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}
