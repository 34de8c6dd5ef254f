//! The whole filter: configuration as Istio generates it, requests, and what comes of them.

mod attacks;
mod mint;
mod rules;

use serde_json::{Value as Json, json};

use super::{JwtAuthn, JwtStatus, METADATA_NAMESPACE, Outcome, TokenCache};
use crate::testing::Request;
use crate::value::Value;
use mint::{ED25519, P256, P384, P521, RSA, SECRET, Signer};

/// The time of all tests.
const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

/// A filter's configuration from JSON.
fn config(json: Json) -> JwtAuthn {
    let message: lateen_envoy::pb::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication =
        lateen_envoy::json::from_value(json).unwrap();
    crate::from_xds::jwt_authn(&lateen_envoy::pack(&message)).unwrap()
}

fn jwks(keys: &[Json]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A provider of an issuer with keys, and further fields.
fn provider(issuer: &str, keys: &[Json], extra: Json) -> Json {
    let mut provider = json!({
        "issuer": issuer,
        "local_jwks": {"inline_string": jwks(keys)},
        "payload_in_metadata": "payload",
        "normalize_payload_in_metadata": {"space_delimited_claims": ["permission", "scope"]},
    });
    let Json::Object(extra) = extra else {
        panic!("further fields are an object")
    };
    provider.as_object_mut().unwrap().extend(extra);
    provider
}

/// What Istio makes of rules: one, or any of them, each of which may be missing.
fn istio(providers: &[Json]) -> JwtAuthn {
    let names: Vec<String> = (0..providers.len())
        .map(|n| format!("origins-{n}"))
        .collect();
    let optional: Vec<Json> = names
        .iter()
        .map(|name| {
            json!({"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}})
        })
        .collect();
    let requires = if let [only] = optional.as_slice() {
        only.clone()
    } else {
        let mut any: Vec<Json> = names
            .iter()
            .map(|name| json!({"provider_name": name}))
            .collect();
        any.push(json!({"requires_all": {"requirements": optional}}));
        json!({"requires_any": {"requirements": any}})
    };
    let named: serde_json::Map<_, _> = names.into_iter().zip(providers.iter().cloned()).collect();
    config(json!({
        "providers": named,
        "rules": [{"match": {"prefix": "/"}, "requires": requires}],
        "bypass_cors_preflight": true,
    }))
}

/// One rule with the RSA key.
fn simple() -> JwtAuthn {
    istio(&[provider(ISSUER, &[RSA.jwk(json!({"kid": "r"}))], json!({}))])
}

fn claims() -> Json {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW + 600})
}

fn with(mut claims: Json, more: Json) -> Json {
    let Json::Object(more) = more else {
        panic!("claims are an object")
    };
    claims.as_object_mut().unwrap().extend(more);
    claims
}

/// A good token of the RSA key with further claims.
fn token(more: Json) -> String {
    RSA.token(&json!({"alg": "RS256", "kid": "r"}), &with(claims(), more))
}

fn bearer(token: &str) -> Request {
    Request::get().header("authorization", &format!("Bearer {token}"))
}

fn run(config: &JwtAuthn, request: &Request) -> Outcome {
    let mut cache = TokenCache::default();
    config.authenticate(&request.view(), None, (NOW, 0), (&mut cache, &()))
}

fn verdict(config: &JwtAuthn, request: &Request) -> Result<(), JwtStatus> {
    run(config, request)
        .verdict
        .map_err(|refusal| refusal.reason.unwrap())
}

fn of_token(config: &JwtAuthn, token: &str) -> Result<(), JwtStatus> {
    verdict(config, &bearer(token))
}

/// A claim as later filters see it.
fn claim(outcome: &Outcome, name: &str) -> Option<Value> {
    let metadata = outcome.metadata.as_ref()?;
    metadata.at(&["payload", name]).cloned()
}

fn string(text: &str) -> Option<Value> {
    Some(Value::String(text.into()))
}

#[test]
fn every_algorithm_verifies_with_its_own_key() {
    let signers: [(&Signer, &[&str]); 6] = [
        (
            &RSA,
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ),
        (&P256, &["ES256"]),
        (&P384, &["ES384"]),
        (&P521, &["ES512"]),
        (&ED25519, &["EdDSA"]),
        (&SECRET, &["HS256", "HS384", "HS512"]),
    ];
    for (signer, algorithms) in signers {
        let config = istio(&[provider(ISSUER, &[signer.jwk(json!({}))], json!({}))]);
        for algorithm in algorithms {
            let token = signer.token(&json!({"alg": algorithm}), &claims());
            assert_eq!(of_token(&config, &token), Ok(()), "{algorithm}");
            let at = token.len() - 20;
            let changed = if &token[at..=at] == "A" { "B" } else { "A" };
            let forged = format!("{}{changed}{}", &token[..at], &token[at + 1..]);
            assert_eq!(
                of_token(&config, &forged),
                Err(JwtStatus::VerificationFails),
                "{algorithm}"
            );
        }
    }
}

#[test]
fn a_request_without_a_token_passes_and_claims_nothing() {
    let outcome = run(&simple(), &Request::get());
    assert!(outcome.verdict.is_ok());
    assert!(outcome.metadata.is_none());
    assert!(outcome.edits.is_empty());
}

#[test]
fn claims_of_a_good_token_become_metadata_and_the_token_goes() {
    let config = simple();
    let request = bearer(&token(json!({
        "scope": "read write", "roles": ["a", "b"], "n": 1, "deep": {"x": {"y": "z"}}, "permission": "",
    })));
    let outcome = run(&config, &request);
    assert!(outcome.verdict.is_ok());
    assert_eq!(claim(&outcome, "sub"), string("alice"));
    assert_eq!(claim(&outcome, "n"), Some(Value::Number(1.0)));
    assert_eq!(claim(&outcome, "permission"), string(""));
    let words = ["read", "write"].map(|word| Value::String(word.into()));
    assert_eq!(claim(&outcome, "scope"), Some(Value::List(words.to_vec())));
    let metadata = outcome.metadata.unwrap();
    assert_eq!(
        metadata.at(&["payload", "deep", "x", "y"]),
        string("z").as_ref()
    );
    assert_eq!(METADATA_NAMESPACE, "envoy.filters.http.jwt_authn");
    let (mut headers, mut path) = (request.headers.clone(), "/".to_owned());
    outcome.edits.apply(&mut headers, &mut path);
    assert!(headers.is_empty());
}

#[test]
fn a_refusal_has_envoys_words() {
    let config = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({"audiences": ["me"]}),
    )]);
    let refusal = run(&config, &bearer("x")).verdict.unwrap_err();
    assert_eq!(refusal.status, 401);
    assert_eq!(
        refusal.body,
        "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
    );
    assert_eq!(
        refusal.www_authenticate.as_deref(),
        Some("Bearer realm=\"http://example.com/\", error=\"invalid_token\"")
    );
    let refusal = run(&config, &bearer(&token(json!({}))))
        .verdict
        .unwrap_err();
    assert_eq!(refusal.status, 403);
    assert_eq!(refusal.body, "Audiences in Jwt are not allowed");
    assert_eq!(
        refusal.details,
        "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"
    );
}

