//! Tokens as if their issuer had issued them: what a request would carry, described by its claims.
//!
//! Such a token is signed with a key that everybody has (it is in this file), and the mesh that is explained trusts that key beside the
//! issuers' own. So issuer, audiences, times, places and claims are judged by the engine as every token's are; only the signature
//! means nothing. A mesh that trusts the key is for explanations and tests alone: nothing here reaches a proxy that runs.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lateen_api::security::{JwtRule, RequestAuthentication};
use lateen_api::{Resource, Spec};
use lateen_compile::{Jwks, JwksSource, JwksStore};
use serde_json::{Map, Value, json};

use crate::asked::{Asked, AskedError};

/// How the key is named in tokens and key sets.
const KEY_ID: &str = "as-if-signed";
/// The private half; it is no secret.
const SEED: &[u8; 32] = b"lateen explain signs for anybody";
/// Seconds for which a token is good that does not say when it ends.
const LIFETIME: u64 = 3600;

/// Why a token cannot be made of claims.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The claims do not say whose token it is.
    #[error("the claims have no `iss`, and {}", whose(.0))]
    NoIssuer(Vec<String>),
    /// A place where the issuer's tokens are cannot hold one.
    #[error("putting the token into the request")]
    Place(#[source] AskedError),
}

fn whose(issuers: &[String]) -> String {
    match issuers {
        [] => "no RequestAuthentication of the mesh names an issuer".to_owned(),
        list => format!("the mesh has several issuers: {}", list.join(", ")),
    }
}

