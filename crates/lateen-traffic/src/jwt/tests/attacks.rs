//! Requests of somebody who has public keys, tokens of other people's, and time.

use super::*;
use crate::jwt::{KeySet, KeySetError, MAX_JWKS_BYTES, MAX_KEYS, MAX_TOKEN_BYTES};
use mint::{OTHER_RSA, encode, hmac_sign};

fn header(fields: Json) -> Json {
    with(json!({"alg": "RS256", "kid": "r"}), fields)
}

#[test]
fn no_algorithm_is_no_signature() {
    let config = simple();
    let body = encode(claims().to_string());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let head = encode(json!({"alg": name}).to_string());
        assert_eq!(
            of_token(&config, &format!("{head}.{body}.")),
            Err(JwtStatus::BadFormat)
        );
        assert_eq!(
            of_token(&config, &format!("{head}.{body}.AA")),
            Err(JwtStatus::HeaderUnknownAlg)
        );
    }
    for alg in [json!(null), json!(1), json!(["RS256"]), json!({"a": 1})] {
        let token = RSA.token(&json!({"alg": alg}), &claims());
        assert_eq!(of_token(&config, &token), Err(JwtStatus::HeaderBadAlg));
    }
    let token = RSA.token(&json!({"typ": "JWT"}), &claims());
    assert_eq!(of_token(&config, &token), Err(JwtStatus::HeaderBadAlg));
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    let jwk = RSA.jwk(json!({}));
    let set = jwks(std::slice::from_ref(&jwk));
    let config = istio(&[provider(ISSUER, std::slice::from_ref(&jwk), json!({}))]);
    let n = jwk["n"].as_str().unwrap();
    let secrets = [set.as_bytes(), n.as_bytes(), b"", &[0; 256]];
    for algorithm in ["HS256", "HS384", "HS512"] {
        for secret in secrets {
            let message = format!(
                "{}.{}",
                encode(json!({"alg": algorithm}).to_string()),
                encode(claims().to_string())
            );
            let mac = hmac_sign(secret, algorithm, message.as_bytes());
            let token = format!("{message}.{}", encode(mac));
            assert_eq!(of_token(&config, &token), Err(JwtStatus::VerificationFails));
        }
    }
}

#[test]
fn a_key_with_an_algorithm_is_for_no_other() {
    let config = istio(&[provider(
        ISSUER,
        &[RSA.jwk(json!({"alg": "PS256"}))],
        json!({}),
    )]);
    let good = RSA.token(&json!({"alg": "PS256"}), &claims());
    assert_eq!(of_token(&config, &good), Ok(()));
    for other in ["RS256", "PS384", "HS256", "ES256", "EdDSA"] {
        let token = RSA.token(&json!({"alg": other}), &claims());
        assert_eq!(
            of_token(&config, &token),
            Err(JwtStatus::NoMatchingKey),
            "{other}"
        );
    }
}

#[test]
fn an_algorithm_of_another_key_type_never_verifies() {
    let signers: [(&Signer, &str); 4] = [
        (&RSA, "RS256"),
        (&P256, "ES256"),
        (&P384, "ES384"),
        (&ED25519, "EdDSA"),
    ];
    for (signer, own) in signers {
        let config = istio(&[provider(ISSUER, &[signer.jwk(json!({}))], json!({}))]);
        for claimed in [
            "RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA", "HS256",
        ] {
            // Signed as the key signs, and labelled as something else.
            let message = format!(
                "{}.{}",
                encode(json!({"alg": claimed}).to_string()),
                encode(claims().to_string())
            );
            let signature = signer.sign(own, message.as_bytes());
            let token = format!("{message}.{}", encode(signature));
            let expected = if claimed == own {
                Ok(())
            } else {
                Err(JwtStatus::VerificationFails)
            };
            assert_eq!(of_token(&config, &token), expected, "{own} as {claimed}");
        }
    }
}

