//! Why a token was judged as it was, in sentences. Runs only for who explains.

use std::sync::Arc;

use super::{Run, Seen};
use crate::jwt::extract::Found;
use crate::jwt::outcome::TokenCheck;
use crate::jwt::status::JwtStatus;
use crate::jwt::token::{MAX_TOKEN_BYTES, Token};
use crate::jwt::{MAX_TOKENS, Provider};

impl Run<'_> {
    /// Notes that a provider found no token.
    pub(super) fn note_missing(&mut self, provider: &Provider) {
        let Some(trace) = self.trace.as_deref_mut() else {
            return;
        };
        trace.push(TokenCheck {
            provider: Some(Arc::clone(&provider.name)),
            location: None,
            issuer: None,
            subject: None,
            key_id: None,
            algorithm: None,
            result: Err(JwtStatus::Missing),
            why: "none of the places where its tokens may be holds one".to_owned(),
        });
    }

    /// Notes how a token was judged.
    pub(super) fn note(
        &mut self,
        found: &Found<'_>,
        seen: &Seen<'_>,
        result: Result<(), JwtStatus>,
    ) {
        if self.trace.is_none() {
            return;
        }
        let token = seen.token.as_deref();
        let why = match result {
            Ok(()) => String::new(),
            Err(status) => self.why(status, found, seen),
        };
        let check = TokenCheck {
            provider: seen.provider.map(|provider| Arc::clone(&provider.name)),
            location: Some(found.location.to_string()),
            issuer: token.map(|token| Arc::clone(&token.issuer)),
            subject: token.map(|token| Arc::clone(&token.subject)),
            key_id: token.and_then(|token| token.key_id.clone()),
            algorithm: token.map(|token| token.algorithm.as_str()),
            result,
            why,
        };
        if let Some(trace) = self.trace.as_deref_mut() {
            trace.push(check);
        }
    }

    fn why(&self, status: JwtStatus, found: &Found<'_>, seen: &Seen<'_>) -> String {
        if let (Some(token), Some(provider)) = (seen.token.as_deref(), seen.provider)
            && let Some(why) = self.why_of_token(status, token, provider)
        {
            return why;
        }
        match (status, seen.token.as_deref()) {
            (JwtStatus::UnknownIssuer, Some(token)) => format!(
                "the token is of `{}`, and no rule takes its tokens from {}",
                token.issuer, found.location
            ),
            (JwtStatus::BadFormat, _) if found.bytes.len() > MAX_TOKEN_BYTES => format!(
                "the token has {} bytes; more than {MAX_TOKEN_BYTES} are not looked at",
                found.bytes.len()
            ),
            (JwtStatus::TooManyTokens, _) => {
                format!("more than {MAX_TOKENS} tokens are not looked at")
            }
            (JwtStatus::HeaderUnknownAlg, _) => {
                "the algorithm has to be one of RS, PS or ES with 256, 384 or 512, or EdDSA; \
                 `none` never is one"
                    .to_owned()
            }
            (JwtStatus::HeaderBadJson | JwtStatus::PayloadBadJson, _) => {
                "it has to be a JSON object in which no name occurs twice".to_owned()
            }
            _ => status.message().to_owned(),
        }
    }

    fn why_of_token(
        &self,
        status: JwtStatus,
        token: &Token,
        provider: &Provider,
    ) -> Option<String> {
        let skew = provider.clock_skew;
        Some(match status {
            JwtStatus::UnknownIssuer => format!(
                "the token is of `{}`, the rule is for tokens of `{}`",
                token.issuer, provider.issuer
            ),
            JwtStatus::Expired => format!(
                "it expired {} s ago; {skew} s are allowed for clocks that differ",
                self.now.saturating_sub(token.expires?)
            ),
            JwtStatus::NotYetValid => format!(
                "it is valid in {} s; {skew} s are allowed for clocks that differ",
                token.not_before.saturating_sub(self.now)
            ),
            JwtStatus::AudienceNotAllowed => format!(
                "it is for [{}], the rule takes [{}]",
                token.audiences.join(", "),
                provider.audiences.iter().collect::<Vec<_>>().join(", ")
            ),
            JwtStatus::NoMatchingKey => format!(
                "it was signed with key `{}` by {}; the issuer's keys are [{}]",
                token.key_id.as_deref().unwrap_or_default(),
                token.algorithm.as_str(),
                key_ids(provider)
            ),
            JwtStatus::KeysNotFetched => {
                "the issuer's keys are fetched by the proxy, and none are known".to_owned()
            }
            JwtStatus::NoValidKeys => {
                "the issuer has no key that can be used, so that no token of it is taken".to_owned()
            }
            JwtStatus::VerificationFails if token.critical => {
                "its header has `crit`, and nothing that may be asked for there is understood"
                    .to_owned()
            }
            JwtStatus::VerificationFails => format!(
                "no key of `{}` for {} made its signature; the issuer's keys are [{}]",
                provider.issuer,
                token.algorithm.as_str(),
                key_ids(provider)
            ),
            _ => return None,
        })
    }
}

fn key_ids(provider: &Provider) -> String {
    provider.keys.given().map_or_else(String::new, |keys| {
        keys.key_ids().collect::<Vec<_>>().join(", ")
    })
}
