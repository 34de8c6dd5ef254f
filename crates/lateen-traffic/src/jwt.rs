//! JSON Web Tokens of requests: which are looked for where, whether they are good, and what is made of them.
//!
//! This is Envoy's `envoy.filters.http.jwt_authn` as a pure function of its configuration, keys, the request and the time. Nothing is fetched and nothing is changed in here: [`JwtAuthn::authenticate`] returns an [`Outcome`] whose
//! [`Edits`] and metadata the caller applies.
//!
//! Where Envoy is looser than a standard that exists for safety, this is stricter, and says so at the place. The list for users
//! is in `docs/security.md`.
//!
//! Sources: Envoy's `source/extensions/filters/http/jwt_authn` and `source/common/jwt`; RFC 7515 to 7519, 8037, 8725.

mod audience;
mod cache;
mod edits;
mod extract;
mod json;
mod keys;
mod outcome;
mod remote;
mod status;
mod token;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::matcher::StringMatcher;
use crate::route::RouteMatch;

pub use audience::Audiences;
pub use cache::TokenCache;
pub use edits::{Edit, Edits};
pub use extract::{Issuers, Location, Locations};
pub use keys::{Algorithm, KeyProblem, KeySet, KeySetError, MAX_JWKS_BYTES, MAX_KEYS};
pub use outcome::{Outcome, Refusal, TokenCheck};
pub use remote::{FetchedKeys, Keys, RemoteKeys, Retries};
pub use status::JwtStatus;
pub use token::{MAX_TOKEN_BYTES, Token};
pub use verify::MAX_TOKENS;

/// The namespace of the dynamic metadata that verified claims are put into.
pub const METADATA_NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// Seconds by which clocks may differ, unless a provider says otherwise. Source: Envoy, `kClockSkewInSecond`.
pub const DEFAULT_CLOCK_SKEW: u64 = 60;

/// The filter's configuration.
#[derive(Debug, Default)]
pub struct JwtAuthn {
    /// Who issues tokens. Requirements name them by their index.
    pub providers: Vec<Provider>,
    /// What is asked of which requests; the first that matches counts, and without one nothing is asked.
    pub rules: Vec<Rule>,
    /// Requirements that rules and routes name.
    pub named: BTreeMap<Arc<str>, Requirement>,
    /// CORS preflights are let through.
    pub bypass_cors_preflight: bool,
    /// Refusals say nothing.
    pub strip_failure_response: bool,
    /// The prefix of its statistics.
    pub stat_prefix: Arc<str>,
}

/// Which requests a requirement is for.
#[derive(Debug)]
pub struct Rule {
    /// The requests.
    pub matcher: RouteMatch,
    /// What is asked of them; `None` asks for nothing.
    pub requirement: Option<Requirement>,
}

impl JwtAuthn {
    /// Where keys are fetched from.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.providers
            .iter()
            .filter_map(|provider| match &provider.keys {
                Keys::Remote(from) => Some(from),
                Keys::Given(_) => None,
            })
    }
}

/// What is asked of a request.
#[derive(Clone, Debug)]
pub enum Requirement {
    /// Nothing.
    Nothing,
    /// A good token of a provider, whose audiences may be replaced.
    Provider {
        /// The provider's index.
        provider: usize,
        /// Other audiences than the provider's.
        audiences: Option<Audiences>,
    },
    /// One of them, tried in order.
    Any(Vec<Requirement>),
    /// All of them.
    All(Vec<Requirement>),
    /// Tokens in these places are good, if there are any.
    AllowMissing(Group),
    /// Nothing is refused; what good tokens say is used.
    AllowMissingOrFailed(Group),
}

/// Several providers whose places are looked at together.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The providers' indexes, in the order of their names.
    pub providers: Vec<usize>,
    /// The places of all of them.
    pub locations: Locations,
}

/// An issuer of tokens.
#[derive(Debug)]
pub struct Provider {
    /// Its name in the configuration (Istio: `origins-0`).
    pub name: Arc<str>,
    /// What `iss` has to be; empty for anything.
    pub issuer: Arc<str>,
    /// For whom its tokens have to be.
    pub audiences: Audiences,
    /// Whom its tokens may be about.
    pub subjects: Option<StringMatcher>,
    /// Tokens have to expire.
    pub require_expiration: bool,
    /// For how long tokens may still be valid; they then have to expire.
    pub max_lifetime: Option<Duration>,
    /// Its keys.
    pub keys: Keys,
    /// Where its tokens are.
    pub locations: Locations,
    /// The token stays in the request.
    pub forward: bool,
    /// The header that the payload is handed on in.
    pub payload_header: Option<HeaderName>,
    /// The payload in that header is padded.
    pub pad_payload: bool,
    /// Claims that are handed on in headers.
    pub claim_headers: Vec<ClaimHeader>,
    /// The key of the metadata that claims are put into; empty for none.
    pub payload_in_metadata: Arc<str>,
    /// The key of the metadata that the token's header is put into; empty for none.
    pub header_in_metadata: Arc<str>,
    /// The key of the metadata that a failure is put into; empty for none.
    pub failure_in_metadata: Arc<str>,
    /// Claims whose text becomes a list in the metadata.
    pub space_delimited: Vec<Arc<str>>,
    /// Seconds by which the issuer's clock may differ.
    pub clock_skew: u64,
    /// The route is looked for again if the token changed what routes look at.
    pub clear_route_cache: bool,
}

/// A claim that is handed on in a header.
#[derive(Clone, Debug)]
pub struct ClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// The claim's name, with the names of the claims it is in before it.
    pub path: Vec<Arc<str>>,
}

/// What a route says of the filter.
#[derive(Clone, Debug)]
pub enum RouteRequirement {
    /// A requirement of [`JwtAuthn::named`] instead of the rules.
    Named(Arc<str>),
}

#[cfg(test)]
mod tests;
