//! Requirements evaluated: which tokens are checked in which order, and what follows from them.
//!
//! Source: Envoy's `verifier.cc` and `authenticator.cc`. Held to Envoy 1.40 by the differential corpus of the proxy. Stricter on purpose:
//! - if several tokens are in the places of an optional requirement, all of them have to be good;
//! - what an alternative that fails has put into headers and metadata is taken back;
//! - a token whose header has `crit` is refused (RFC 7515 section 4.1.11).

mod trace;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header};

use super::audience::Audiences;
use super::cache::{MAX_CACHED_BYTES, TokenCache};
use super::edits::Edit;
use super::extract::{Found, Location, Locations};
use super::json;
use super::outcome::{Outcome, Refusal, TokenCheck};
use super::remote::{FetchedKeys, Keys, RemoteKeys};
use super::status::JwtStatus;
use super::token::{self, Signed, Token};
use super::{Edits, JwtAuthn, Provider, Requirement, RouteRequirement};
use crate::request::RequestView;
use crate::value::Value;

/// Tokens that are looked at in the places of one requirement. Each may cost a verification.
pub const MAX_TOKENS: usize = 16;

impl JwtAuthn {
    /// Judges a request's tokens.
    ///
    /// `now` is in seconds since 1970; `random` draws among rules for a share of requests. If the outcome names keys that were missed,
    /// it is none yet.
    pub fn authenticate(
        &self,
        request: &RequestView<'_>,
        route: Option<&RouteRequirement>,
        (now, random): (u64, u64),
        (cache, fetched): (&mut TokenCache, &dyn FetchedKeys),
    ) -> Outcome {
        self.run(request, route, (now, random), (cache, fetched), None)
    }

    /// Judges a request's tokens by the keys there are, and says of each how.
    pub fn explain(
        &self,
        request: &RequestView<'_>,
        route: Option<&RouteRequirement>,
        (now, random): (u64, u64),
        fetched: &dyn FetchedKeys,
    ) -> (Outcome, Vec<TokenCheck>) {
        let mut checks = Vec::new();
        let mut cache = TokenCache::new(0);
        let known = (&mut cache, fetched);
        let outcome = self.run(request, route, (now, random), known, Some(&mut checks));
        (outcome, checks)
    }

    fn run(
        &self,
        request: &RequestView<'_>,
        route: Option<&RouteRequirement>,
        (now, random): (u64, u64),
        (cache, fetched): (&mut TokenCache, &dyn FetchedKeys),
        trace: Option<&mut Vec<TokenCheck>>,
    ) -> Outcome {
        let mut outcome = Outcome::passed();
        if self.bypass_cors_preflight && is_preflight(request) {
            self.sanitize(request, &mut outcome.edits);
            return outcome;
        }
        let requirement = match self.requirement(request, route, random) {
            Ok(Some(requirement)) => requirement,
            Ok(None) => return outcome,
            Err(refusal) => return Outcome::refused(refusal),
        };
        self.sanitize(request, &mut outcome.edits);
        let mut run = Run {
            config: self,
            request,
            now,
            cache,
            fetched,
            missed: Vec::new(),
            edits: outcome.edits,
            metadata: BTreeMap::new(),
            clear_route_cache: false,
            trace,
        };
        let verdict = run.require(requirement);
        let metadata = (!run.metadata.is_empty()).then_some(Value::Struct(run.metadata));
        Outcome {
            verdict: verdict
                .map_err(|status| Refusal::of_token(status, request, self.strip_failure_response)),
            edits: run.edits,
            metadata,
            clear_route_cache: run.clear_route_cache,
            missed: run.missed,
        }
    }

    /// What is asked of a request.
    fn requirement(
        &self,
        request: &RequestView<'_>,
        route: Option<&RouteRequirement>,
        random: u64,
    ) -> Result<Option<&Requirement>, Refusal> {
        if let Some(RouteRequirement::Named(name)) = route {
            let refusal =
                || Refusal::of_requirement(name, self.named.keys(), self.strip_failure_response);
            return self.named.get(name).map(Some).ok_or_else(refusal);
        }
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.matcher.matches(request, random));
        Ok(rule.and_then(|rule| rule.requirement.as_ref()))
    }

    /// Takes from a request what only verification may put into it.
    fn sanitize(&self, request: &RequestView<'_>, edits: &mut Edits) {
        for provider in &self.providers {
            provider.sanitize(request, edits);
        }
    }
}

