//! Several providers, requirements and routes.

use super::*;
use crate::jwt::{MAX_TOKENS, RouteRequirement};

const OTHER: &str = "https://other.example";

fn two(first: Json, second: Json) -> JwtAuthn {
    istio(&[
        provider(ISSUER, &[RSA.jwk(json!({}))], first),
        provider(OTHER, &[P256.jwk(json!({}))], second),
    ])
}

fn other_token(more: Json) -> String {
    let claims = json!({"iss": OTHER, "sub": "bob"});
    P256.token(&json!({"alg": "ES256"}), &with(claims, more))
}

#[test]
fn providers_that_share_a_place_each_take_their_own_tokens() {
    let config = two(json!({}), json!({}));
    let outcome = run(&config, &bearer(&token(json!({}))));
    assert_eq!(claim(&outcome, "sub"), string("alice"));
    let outcome = run(&config, &bearer(&other_token(json!({}))));
    assert_eq!(claim(&outcome, "sub"), string("bob"));
    assert_eq!(verdict(&config, &Request::get()), Ok(()));
}

#[test]
fn an_issuers_token_needs_that_issuers_key() {
    let config = two(json!({}), json!({}));
    let forged = P256.token(&json!({"alg": "ES256"}), &claims());
    assert_eq!(
        of_token(&config, &forged),
        Err(JwtStatus::VerificationFails)
    );
    let unknown = RSA.token(
        &json!({"alg": "RS256"}),
        &json!({"iss": "https://evil.example"}),
    );
    assert_eq!(of_token(&config, &unknown), Err(JwtStatus::UnknownIssuer));
    let nobody = RSA.token(&json!({"alg": "RS256"}), &json!({"sub": "alice"}));
    assert_eq!(of_token(&config, &nobody), Err(JwtStatus::UnknownIssuer));
}

#[test]
fn the_failure_of_the_token_that_was_meant_is_told() {
    let config = two(json!({}), json!({"audiences": ["me"]}));
    let refused = of_token(&config, &other_token(json!({})));
    assert_eq!(refused, Err(JwtStatus::AudienceNotAllowed));
    let refused = of_token(&config, &token(json!({"exp": 1})));
    assert_eq!(refused, Err(JwtStatus::Expired));
}

#[test]
fn a_good_token_does_not_carry_a_bad_one_in_another_place_of_the_same_rule() {
    let config = simple();
    let good = token(json!({}));
    let bad = format!("/?access_token={}", token(json!({"exp": 1})));
    let request = Request::path(&bad).header("authorization", &format!("Bearer {good}"));
    assert_eq!(verdict(&config, &request), Err(JwtStatus::Expired));
    let twice = bearer(&good).header("authorization", "Bearer x.y.z");
    assert!(verdict(&config, &twice).is_err());
    let twice = bearer("x.y.z").header("authorization", &format!("Bearer {good}"));
    assert!(verdict(&config, &twice).is_err());
}

#[test]
fn tokens_are_taken_from_headers_parameters_and_cookies() {
    let places = json!({
        "from_headers": [{"name": "x-jwt"}, {"name": "x-pre", "value_prefix": "jwt "}],
        "from_params": ["t"],
        "from_cookies": ["session"],
    });
    let config = istio(&[provider(ISSUER, &[RSA.jwk(json!({}))], places)]);
    let good = token(json!({}));
    let sub = |request: &Request| claim(&run(&config, request), "sub");
    assert_eq!(sub(&Request::get().header("x-jwt", &good)), string("alice"));
    assert_eq!(
        sub(&Request::get().header("x-pre", &format!("jwt {good}"))),
        string("alice")
    );
    assert_eq!(sub(&Request::path(&format!("/?t={good}"))), string("alice"));
    let cookie = Request::get().header("cookie", &format!("a=b; session={good}"));
    assert_eq!(sub(&cookie), string("alice"));
    assert_eq!(
        sub(&bearer(&good)),
        None,
        "the default places are not looked at"
    );
    let request = Request::path(&format!("/p?a=1&t={good}&b=2"));
    let (mut headers, mut path) = (request.headers.clone(), format!("/p?a=1&t={good}&b=2"));
    run(&config, &request).edits.apply(&mut headers, &mut path);
    assert_eq!(path, "/p?a=1&b=2");
}

#[test]
fn an_empty_header_of_a_place_is_a_bad_token_and_not_a_missing_one() {
    let config = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({"from_headers": [{"name": "x-jwt"}]}),
    )]);
    let request = Request::get().header("x-jwt", "");
    assert_eq!(verdict(&config, &request), Err(JwtStatus::BadFormat));
}

#[test]
fn preflights_pass_without_what_they_claim_to_be_verified() {
    let config = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({"forward_payload_header": "x-payload"}),
    )]);
    let preflight = Request::new("OPTIONS", "example.com", "/")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "GET")
        .header("authorization", "Bearer x")
        .header("x-payload", "forged");
    let outcome = run(&config, &preflight);
    assert!(outcome.verdict.is_ok());
    let mut headers = preflight.headers.clone();
    outcome.edits.apply(&mut headers, &mut String::new());
    assert!(!headers.contains_key("x-payload"));
    let options = Request::new("OPTIONS", "example.com", "/").header("authorization", "Bearer x");
    assert_eq!(verdict(&config, &options), Err(JwtStatus::BadFormat));
}