#[test]
fn a_missing_token_is_told_apart_where_one_is_asked_for() {
    let config = config(json!({
        "providers": {"p": provider(ISSUER, &[RSA.jwk(json!({}))], json!({}))},
        "rules": [{"match": {"prefix": "/private"}, "requires": {"provider_name": "p"}}],
    }));
    assert_eq!(verdict(&config, &Request::path("/public")), Ok(()));
    let refusal = run(&config, &Request::path("/private/\"x?q=1"))
        .verdict
        .unwrap_err();
    assert_eq!(refusal.body, "Jwt is missing");
    assert_eq!(
        refusal.www_authenticate.as_deref(),
        Some("Bearer realm=\"http://example.com/private/%22x?q=1\"")
    );
}

#[test]
fn audiences_are_any_of_the_tokens_and_any_of_the_rules() {
    let config = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({"audiences": ["a", "https://b/"]}),
    )]);
    for good in [json!("a"), json!(["x", "b"]), json!("http://b")] {
        assert_eq!(of_token(&config, &token(json!({"aud": good}))), Ok(()));
    }
    for bad in [json!("c"), json!([]), json!(["A", "b/x"])] {
        let status = of_token(&config, &token(json!({"aud": bad})));
        assert_eq!(status, Err(JwtStatus::AudienceNotAllowed), "{bad}");
    }
    for wrong in [json!(1), json!(["a", 1]), json!({"a": 1})] {
        let status = of_token(&config, &token(json!({"aud": wrong})));
        assert_eq!(status, Err(JwtStatus::AudienceNotString), "{wrong}");
    }
}

