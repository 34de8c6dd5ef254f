//! Tests of issuing, verifying and refusing tokens.

use super::*;

const POD: PodRef<'static> = PodRef {
    namespace: "default",
    service_account: "reviews",
    name: "reviews-v1-0",
    uid: "7f0c",
};
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// A token with any header and payload, signed with the right key.
fn signed(key: &TokenKey, header: &str, payload: &str) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let tag = hmac::sign(&key.0, text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[test]
fn a_token_names_its_service_account_and_pod() {
    let key = TokenKey::ephemeral();
    let claims = key.verify(&key.issue(POD, HOUR, now()), now()).unwrap();
    let id = claims.identity(&TrustDomain::cluster_local()).unwrap();
    assert_eq!(
        id.to_string(),
        "spiffe://cluster.local/ns/default/sa/reviews"
    );
    assert_eq!(claims.kubernetes.pod.name, "reviews-v1-0");
}

#[test]
fn a_token_ends() {
    let key = TokenKey::ephemeral();
    let token = key.issue(POD, HOUR, now());
    assert_eq!(key.verify(&token, now() + HOUR), Err(TokenError::Time));
    assert_eq!(key.verify(&token, now() - HOUR), Err(TokenError::Time));
}

#[test]
fn another_key_is_refused() {
    let token = TokenKey::ephemeral().issue(POD, HOUR, now());
    assert_eq!(
        TokenKey::ephemeral().verify(&token, now()),
        Err(TokenError::Signature)
    );
}

#[test]
fn no_other_algorithm_is_accepted_even_with_a_right_signature() {
    let key = TokenKey::ephemeral();
    let payload = String::from_utf8(
        URL_SAFE_NO_PAD
            .decode(key.issue(POD, HOUR, now()).split('.').nth(1).unwrap())
            .unwrap(),
    )
    .unwrap();
    for header in [
        r#"{"alg":"none","typ":"JWT"}"#,
        r#"{"alg":"RS256","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":"JWT","crit":["x"]}"#,
        r#"{"alg":"HS256","alg":"none","typ":"JWT"}"#,
        "",
    ] {
        let token = signed(&key, header, &payload);
        assert_eq!(
            key.verify(&token, now()),
            Err(TokenError::Header),
            "{header}"
        );
    }
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(&payload)
    );
    assert_eq!(key.verify(&unsigned, now()), Err(TokenError::Signature));
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let key = TokenKey::ephemeral();
    let token = key.issue(POD, HOUR, now());
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(key.verify(&changed, now()).is_err(), "byte {index}");
    }
}

#[test]
fn junk_is_refused_without_panic() {
    let key = TokenKey::ephemeral();
    for junk in ["", ".", "..", "...", "a.b.c", "\u{0}", "é.é.é"] {
        assert!(key.verify(junk, now()).is_err());
    }
    assert_eq!(
        key.verify(&"a".repeat(MAX_TOKEN + 1), now()),
        Err(TokenError::TooLong)
    );
}

#[test]
fn another_audience_or_a_foreign_subject_is_refused() {
    let key = TokenKey::ephemeral();
    let token = key.issue(POD, HOUR, now());
    let mut claims = key.verify(&token, now()).unwrap();
    claims.sub = "system:serviceaccount:kube-system:admin".to_owned();
    assert_eq!(
        claims.identity(&TrustDomain::cluster_local()),
        Err(TokenError::Subject)
    );
    claims.aud = vec!["vault".to_owned()];
    let token = signed(&key, HEADER, &serde_json::to_string(&claims).unwrap());
    assert_eq!(key.verify(&token, now()), Err(TokenError::Audience));
}

#[test]
fn the_key_is_made_once_and_kept_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/tokens.key");
    let token = TokenKey::open(&path).unwrap().issue(POD, HOUR, now());
    TokenKey::open(&path)
        .unwrap()
        .verify(&token, now())
        .unwrap();
    std::fs::write(&path, "short").unwrap();
    assert!(matches!(
        TokenKey::open(&path),
        Err(TokenKeyError::Content(_))
    ));
}