/// A request that asks whether another one may be made; it never carries credentials (Fetch standard section 3.3.2).
fn is_preflight(request: &RequestView<'_>) -> bool {
    let there = |name| {
        request
            .headers
            .get(name)
            .is_some_and(|value: &HeaderValue| !value.is_empty())
    };
    request.method == "OPTIONS"
        && there(header::ORIGIN)
        && there(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Provider {
    fn sanitize(&self, request: &RequestView<'_>, edits: &mut Edits) {
        let claims = self.claim_headers.iter().map(|claim| &claim.header);
        for name in self.payload_header.iter().chain(claims) {
            if request.headers.contains_key(name) && !edits.removes(name) {
                edits.push(Edit::Remove(name.clone()));
            }
        }
    }
}

/// The evaluation of one request.
struct Run<'a> {
    config: &'a JwtAuthn,
    request: &'a RequestView<'a>,
    now: u64,
    cache: &'a mut TokenCache,
    fetched: &'a dyn FetchedKeys,
    missed: Vec<Arc<RemoteKeys>>,
    edits: Edits,
    metadata: BTreeMap<Arc<str>, Value>,
    clear_route_cache: bool,
    trace: Option<&'a mut Vec<TokenCheck>>,
}

impl<'a> Run<'a> {
    fn require(&mut self, requirement: &'a Requirement) -> Result<(), JwtStatus> {
        match requirement {
            Requirement::Nothing => Ok(()),
            Requirement::Provider {
                provider,
                audiences,
            } => self.provider(*provider, audiences.as_ref()),
            Requirement::Any(list) => self.any(list),
            Requirement::All(list) => list.iter().try_for_each(|inner| self.require(inner)),
            Requirement::AllowMissing(group) => match self.tokens(&group.locations)? {
                None => Ok(()),
                Some(tokens) => tokens
                    .iter()
                    .rev()
                    .try_for_each(|found| self.token(found, Whose::FirstOf(&group.providers))),
            },
            Requirement::AllowMissingOrFailed(group) => {
                let Ok(Some(tokens)) = self.tokens(&group.locations) else {
                    return Ok(());
                };
                for found in tokens.iter().rev() {
                    let _ = self.token(found, Whose::FirstOf(&group.providers));
                }
                Ok(())
            }
        }
    }

    /// One of several. Of failures, those that are about a token that was meant come before those about one that was not.
    fn any(&mut self, list: &'a [Requirement]) -> Result<(), JwtStatus> {
        let mut failure = JwtStatus::Missing;
        for requirement in list {
            let (edits, metadata, clear) = (
                self.edits.len(),
                self.metadata.clone(),
                self.clear_route_cache,
            );
            let Err(status) = self.require(requirement) else {
                return Ok(());
            };
            self.edits.truncate(edits);
            self.clear_route_cache = clear;
            self.keep_failures(metadata);
            let says_more = match status {
                JwtStatus::Missing => false,
                JwtStatus::UnknownIssuer => failure == JwtStatus::Missing,
                _ => true,
            };
            if says_more {
                failure = status;
            }
        }
        Err(failure)
    }

    /// Goes back to earlier metadata, but for what says that a token failed.
    fn keep_failures(&mut self, mut earlier: BTreeMap<Arc<str>, Value>) {
        for provider in &self.config.providers {
            let key = &provider.failure_in_metadata;
            if let Some(failure) = self.metadata.remove(key).filter(|_| !key.is_empty()) {
                earlier.insert(Arc::clone(key), failure);
            }
        }
        self.metadata = earlier;
    }

    /// A provider's tokens: there has to be one, and all have to be good. Otherwise the workload might take the bad one for the
    /// one that was verified.
    fn provider(
        &mut self,
        index: usize,
        audiences: Option<&'a Audiences>,
    ) -> Result<(), JwtStatus> {
        let provider = &self.config.providers[index];
        match self.tokens(&provider.locations)? {
            None => {
                self.note_missing(provider);
                self.note_failure(Some(provider), JwtStatus::Missing);
                Err(JwtStatus::Missing)
            }
            Some(tokens) => tokens
                .iter()
                .rev()
                .try_for_each(|found| self.token(found, Whose::Of(provider, audiences))),
        }
    }

    /// The tokens in some places, unless there are too many to look at.
    fn tokens(&self, locations: &'a Locations) -> Result<Option<Vec<Found<'a>>>, JwtStatus> {
        let tokens = locations.find(self.request, &self.edits);
        match tokens.len() {
            0 => Ok(None),
            1..=MAX_TOKENS => Ok(Some(tokens)),
            _ => Err(JwtStatus::TooManyTokens),
        }
    }

    fn token(&mut self, found: &Found<'_>, whose: Whose<'a>) -> Result<(), JwtStatus> {
        let mut seen = Seen::default();
        let result = self.check(found, whose, &mut seen);
        if let Err(status) = result {
            self.note_failure(seen.provider, status);
        }
        self.note(found, &seen, result);
        result
    }

    fn check(
        &mut self,
        found: &Found<'_>,
        whose: Whose<'a>,
        seen: &mut Seen<'a>,
    ) -> Result<(), JwtStatus> {
        if let Whose::Of(provider, _) = whose {
            seen.provider = Some(provider);
            if let Some(known) = self.lookup(provider, &found.bytes) {
                seen.token = Some(Arc::clone(&known));
                self.check_claims(&known, found, provider, whose.audiences())?;
                self.accept(provider, &known, found.location);
                return Ok(());
            }
        }
        let (token, signed) = token::parse(&found.bytes)?;
        let token = Arc::new(token);
        seen.token = Some(Arc::clone(&token));
        if !found.issuers.allow(&token.issuer) {
            return Err(JwtStatus::UnknownIssuer);
        }
        let provider = match whose {
            Whose::Of(provider, _) => provider,
            Whose::FirstOf(group) => self
                .by_issuer(group, &token.issuer)
                .ok_or(JwtStatus::UnknownIssuer)?,
        };
        seen.provider = Some(provider);
        self.check_claims(&token, found, provider, whose.audiences())?;
        self.check_signature(&token, &signed, &found.bytes, provider)?;
        self.accept(provider, &token, found.location);
        Ok(())
    }

    /// A token that was verified before with the provider's keys.
    fn lookup(&mut self, provider: &Provider, bytes: &[u8]) -> Option<Arc<Token>> {
        let keys = provider.keys.held(self.fetched)?.ok()?;
        (bytes.len() <= MAX_CACHED_BYTES)
            .then(|| self.cache.get(&keys.fingerprint(bytes)))
            .flatten()
    }

    /// The first provider of an issuer, else the first of any.
    fn by_issuer(&self, group: &[usize], issuer: &str) -> Option<&'a Provider> {
        let config = self.config;
        let find = |wanted: &str| {
            group
                .iter()
                .map(|index| &config.providers[*index])
                .find(|provider| *provider.issuer == *wanted)
        };
        find(issuer).or_else(|| find(""))
    }

    /// Everything about a token but its signature. What is cheap comes first.
    fn check_claims(
        &self,
        token: &Token,
        found: &Found<'_>,
        provider: &Provider,
        audiences: Option<&Audiences>,
    ) -> Result<(), JwtStatus> {
        if !found.issuers.allow(&token.issuer) {
            return Err(JwtStatus::UnknownIssuer);
        }
        if token.critical || !subject_allowed(provider, token) {
            return Err(JwtStatus::VerificationFails);
        }
        if self.now.saturating_add(provider.clock_skew) < token.not_before {
            return Err(JwtStatus::NotYetValid);
        }
        if token
            .expires
            .is_some_and(|expires| self.now > expires.saturating_add(provider.clock_skew))
        {
            return Err(JwtStatus::Expired);
        }
        if !self.lifetime_allowed(provider, token) {
            return Err(JwtStatus::VerificationFails);
        }
        let audiences = audiences.unwrap_or(&provider.audiences);
        if !audiences.accept(&token.audiences) {
            return Err(JwtStatus::AudienceNotAllowed);
        }
        Ok(())
    }

    fn lifetime_allowed(&self, provider: &Provider, token: &Token) -> bool {
        match (token.expires, provider.max_lifetime) {
            (None, None) => !provider.require_expiration,
            (None, Some(_)) => false,
            (Some(_), None) => true,
            (Some(expires), Some(longest)) => {
                expires.saturating_sub(self.now) < longest.as_secs().max(1)
            }
        }
    }

    fn check_signature(
        &mut self,
        token: &Arc<Token>,
        signed: &Signed<'_>,
        bytes: &[u8],
        provider: &Provider,
    ) -> Result<(), JwtStatus> {
        let Some(keys) = provider.keys.held(self.fetched) else {
            self.miss(&provider.keys);
            return Err(JwtStatus::KeysNotFetched);
        };
        let keys = keys?;
        keys.verify(token.algorithm, token.key_id.as_deref(), signed)?;
        if bytes.len() <= MAX_CACHED_BYTES {
            self.cache
                .insert(keys.fingerprint(bytes), Arc::clone(token));
        }
        Ok(())
    }

    /// Notes that keys have to be fetched. Only for a token that is good but for its signature, so that nobody else causes fetches.
    fn miss(&mut self, keys: &Keys) {
        if let Keys::Remote(from) = keys
            && !self.missed.contains(from)
        {
            self.missed.push(Arc::clone(from));
        }
    }

    /// Does what a provider wants done with a good token.
    fn accept(&mut self, provider: &Provider, token: &Token, location: Location<'_>) {
        let payload = provider.payload_header.as_ref().and_then(|name| {
            let value = payload_value(&token.payload, provider.pad_payload)?;
            Some(Edit::Append(name.clone(), value))
        });
        let claims = provider.claim_headers.iter().filter_map(|claim| {
            let value = header_value(token.claims.at(&claim.path)?)?;
            Some(Edit::Append(claim.header.clone(), value))
        });
        let before = self.edits.len();
        claims.for_each(|edit| self.edits.push(edit));
        let told = self.edits.len() > before || !provider.payload_in_metadata.is_empty();
        self.clear_route_cache |= provider.clear_route_cache && told;
        payload.into_iter().for_each(|edit| self.edits.push(edit));
        if !provider.forward {
            match location {
                Location::Header(name) => self.edits.push(Edit::Remove(name.clone())),
                Location::Parameter(name) => self.edits.push(Edit::RemoveParameter(name.into())),
                // Source: Envoy's `forward` has no effect on cookies.
                Location::Cookie(_) => {}
            }
        }
        if !provider.header_in_metadata.is_empty() {
            self.metadata.insert(
                Arc::clone(&provider.header_in_metadata),
                token.header.clone(),
            );
        }
        if !provider.payload_in_metadata.is_empty() {
            self.metadata.insert(
                Arc::clone(&provider.payload_in_metadata),
                split_claims(token.claims.clone(), &provider.space_delimited),
            );
        }
    }

    /// Puts a failure into the metadata, where a provider wants it.
    fn note_failure(&mut self, provider: Option<&Provider>, status: JwtStatus) {
        let only = match &*self.config.providers {
            [only] => Some(only),
            _ => None,
        };
        let Some(provider) = provider.or(only) else {
            return;
        };
        let key = &provider.failure_in_metadata;
        if key.is_empty() {
            return;
        }
        let failure = BTreeMap::from([
            ("code".into(), Value::Number(f64::from(status.code()))),
            ("message".into(), Value::String(status.message().into())),
        ]);
        self.metadata
            .insert(Arc::clone(key), Value::Struct(failure));
    }
}

/// Whose token is looked for.
#[derive(Clone, Copy)]
enum Whose<'a> {
    /// A provider's, maybe for other audiences than its own.
    Of(&'a Provider, Option<&'a Audiences>),
    /// That of the first of these with the token's issuer.
    FirstOf(&'a [usize]),
}

impl<'a> Whose<'a> {
    const fn audiences(self) -> Option<&'a Audiences> {
        match self {
            Self::Of(_, audiences) => audiences,
            Self::FirstOf(_) => None,
        }
    }
}