#[test]
fn payload_and_claims_are_handed_on_in_headers() {
    let config = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({
            "forward": true,
            "forward_payload_header": "x-payload",
            "claim_to_headers": [
                {"header_name": "x-sub", "claim_name": "sub"},
                {"header_name": "x-deep", "claim_name": "deep.er"},
                {"header_name": "x-int", "claim_name": "int"},
                {"header_name": "x-real", "claim_name": "real"},
                {"header_name": "x-flag", "claim_name": "flag"},
                {"header_name": "x-list", "claim_name": "list"},
                {"header_name": "x-bad", "claim_name": "bad"},
                {"header_name": "x-none", "claim_name": "none"},
            ],
        }),
    )]);
    let token = token(json!({
        "deep": {"er": "d"}, "int": 42, "real": -1.5, "flag": true, "list": ["a", 1], "bad": "a\r\nx: y", "none": null,
    }));
    let request = bearer(&token)
        .header("x-sub", "root")
        .header("x-none", "root")
        .header("x-payload", "forged");
    let outcome = run(&config, &request);
    let (mut headers, mut path) = (request.headers.clone(), String::new());
    outcome.edits.apply(&mut headers, &mut path);
    let all = |name| -> Vec<&str> {
        headers
            .get_all(name)
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect()
    };
    assert_eq!(all("x-sub"), ["alice"]);
    assert_eq!(all("x-deep"), ["d"]);
    assert_eq!(all("x-int"), ["42"]);
    assert_eq!(all("x-real"), ["-1.500000"]);
    assert_eq!(all("x-flag"), ["true"]);
    assert_eq!(all("x-list"), ["WyJhIiwxXQ=="]);
    assert!(all("x-bad").is_empty() && all("x-none").is_empty());
    assert_eq!(all("x-payload"), [token.split('.').nth(1).unwrap()]);
    assert_eq!(
        all("authorization").len(),
        1,
        "the original token is forwarded"
    );
}

#[test]
fn times_are_checked_with_a_minute_for_clocks_that_differ() {
    let config = simple();
    let check = |more| of_token(&config, &token(more));
    assert_eq!(check(json!({"exp": NOW - 60})), Ok(()));
    assert_eq!(check(json!({"exp": NOW - 61})), Err(JwtStatus::Expired));
    assert_eq!(check(json!({"nbf": NOW + 60})), Ok(()));
    assert_eq!(check(json!({"nbf": NOW + 61})), Err(JwtStatus::NotYetValid));
    assert_eq!(check(json!({"exp": 0})), Err(JwtStatus::Expired));
    assert_eq!(check(json!({"exp": NOW as f64 + 0.5})), Ok(()));
    let without = RSA.token(&json!({"alg": "RS256"}), &json!({"iss": ISSUER}));
    assert_eq!(of_token(&config, &without), Ok(()));
    let own = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({"clock_skew_seconds": 5}),
    )]);
    assert_eq!(of_token(&own, &token(json!({"exp": NOW - 5}))), Ok(()));
    assert_eq!(
        of_token(&own, &token(json!({"exp": NOW - 6}))),
        Err(JwtStatus::Expired)
    );
}

#[test]
fn a_verified_token_is_not_verified_again_but_its_time_is_checked() {
    let config = simple();
    let request = bearer(&token(json!({})));
    let mut cache = TokenCache::default();
    let mut at = |now| {
        let outcome = config.authenticate(&request.view(), None, (now, 0), (&mut cache, &()));
        (
            outcome.verdict.map_err(|refusal| refusal.reason.unwrap()),
            claim_count(&outcome.metadata),
        )
    };
    assert_eq!(at(NOW), (Ok(()), 3));
    assert_eq!(at(NOW), (Ok(()), 3));
    assert_eq!(at(NOW + 661), (Err(JwtStatus::Expired), 0));
    assert_eq!(cache.len(), 1);
    let (hits, _) = cache.hits_and_misses();
    assert!(hits >= 2, "{hits}");
    let other = istio(&[provider(
        ISSUER,
        &[mint::OTHER_RSA.jwk(json!({}))],
        json!({}),
    )]);
    let outcome = other.authenticate(&request.view(), None, (NOW, 0), (&mut cache, &()));
    assert!(outcome.verdict.is_err(), "other keys never verified it");
}

fn claim_count(metadata: &Option<Value>) -> usize {
    match metadata.as_ref().and_then(|value| value.at(&["payload"])) {
        Some(Value::Struct(claims)) => claims.len(),
        _ => 0,
    }
}

#[test]
fn an_explanation_says_which_token_failed_where_and_by_which_value() {
    let config = simple();
    let request = bearer(&token(json!({"exp": NOW - 100})));
    let (outcome, checks) = config.explain(&request.view(), None, (NOW, 0), &());
    assert!(outcome.verdict.is_err());
    let check = &checks[0];
    assert_eq!(check.provider.as_deref(), Some("origins-0"));
    assert_eq!(check.location.as_deref(), Some("header authorization"));
    assert_eq!(check.issuer.as_deref(), Some(ISSUER));
    assert_eq!(check.key_id.as_deref(), Some("r"));
    assert_eq!(check.result, Err(JwtStatus::Expired));
    assert!(check.why.contains("expired 100 s ago"), "{}", check.why);
    let (_, checks) = config.explain(&Request::get().view(), None, (NOW, 0), &());
    assert_eq!(checks[0].result, Err(JwtStatus::Missing));
}