#[test]
fn a_key_in_the_token_is_not_looked_at() {
    let config = simple();
    let own = OTHER_RSA.jwk(json!({"kid": "r"}));
    for extra in [
        json!({"jwk": own}),
        json!({"jku": "https://evil.example/jwks.json"}),
        json!({"x5u": "https://evil.example/x.pem"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let token = OTHER_RSA.token(&header(extra), &claims());
        assert_eq!(of_token(&config, &token), Err(JwtStatus::VerificationFails));
    }
}

#[test]
fn a_kid_picks_a_key_and_is_never_anything_else() {
    let config = simple();
    let kids = [
        "../../../../dev/null",
        "r' OR '1'='1",
        "r\u{0}",
        "R",
        "r ",
        "|/bin/true",
    ];
    for kid in kids {
        let token = RSA.token(&header(json!({"kid": kid})), &claims());
        assert_eq!(
            of_token(&config, &token),
            Err(JwtStatus::NoMatchingKey),
            "{kid}"
        );
    }
    for kid in [json!(1), json!(null), json!(["r"])] {
        let token = RSA.token(&header(json!({"kid": kid})), &claims());
        assert_eq!(of_token(&config, &token), Err(JwtStatus::HeaderBadKid));
    }
    let empty = RSA.token(&header(json!({"kid": ""})), &claims());
    assert_eq!(of_token(&config, &empty), Ok(()), "an empty kid is none");
    let same_kid = istio(&[provider(
        ISSUER,
        &[
            OTHER_RSA.jwk(json!({"kid": "r"})),
            RSA.jwk(json!({"kid": "r"})),
        ],
        json!({}),
    )]);
    assert_eq!(
        of_token(&same_kid, &token(json!({}))),
        Ok(()),
        "all keys of the kid are tried"
    );
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let config = simple();
    let good = claims().to_string();
    let twice = format!("{{\"sub\": \"root\", {}", &good[1..]);
    let token = RSA.token_of_text(&header(json!({})).to_string(), &twice);
    assert_eq!(of_token(&config, &token), Err(JwtStatus::PayloadBadJson));
    let token = RSA.token_of_text("{\"alg\": \"RS256\", \"alg\": \"none\"}", &good);
    assert_eq!(of_token(&config, &token), Err(JwtStatus::HeaderBadJson));
}

#[test]
fn base64_has_one_spelling() {
    let config = simple();
    let good = token(json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let refused = |token: &str| of_token(&config, token).unwrap_err();
    for bad in ["!", " ", "+", "/", "%3D", "\u{e9}"] {
        let token = format!("{}{bad}.{}.{}", parts[0], parts[1], parts[2]);
        assert_eq!(refused(&token), JwtStatus::HeaderBadBase64, "{bad}");
        let token = format!("{}.{}{bad}.{}", parts[0], parts[1], parts[2]);
        assert_eq!(refused(&token), JwtStatus::PayloadBadBase64, "{bad}");
        let token = format!("{}.{}.{}{bad}", parts[0], parts[1], parts[2]);
        assert_eq!(refused(&token), JwtStatus::SignatureBadBase64, "{bad}");
    }
    // The last digit of a 256-byte signature has four bits that mean nothing.
    let last = parts[2].chars().last().unwrap();
    let next = char::from_u32(u32::from(last) + 1).unwrap();
    let loose = format!(
        "{}.{}.{}{next}",
        parts[0],
        parts[1],
        &parts[2][..parts[2].len() - 1]
    );
    assert_eq!(refused(&loose), JwtStatus::SignatureBadBase64);
    assert_eq!(
        of_token(&config, &format!("{good}==")),
        Ok(()),
        "padding is tolerated"
    );
    let standard = encode([0xfb, 0xff]).replace('-', "+").replace('_', "/");
    assert_eq!(
        refused(&format!("{}.{}.{standard}", parts[0], parts[1])),
        JwtStatus::SignatureBadBase64
    );
}

#[test]
fn a_token_has_three_parts_that_are_not_empty() {
    let config = simple();
    let good = token(json!({}));
    let message = good.rsplit_once('.').unwrap().0;
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a..c",
        ".a.b",
        "a.b.c.d",
        message,
        &format!("{message}."),
        &format!("{good}."),
        &format!(".{good}"),
        &format!("{good}.x"),
    ] {
        // A value without anything after the prefix is taken whole, and refused as well.
        assert_eq!(of_token(&config, bad), Err(JwtStatus::BadFormat), "{bad}");
    }
}

#[test]
fn a_signature_is_of_one_header_and_one_payload() {
    let config = simple();
    let (mine, yours) = (
        token(json!({"sub": "mallory"})),
        token(json!({"sub": "alice"})),
    );
    let mine: Vec<&str> = mine.split('.').collect();
    let yours: Vec<&str> = yours.split('.').collect();
    let spliced = format!("{}.{}.{}", mine[0], yours[1], mine[2]);
    assert_eq!(
        of_token(&config, &spliced),
        Err(JwtStatus::VerificationFails)
    );
    let admin = encode(with(claims(), json!({"sub": "root"})).to_string());
    let changed = format!("{}.{admin}.{}", mine[0], mine[2]);
    assert_eq!(
        of_token(&config, &changed),
        Err(JwtStatus::VerificationFails)
    );
}

#[test]
fn an_elliptic_signature_of_zeros_is_none() {
    let config = istio(&[provider(ISSUER, &[P256.jwk(json!({}))], json!({}))]);
    let message = format!(
        "{}.{}",
        encode(r#"{"alg":"ES256"}"#),
        encode(claims().to_string())
    );
    for signature in [vec![0; 64], vec![0; 2], vec![], vec![255; 64], vec![1; 63]] {
        let token = format!("{message}.{}", encode(&signature));
        assert!(of_token(&config, &token).is_err(), "{signature:?}");
    }
    // The DER form of a signature, as other protocols have it, is not that of a token.
    let der = [
        &[0x30, 0x44, 0x02, 0x20][..],
        &[1; 32],
        &[0x02, 0x20],
        &[1; 32],
    ]
    .concat();
    assert!(of_token(&config, &format!("{message}.{}", encode(der))).is_err());
    let ed = istio(&[provider(ISSUER, &[ED25519.jwk(json!({}))], json!({}))]);
    let message = message.replace(&encode(r#"{"alg":"ES256"}"#), &encode(r#"{"alg":"EdDSA"}"#));
    let token = format!("{message}.{}", encode([0; 63]));
    assert_eq!(of_token(&ed, &token), Err(JwtStatus::Ed25519WrongLength));
}

#[test]
fn numbers_of_time_are_numbers_that_fit() {
    let config = simple();
    let check = |more| of_token(&config, &token(more)).unwrap_err();
    assert_eq!(
        check(json!({"exp": "1900000000"})),
        JwtStatus::ExpiresNotInteger
    );
    assert_eq!(check(json!({"exp": null})), JwtStatus::ExpiresNotInteger);
    assert_eq!(check(json!({"exp": -1})), JwtStatus::ExpiresOutOfRange);
    assert_eq!(check(json!({"exp": 1e300})), JwtStatus::ExpiresOutOfRange);
    assert_eq!(
        check(json!({"exp": 18_446_744_073_709_551_615_u64})),
        JwtStatus::ExpiresOutOfRange
    );
    assert_eq!(check(json!({"nbf": "0"})), JwtStatus::NotBeforeNotInteger);
    assert_eq!(check(json!({"nbf": 1e300})), JwtStatus::NotBeforeOutOfRange);
    assert_eq!(check(json!({"nbf": 1e19})), JwtStatus::NotYetValid);
    assert_eq!(check(json!({"iat": {}})), JwtStatus::IssuedAtNotInteger);
    assert_eq!(check(json!({"iat": -5})), JwtStatus::IssuedAtOutOfRange);
    assert_eq!(check(json!({"iss": 1})), JwtStatus::IssuerNotString);
    assert_eq!(check(json!({"sub": []})), JwtStatus::SubjectNotString);
    assert_eq!(check(json!({"jti": 7})), JwtStatus::IdNotString);
    let huge = RSA.token_of_text(
        &header(json!({})).to_string(),
        &format!("{{\"iss\": \"{ISSUER}\", \"exp\": 1{}}}", "0".repeat(400)),
    );
    assert_eq!(of_token(&config, &huge), Err(JwtStatus::PayloadBadJson));
}

#[test]
fn what_a_header_calls_critical_is_not_understood() {
    let config = simple();
    for extra in [
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
    ] {
        let token = RSA.token(&header(extra), &claims());
        assert_eq!(of_token(&config, &token), Err(JwtStatus::VerificationFails));
    }
}

#[test]
fn huge_and_deep_tokens_are_refused_quickly() {
    let config = simple();
    let padding = "a".repeat(MAX_TOKEN_BYTES);
    assert_eq!(
        of_token(&config, &token(json!({"x": padding}))),
        Err(JwtStatus::BadFormat)
    );
    let deep = format!("{{\"iss\": {}{}}}", "[".repeat(9000), "]".repeat(9000));
    let token = RSA.token_of_text(&header(json!({})).to_string(), &deep);
    assert_eq!(of_token(&config, &token), Err(JwtStatus::PayloadBadJson));
    let dots = ".".repeat(20_000);
    assert_eq!(of_token(&config, &dots), Err(JwtStatus::BadFormat));
}

#[test]
fn no_keys_means_no_good_tokens() {
    for jwks in [
        "",
        "{}",
        "[]",
        "not json",
        r#"{"keys": []}"#,
        r#"{"keys": {}}"#,
        r#"{"keys": [{"kty": "RSA"}]}"#,
    ] {
        let mut only = provider(ISSUER, &[], json!({}));
        only["local_jwks"]["inline_string"] = json!(jwks);
        let config = istio(&[only]);
        assert_eq!(
            of_token(&config, &token(json!({}))),
            Err(JwtStatus::NoValidKeys),
            "{jwks}"
        );
        assert_eq!(verdict(&config, &Request::get()), Ok(()));
    }
    let remote = json!({
        "issuer": ISSUER,
        "remote_jwks": {"http_uri": {"uri": "http://x/", "cluster": "x", "timeout": "1s"}},
    });
    assert_eq!(
        of_token(&istio(&[remote]), &token(json!({}))),
        Err(JwtStatus::KeysNotFetched)
    );
}

#[test]
fn weak_and_malformed_keys_are_not_used() {
    let reason = |jwk: Json| match KeySet::parse(&jwks(&[jwk])) {
        Err(KeySetError::NoneUsable { problems }) => problems[0].reason,
        other => panic!("{other:?}"),
    };
    let rsa = |n: usize, e: &str| json!({"kty": "RSA", "n": encode(vec![0xff; n]), "e": e});
    assert!(reason(rsa(128, "AQAB")).contains("2048"));
    assert!(reason(rsa(1025, "AQAB")).contains("8192"));
    assert!(
        reason(rsa(256, "AQ")).contains("[e]"),
        "an exponent of 1 verifies anything"
    );
    assert!(reason(json!({"kty": "RSA", "n": "", "e": "AQAB"})).contains("2048"));
    let mut off_curve = P256.jwk(json!({}));
    off_curve["y"] = json!(encode([1; 32]));
    assert!(reason(off_curve).contains("parse error"));
    let infinity = json!({"kty": "EC", "crv": "P-256", "x": "", "y": ""});
    assert!(reason(infinity).contains("parse error"));
    let wrong = P256.jwk(json!({"alg": "ES384"}));
    assert!(reason(wrong).contains("not compatible"));
    let short = json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"});
    assert!(reason(short).contains("wrong length"));
    assert!(reason(json!({"kty": "oct", "k": ""})).contains("Base64"));
    assert!(reason(json!({"kty": "none"})).contains("not supported"));
    assert!(reason(json!({})).contains("missing"));
    assert!(reason(json!(1)).contains("missing"));
}

#[test]
fn a_bad_key_does_not_take_the_good_ones_with_it() {
    let set = KeySet::parse(&jwks(&[
        json!({"kty": "RSA", "kid": "bad"}),
        RSA.jwk(json!({"kid": "good"})),
    ]))
    .unwrap();
    assert_eq!(set.len(), 1);
    assert_eq!(
        set.problems()[0].to_string(),
        "key 0 (`bad`): [n] field is missing for a RSA key"
    );
}

#[test]
fn key_sets_are_limited() {
    let one = ED25519.jwk(json!({}));
    let many = vec![one; MAX_KEYS + 1];
    assert_eq!(
        KeySet::parse(&jwks(&many)).unwrap_err(),
        KeySetError::TooMany
    );
    assert!(KeySet::parse(&jwks(&many[..MAX_KEYS])).is_ok());
    let large = " ".repeat(MAX_JWKS_BYTES + 1);
    assert_eq!(KeySet::parse(&large).unwrap_err(), KeySetError::TooLarge);
}

#[test]
fn secrets_are_not_printed() {
    let set = KeySet::parse(&jwks(&[SECRET.jwk(json!({}))])).unwrap();
    assert!(set.has_secrets());
    assert!(!format!("{set:?}").contains("97"), "{set:?}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
        let config = ED_CONFIG.with(std::rc::Rc::clone);
        let encoded = encode(&bytes);
        let text = String::from_utf8_lossy(&bytes).replace(|c: char| c.is_control() || !c.is_ascii(), ".");
        for token in [text, format!("{encoded}.{encoded}.{encoded}")] {
            proptest::prop_assert!(of_token(&config, &token).is_err());
        }
        let _ = KeySet::parse(&String::from_utf8_lossy(&bytes));
    }
}

thread_local! {
    static ED_CONFIG: std::rc::Rc<JwtAuthn> =
        std::rc::Rc::new(istio(&[provider(ISSUER, &[ED25519.jwk(json!({}))], json!({}))]));
}
