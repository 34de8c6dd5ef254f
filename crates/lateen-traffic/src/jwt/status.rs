//! What came of a token, in Envoy's words.

/// What came of a token. `Display` is Envoy's text to the letter: clients see it as the body of a 401, and people grep for it.
///
/// Source: Envoy, `source/common/jwt/status.cc`. Only what can be the outcome of a request is here; what is wrong with keys is
/// found when they are configured ([`super::KeyProblem`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwtStatus {
    /// There is none.
    Missing,
    /// `nbf` has not come yet.
    NotYetValid,
    /// `exp` has passed.
    Expired,
    /// Not three parts.
    BadFormat,
    /// The header is not base64url.
    HeaderBadBase64,
    /// The header is not a JSON object.
    HeaderBadJson,
    /// `alg` is not a text.
    HeaderBadAlg,
    /// `alg` is not known, or `none`.
    HeaderUnknownAlg,
    /// `kid` is not a text.
    HeaderBadKid,
    /// The payload is not base64url.
    PayloadBadBase64,
    /// The payload is not a JSON object.
    PayloadBadJson,
    /// `iss` is not a text.
    IssuerNotString,
    /// `sub` is not a text.
    SubjectNotString,
    /// `iat` is not a number.
    IssuedAtNotInteger,
    /// `iat` is negative or too large.
    IssuedAtOutOfRange,
    /// `nbf` is not a number.
    NotBeforeNotInteger,
    /// `nbf` is negative or too large.
    NotBeforeOutOfRange,
    /// `exp` is not a number.
    ExpiresNotInteger,
    /// `exp` is negative or too large.
    ExpiresOutOfRange,
    /// `jti` is not a text.
    IdNotString,
    /// `aud` is neither a text nor a list of texts.
    AudienceNotString,
    /// The signature is not base64url.
    SignatureBadBase64,
    /// An Ed25519 signature is not 64 bytes.
    Ed25519WrongLength,
    /// `iss` is not one that may be in this place.
    UnknownIssuer,
    /// `aud` holds none of the audiences.
    AudienceNotAllowed,
    /// The signature does not verify, or the token breaks a rule about its use.
    VerificationFails,
    /// More tokens than are looked at.
    TooManyTokens,
    /// The issuer has no usable key.
    NoValidKeys,
    /// The issuer has no key for the token's `kid` and `alg`.
    NoMatchingKey,
    /// The issuer's keys could not be had.
    KeysNotFetched,
}

impl JwtStatus {
    /// Envoy's text.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::BadFormat => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderBadBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderBadJson => "Jwt header is an invalid JSON",
            Self::HeaderBadAlg => "Jwt header [alg] field is required and must be a string",
            Self::HeaderUnknownAlg => "Jwt header [alg] is not supported",
            Self::HeaderBadKid => "Jwt header [kid] field is not a string",
            Self::PayloadBadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadBadJson => "Jwt payload is an invalid JSON",
            Self::IssuerNotString => "Jwt payload [iss] field is not a string",
            Self::SubjectNotString => "Jwt payload [sub] field is not a string",
            Self::IssuedAtNotInteger => "Jwt payload [iat] field is not an integer",
            Self::IssuedAtOutOfRange => "Jwt payload [iat] field is not a positive 64 bit integer",
            Self::NotBeforeNotInteger => "Jwt payload [nbf] field is not an integer",
            Self::NotBeforeOutOfRange => "Jwt payload [nbf] field is not a positive 64 bit integer",
            Self::ExpiresNotInteger => "Jwt payload [exp] field is not an integer",
            Self::ExpiresOutOfRange => "Jwt payload [exp] field is not a positive 64 bit integer",
            Self::IdNotString => "Jwt payload [jti] field is not a string",
            Self::AudienceNotString => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureBadBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::Ed25519WrongLength => "Jwt ED25519 signature is wrong length",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::VerificationFails => "Jwt verification fails",
            Self::TooManyTokens => "Found multiple Jwt tokens",
            Self::NoValidKeys => "Jwks doesn't have any valid public key",
            Self::NoMatchingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::KeysNotFetched => "Jwks remote fetch is failed",
        }
    }

    /// Envoy's number of it, which `failed_status_in_metadata` carries.
    pub const fn code(self) -> u32 {
        match self {
            Self::Missing => 1,
            Self::NotYetValid => 2,
            Self::Expired => 3,
            Self::BadFormat => 4,
            Self::HeaderBadBase64 => 5,
            Self::HeaderBadJson => 6,
            Self::HeaderBadAlg => 7,
            Self::HeaderUnknownAlg => 8,
            Self::HeaderBadKid => 9,
            Self::PayloadBadBase64 => 10,
            Self::PayloadBadJson => 11,
            Self::IssuerNotString => 12,
            Self::SubjectNotString => 13,
            Self::IssuedAtNotInteger => 14,
            Self::IssuedAtOutOfRange => 15,
            Self::NotBeforeNotInteger => 16,
            Self::NotBeforeOutOfRange => 17,
            Self::ExpiresNotInteger => 18,
            Self::ExpiresOutOfRange => 19,
            Self::IdNotString => 20,
            Self::AudienceNotString => 21,
            Self::SignatureBadBase64 => 22,
            Self::Ed25519WrongLength => 23,
            Self::UnknownIssuer => 24,
            Self::AudienceNotAllowed => 25,
            Self::VerificationFails => 26,
            Self::TooManyTokens => 27,
            Self::NoValidKeys => 31,
            Self::NoMatchingKey => 32,
            Self::KeysNotFetched => 39,
        }
    }

    /// The status of the answer: who is not meant is forbidden, everyone else is not known.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::AudienceNotAllowed => 403,
            _ => 401,
        }
    }
}

impl std::fmt::Display for JwtStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}