/// Lets a mesh trust the key beside the keys of every issuer.
pub(crate) fn trust(resources: &mut [Resource], store: &mut JwksStore) {
    for resource in resources {
        let Some(spec) = resource.spec_as::<RequestAuthentication>() else {
            continue;
        };
        let mut changed = spec.clone();
        for rule in &mut changed.jwt_rules {
            match JwksSource::of(rule) {
                None => rule.jwks = with_key(&rule.jwks),
                Some(source) => {
                    let known = store.get(&source).and_then(|jwks| jwks.keys.clone());
                    let keys = with_key(known.as_deref().unwrap_or(r#"{"keys":[]}"#));
                    let jwks = Jwks {
                        keys: Some(keys.into()),
                        problem: None,
                    };
                    store.insert(source, jwks);
                }
            }
        }
        resource.spec = Arc::new(Spec::RequestAuthentication(changed));
    }
}

/// A key set with the key; as it is if it is none.
fn with_key(set: &str) -> String {
    let Ok(mut parsed) = serde_json::from_str::<Value>(set) else {
        return set.to_owned();
    };
    let Some(keys) = parsed.get_mut("keys").and_then(Value::as_array_mut) else {
        return set.to_owned();
    };
    if let Some(pair) = pair() {
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        keys.push(json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": KEY_ID, "x": x}));
    }
    parsed.to_string()
}

fn pair() -> Option<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(SEED).ok()
}

/// Puts a token with these claims where the issuer's rule looks for one. What is not said is what the rule asks for: its issuer if there is
/// only one, its first audience, an end in an hour; a claim that is `null` is left out.
///
/// # Errors
/// It cannot be told whose token it is, or the place for it is none.
pub(crate) fn carry<'r>(
    asked: &mut Asked,
    rules: impl Iterator<Item = &'r JwtRule> + Clone,
    mut claims: Map<String, Value>,
    now: u64,
) -> Result<(), TokenError> {
    if !claims.contains_key("iss") {
        let mut issuers: Vec<String> = rules.clone().map(|rule| rule.issuer.clone()).collect();
        issuers.sort();
        issuers.dedup();
        let [only] = &issuers[..] else {
            return Err(TokenError::NoIssuer(issuers));
        };
        claims.insert("iss".to_owned(), only.clone().into());
    }
    let issuer = claims.get("iss").and_then(Value::as_str);
    let rule = rules
        .clone()
        .find(|rule| Some(rule.issuer.as_str()) == issuer);
    if let Some(audience) = rule.and_then(|rule| rule.audiences.first()) {
        claims
            .entry("aud")
            .or_insert_with(|| audience.clone().into());
    }
    claims
        .entry("exp")
        .or_insert_with(|| now.saturating_add(LIFETIME).into());
    claims.retain(|_, value| !value.is_null());
    put(asked, rule, &sign(&Value::Object(claims)))
}

fn put(asked: &mut Asked, rule: Option<&JwtRule>, token: &str) -> Result<(), TokenError> {
    let place = |result: Result<(), AskedError>| result.map_err(TokenError::Place);
    let Some(rule) = rule else {
        return place(asked.set_header("authorization", &format!("Bearer {token}")));
    };
    if let Some(header) = rule.from_headers.first() {
        return place(asked.set_header(&header.name, &format!("{}{token}", header.prefix)));
    }
    if let Some(name) = rule.from_params.first() {
        let mark = if asked.url.path.contains('?') {
            '&'
        } else {
            '?'
        };
        asked.url.path.push_str(&format!("{mark}{name}={token}"));
        return Ok(());
    }
    if let Some(name) = rule.from_cookies.first() {
        return place(asked.set_header("cookie", &format!("{name}={token}")));
    }
    place(asked.set_header("authorization", &format!("Bearer {token}")))
}

fn sign(claims: &Value) -> String {
    let head = json!({"alg": "EdDSA", "kid": KEY_ID, "typ": "JWT"});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&head), encode(claims));
    let signature = pair().map(|pair| pair.sign(signed.as_bytes()));
    let signature = signature.as_ref().map_or(&[][..], AsRef::as_ref);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(issuer: &str) -> JwtRule {
        JwtRule {
            issuer: issuer.to_owned(),
            audiences: vec!["shop".to_owned()],
            ..JwtRule::default()
        }
    }

    fn claims(asked: &Asked) -> Value {
        let header = asked.headers["authorization"].to_str().unwrap();
        let body = header.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
    }

    fn asked(rules: &[JwtRule], given: Value) -> Result<Asked, TokenError> {
        let mut asked = Asked::parse(None, "http://web/x", &[]).unwrap();
        let Value::Object(given) = given else {
            panic!("claims are an object")
        };
        carry(&mut asked, rules.iter(), given, 1000)?;
        Ok(asked)
    }

    #[test]
    fn what_is_not_said_is_what_the_rule_asks_for() {
        let asked = asked(&[rule("a")], json!({"role": "admin"})).unwrap();
        assert_eq!(
            claims(&asked),
            json!({"iss": "a", "aud": "shop", "exp": 4600, "role": "admin"})
        );
    }

    #[test]
    fn null_leaves_a_claim_out_and_several_issuers_have_to_be_told_apart() {
        let two = [rule("a"), rule("b")];
        let given = asked(&two, json!({"iss": "b", "aud": null, "exp": null})).unwrap();
        assert_eq!(claims(&given), json!({"iss": "b"}));
        let error = asked(&two, json!({})).unwrap_err().to_string();
        assert!(error.contains("several issuers: a, b"), "{error}");
    }

    #[test]
    fn the_token_goes_where_the_rule_looks_for_it() {
        let in_query = JwtRule {
            from_params: vec!["t".to_owned()],
            ..rule("a")
        };
        let asked = asked(&[in_query], json!({})).unwrap();
        assert!(asked.url.path.starts_with("/x?t=ey"), "{}", asked.url.path);
        assert!(asked.headers.is_empty());
    }

    #[test]
    fn a_key_set_keeps_its_own_keys_and_what_is_none_is_left_alone() {
        let set: Value = serde_json::from_str(&with_key(r#"{"keys":[{"kid":"own"}]}"#)).unwrap();
        assert_eq!(set["keys"][0]["kid"], "own");
        assert_eq!(set["keys"][1]["kid"], KEY_ID);
        assert_eq!(with_key("nonsense"), "nonsense");
    }
}