#[test]
fn headers_of_every_provider_are_cleaned_whichever_token_is_good() {
    let config = two(
        json!({"forward_payload_header": "x-one"}),
        json!({"forward_payload_header": "x-two", "claim_to_headers": [{"header_name": "x-role", "claim_name": "role"}]}),
    );
    let request = bearer(&token(json!({})))
        .header("x-two", "forged")
        .header("x-role", "admin");
    let outcome = run(&config, &request);
    let mut headers = request.headers.clone();
    outcome.edits.apply(&mut headers, &mut String::new());
    assert!(headers.contains_key("x-one"));
    assert!(!headers.contains_key("x-two") && !headers.contains_key("x-role"));
}

#[test]
fn the_same_metadata_is_not_left_by_an_alternative_that_failed() {
    let shared = json!({"from_headers": [{"name": "x-a"}, {"name": "x-b"}]});
    let config = istio(&[provider(ISSUER, &[RSA.jwk(json!({}))], shared)]);
    // The token in x-b is judged first and is good; the one in x-a is not.
    let request = Request::get()
        .header("x-b", &token(json!({})))
        .header("x-a", "x.y.z");
    let outcome = run(&config, &request);
    assert!(outcome.verdict.is_err());
    assert!(outcome.metadata.is_none());
}

#[test]
fn a_route_names_its_requirement_or_none() {
    let config = config(json!({
        "providers": {"p": provider(ISSUER, &[RSA.jwk(json!({}))], json!({}))},
        "requirement_map": {"strict": {"provider_name": "p"}, "lax": {"allow_missing_or_failed": {}}},
        "rules": [{"match": {"prefix": "/"}, "requirement_name": "strict"}],
    }));
    let named = |name: &str, request: &Request| {
        let route = RouteRequirement::Named(name.into());
        let mut cache = TokenCache::default();
        config.authenticate(&request.view(), Some(&route), (NOW, 0), (&mut cache, &()))
    };
    assert_eq!(verdict(&config, &Request::get()), Err(JwtStatus::Missing));
    assert!(named("lax", &Request::get()).verdict.is_ok());
    assert!(named("lax", &bearer("x")).verdict.is_ok());
    assert_eq!(
        claim(&named("lax", &bearer(&token(json!({})))), "sub"),
        string("alice")
    );
    let refusal = named("nope", &bearer(&token(json!({}))))
        .verdict
        .unwrap_err();
    assert_eq!(refusal.status, 403);
    assert_eq!(
        refusal.body,
        "Failed JWT authentication: Wrong requirement_name: nope. It should be one of [lax,strict]"
    );
}

#[test]
fn subjects_and_lifetimes_are_restricted_where_configured() {
    let restricted = |extra| {
        let provider = provider(ISSUER, &[RSA.jwk(json!({}))], extra);
        move |more| of_token(&istio(std::slice::from_ref(&provider)), &token(more))
    };
    let subject = restricted(json!({"subjects": {"prefix": "ali"}}));
    assert_eq!(subject(json!({})), Ok(()));
    assert_eq!(
        subject(json!({"sub": "bob"})),
        Err(JwtStatus::VerificationFails)
    );
    let short = restricted(json!({"max_lifetime": "300s"}));
    assert_eq!(short(json!({})), Err(JwtStatus::VerificationFails));
    assert_eq!(short(json!({"exp": NOW + 299})), Ok(()));
    let expiring = provider(
        ISSUER,
        &[RSA.jwk(json!({}))],
        json!({"require_expiration": true}),
    );
    let eternal = RSA.token(&json!({"alg": "RS256"}), &json!({"iss": ISSUER}));
    assert_eq!(
        of_token(&istio(&[expiring]), &eternal),
        Err(JwtStatus::VerificationFails)
    );
}

#[test]
fn failures_are_told_in_metadata_where_configured() {
    let config = config(json!({
        "providers": {"p": provider(ISSUER, &[RSA.jwk(json!({}))], json!({"failed_status_in_metadata": "failure"}))},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "p"}, {"allow_missing_or_failed": {}},
        ]}}}],
    }));
    let outcome = run(&config, &bearer(&token(json!({"exp": 1}))));
    assert!(outcome.verdict.is_ok());
    let metadata = outcome.metadata.unwrap();
    assert_eq!(
        metadata.at(&["failure", "message"]),
        string("Jwt is expired").as_ref()
    );
    assert_eq!(metadata.at(&["failure", "code"]), Some(&Value::Number(3.0)));
}

#[test]
fn more_tokens_than_are_looked_at_are_refused() {
    let config = simple();
    let mut request = Request::get();
    let good = format!("Bearer {}", token(json!({})));
    for _ in 0..MAX_TOKENS {
        request = request.header("authorization", &good);
    }
    assert_eq!(verdict(&config, &request), Ok(()));
    let request = request.header("authorization", &good);
    assert_eq!(verdict(&config, &request), Err(JwtStatus::TooManyTokens));
}

#[test]
fn the_route_is_looked_for_again_only_if_the_token_changed_something() {
    let clear = json!({"clear_route_cache": true});
    let config = istio(&[provider(ISSUER, &[RSA.jwk(json!({}))], clear)]);
    assert!(run(&config, &bearer(&token(json!({})))).clear_route_cache);
    assert!(!run(&config, &Request::get()).clear_route_cache);
    assert!(!run(&simple(), &bearer(&token(json!({})))).clear_route_cache);
}