/// How far checking a token came.
#[derive(Default)]
struct Seen<'a> {
    provider: Option<&'a Provider>,
    token: Option<Arc<Token>>,
}

fn subject_allowed(provider: &Provider, token: &Token) -> bool {
    provider
        .subjects
        .as_ref()
        .is_none_or(|matcher| matcher.matches(token.subject.as_bytes()))
}

fn payload_value(payload: &str, pad: bool) -> Option<HeaderValue> {
    let missing = match payload.len() % 4 {
        _ if !pad => 0,
        2 => 2,
        3 => 1,
        _ => 0,
    };
    HeaderValue::from_str(&format!("{payload}{}", &"=="[..missing])).ok()
}

/// A claim as a header: texts as they are, numbers and flags printed, everything else as JSON in base64. An empty text is no header.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::Null => return None,
        Value::String(text) => text.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_text(*number),
        Value::List(_) | Value::Struct(_) => STANDARD.encode(json::print(claim)),
    };
    // A text with a line break or the like cannot be a header; the claim is then not handed on.
    (!text.is_empty()).then(|| HeaderValue::from_str(&text).ok())?
}

/// Source: Envoy, `convertClaimDoubleToString`: whole numbers as such, all others with six digits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only whole numbers within the range are cast"
)]
fn number_text(number: f64) -> String {
    const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
    if (0.0..BEYOND_U64).contains(&number) && number.fract() == 0.0 {
        return (number as u64).to_string();
    }
    format!("{number:.6}")
}

/// Makes lists of claims that are lists in a text.
fn split_claims(mut claims: Value, names: &[Arc<str>]) -> Value {
    let Value::Struct(fields) = &mut claims else {
        return claims;
    };
    for name in names {
        let Some(value) = fields.get_mut(name) else {
            continue;
        };
        if let Value::String(text) = value {
            let words: Vec<Value> = text
                .split(' ')
                .filter(|word| !word.is_empty())
                .map(|word| Value::String(word.into()))
                .collect();
            // Nothing to split is left as it is, as Envoy leaves it.
            if !words.is_empty() {
                *value = Value::List(words);
            }
        }
    }
    claims
}
