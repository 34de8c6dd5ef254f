//! httpbin's answers about who asks: authentication and cookies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, HeaderValue, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::{Map, json};

use super::mirror::{decoded_pairs, header};
use super::{Asked, Flavor, pretty};
use crate::server::{Body, text};

pub(super) fn answer(asked: &Asked, parts: &[&str]) -> Option<Response<Body>> {
    Some(match parts {
        ["basic-auth", user, password] => basic(asked, user, password, false),
        ["hidden-basic-auth", user, password] => basic(asked, user, password, true),
        ["bearer"] => bearer(asked),
        ["cookies"] => pretty(StatusCode::OK, &shown_cookies(asked)),
        ["cookies", "set"] => set(pairs(asked)),
        ["cookies", "set", name, value] => set(vec![((*name).to_owned(), (*value).to_owned())]),
        ["cookies", "delete"] => {
            let gone = |(name, _)| (name, "; Max-Age=0".to_owned());
            set(pairs(asked).into_iter().map(gone).collect())
        }
        _ => return None,
    })
}

fn pairs(asked: &Asked) -> Vec<(String, String)> {
    decoded_pairs(asked.head.uri.query().unwrap_or_default())
}

fn basic(asked: &Asked, user: &str, password: &str, hidden: bool) -> Response<Body> {
    let given = header(&asked.head.headers, AUTHORIZATION.as_str());
    let given = given
        .strip_prefix("Basic ")
        .and_then(|text| STANDARD.decode(text.trim()).ok());
    if given.as_deref() == Some(format!("{user}:{password}").as_bytes()) {
        return match asked.flavor {
            Flavor::Python => pretty(
                StatusCode::OK,
                &json!({ "authenticated": true, "user": user }),
            ),
            Flavor::Go => {
                let answer = json!({ "authenticated": true, "authorized": true, "user": user });
                pretty(StatusCode::OK, &answer)
            }
        };
    }
    if hidden {
        return text(StatusCode::NOT_FOUND, "Not Found\n");
    }
    let mut response = text(StatusCode::UNAUTHORIZED, "");
    let challenge = HeaderValue::from_static("Basic realm=\"Fake Realm\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

fn bearer(asked: &Asked) -> Response<Body> {
    let given = header(&asked.head.headers, AUTHORIZATION.as_str());
    match given
        .strip_prefix("Bearer ")
        .filter(|token| !token.is_empty())
    {
        Some(token) => pretty(
            StatusCode::OK,
            &json!({ "authenticated": true, "token": token }),
        ),
        None => {
            let mut response = text(StatusCode::UNAUTHORIZED, "");
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

fn shown_cookies(asked: &Asked) -> serde_json::Value {
    let cookies = asked.head.headers.get_all(COOKIE).into_iter();
    let cookies = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|all| all.split(';'));
    let pairs = cookies.filter_map(|pair| pair.trim().split_once('='));
    let map: Map<_, _> = pairs
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    match asked.flavor {
        Flavor::Python => json!({ "cookies": map }),
        Flavor::Go => json!(map),
    }
}

/// Sets cookies and sends the client to see them.
fn set(cookies: Vec<(String, String)>) -> Response<Body> {
    let mut response = text(StatusCode::FOUND, "");
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/cookies"));
    for (name, value) in cookies {
        // What cannot be in a header cannot be in a cookie.
        if let Ok(cookie) = HeaderValue::from_str(&format!("{name}={value}; Path=/")) {
            headers.append(SET_COOKIE, cookie);
        }
    }
    response
}
