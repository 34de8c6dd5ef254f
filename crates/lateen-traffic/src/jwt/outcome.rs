//! What verification comes to.

use std::borrow::Cow;
use std::sync::Arc;

use super::edits::Edits;
use super::remote::RemoteKeys;
use super::status::JwtStatus;
use crate::request::RequestView;
use crate::value::Value;

/// Bytes of the path that a refusal repeats. Source: Envoy, `MaximumUriLength`.
const MAX_REALM_PATH: usize = 256;

/// What verification comes to.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the request may go on.
    pub verdict: Result<(), Refusal>,
    /// What has to be changed of it, even if it may not: what a client claims to have been verified is never handed on.
    pub edits: Edits,
    /// What is to be merged into the dynamic metadata under [`super::METADATA_NAMESPACE`].
    pub metadata: Option<Value>,
    /// The route has to be looked for again.
    pub clear_route_cache: bool,
    /// Keys that were missed. Unless there are none, the rest is of no meaning: they have to be fetched, and the request judged again.
    pub missed: Vec<Arc<RemoteKeys>>,
}

impl Outcome {
    pub(super) fn passed() -> Self {
        Self {
            verdict: Ok(()),
            edits: Edits::default(),
            metadata: None,
            clear_route_cache: false,
            missed: Vec::new(),
        }
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            verdict: Err(refusal),
            ..Self::passed()
        }
    }
}

/// How a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why; `None` if it is not about a token but about the configuration.
    pub reason: Option<JwtStatus>,
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: String,
    /// The value of `www-authenticate`.
    pub www_authenticate: Option<String>,
}

impl Refusal {
    /// A refusal because of a token.
    pub(super) fn of_token(status: JwtStatus, request: &RequestView<'_>, silent: bool) -> Self {
        let challenge = || {
            let error = match status {
                JwtStatus::Missing => "",
                _ => ", error=\"invalid_token\"",
            };
            format!("Bearer realm=\"{}\"{error}", realm(request))
        };
        Self {
            reason: Some(status),
            status: status.http_status(),
            body: if silent { "" } else { status.message() }.into(),
            details: details(status.message()),
            www_authenticate: (!silent).then(challenge),
        }
    }

    /// A refusal because a route names a requirement that does not exist.
    pub(super) fn of_requirement<'a>(
        name: &str,
        known: impl Iterator<Item = &'a Arc<str>>,
        silent: bool,
    ) -> Self {
        let known: Vec<&str> = known.map(|name| &**name).collect();
        let message = format!(
            "Wrong requirement_name: {name}. It should be one of [{}]",
            known.join(",")
        );
        Self {
            reason: None,
            status: 403,
            details: details(&message),
            body: if silent {
                "".into()
            } else {
                format!("Failed JWT authentication: {message}").into()
            },
            www_authenticate: None,
        }
    }
}

fn details(message: &str) -> String {
    let message = message.replace(char::is_whitespace, "_");
    format!("jwt_authn_access_denied{{{message}}}")
}

/// What was asked for, as a protection space. A path is the client's: what would end the quoted text is encoded.
fn realm(request: &RequestView<'_>) -> String {
    let end = request
        .path
        .char_indices()
        .map(|(at, _)| at)
        .take_while(|at| *at <= MAX_REALM_PATH)
        .last()
        .unwrap_or(0);
    let path = if request.path.len() <= MAX_REALM_PATH {
        request.path
    } else {
        &request.path[..end]
    };
    let uri = format!("{}://{}{path}", request.scheme, request.authority);
    uri.replace('\\', "%5C").replace('"', "%22")
}

/// How one token was judged, for who explains a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCheck {
    /// The provider it was checked for; `None` where none was found for its issuer.
    pub provider: Option<Arc<str>>,
    /// Where it was found; `None` if there was none.
    pub location: Option<String>,
    /// Its `iss`, as far as it could be read.
    pub issuer: Option<Arc<str>>,
    /// Its `sub`.
    pub subject: Option<Arc<str>>,
    /// Its `kid`.
    pub key_id: Option<Arc<str>>,
    /// Its `alg`.
    pub algorithm: Option<&'static str>,
    /// What came of it.
    pub result: Result<(), JwtStatus>,
    /// Why, in a sentence with the values that decided it; empty if it is good.
    pub why: String,
}
