//! The page: asks details and reviews, and shows what it got. A person may say who they are; the other services are then
//! told by the `end-user` header, which Istio's request-routing task matches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue, LOCATION, REFERER, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{page, peer, port};
use crate::client::{self, Call, Target};
use crate::propagation::passed_on;
use crate::server::{self, Body, Service, json, reply, text};
use crate::{Environment, RunError};

/// How long details, reviews and ratings may take, each.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest user name that is taken.
const LONGEST_USER: usize = 128;
/// The most extra calls that `FLOOD_FACTOR` may ask for.
const LARGEST_FLOOD: usize = 10_000;

pub(crate) struct ProductPage {
    details: String,
    reviews: String,
    ratings: String,
    /// Extra calls of reviews per page, for Istio's rate-limiting task.
    flood: usize,
}

pub(crate) async fn run(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let listener = server::listen(port(arguments)?)?;
    server::serve(listener, Arc::new(ProductPage::new(environment)?), stop).await;
    Ok(0)
}

/// A status and what came with it, or what to say instead.
type Answer = (StatusCode, Value);

impl ProductPage {
    pub(crate) fn new(environment: &Environment) -> Result<ProductPage, RunError> {
        let flood = environment.get("FLOOD_FACTOR").map_or("0", String::as_str);
        let flood: usize = flood
            .trim()
            .parse()
            .map_err(|_| RunError::Usage(format!("FLOOD_FACTOR: `{flood}` is not a number")))?;
        Ok(ProductPage {
            details: format!("{}/details", peer("details", environment)),
            reviews: format!("{}/reviews", peer("reviews", environment)),
            ratings: format!("{}/ratings", peer("ratings", environment)),
            flood: flood.min(LARGEST_FLOOD),
        })
    }

    async fn fetch(url: &str, headers: &HeaderMap) -> Result<Value, StatusCode> {
        let failed = StatusCode::INTERNAL_SERVER_ERROR;
        let mut call = Call::get(Target::parse(url).map_err(|_| failed)?);
        call.headers = headers.clone();
        let response = client::send(&call, TIMEOUT).await.map_err(|error| {
            eprintln!("{url}: {error}");
            failed
        })?;
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        serde_json::from_slice(response.body()).map_err(|_| failed)
    }

    async fn part(&self, url: &str, what: &str, id: &str, headers: &HeaderMap) -> Answer {
        // What is no id of one path element can be nothing that the services know.
        let fetched = match id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            true => Self::fetch(&format!("{url}/{id}"), headers).await,
            false => Err(StatusCode::NOT_FOUND),
        };
        match fetched {
            Ok(value) => (StatusCode::OK, value),
            Err(status) => {
                let error =
                    format!("Sorry, product {what} are currently unavailable for this book.");
                (status, json!({ "error": error }))
            }
        }
    }

    async fn details(&self, id: &str, headers: &HeaderMap) -> Answer {
        self.part(&self.details, "details", id, headers).await
    }

    /// Asks twice, as the original does on purpose: with a delayed ratings the page takes twice its timeout.
    async fn reviews(&self, id: &str, headers: &HeaderMap) -> Answer {
        let first = self.part(&self.reviews, "reviews", id, headers).await;
        if first.0 == StatusCode::OK {
            return first;
        }
        self.part(&self.reviews, "reviews", id, headers).await
    }

    async fn ratings(&self, id: &str, headers: &HeaderMap) -> Answer {
        self.part(&self.ratings, "ratings", id, headers).await
    }

    async fn front(&self, headers: &HeaderMap) -> Response<Body> {
        let user = user(headers);
        let headers = forwarded(headers);
        let (_, details) = self.details("0", &headers).await;
        for _ in 0..self.flood {
            let _ = self.reviews("0", &headers).await;
        }
        let (_, reviews) = self.reviews("0", &headers).await;
        let page = page::product(user.as_deref(), &details, &reviews);
        reply(StatusCode::OK, "text/html; charset=utf-8", page)
    }

    async fn product(&self, path: &str, headers: &HeaderMap) -> Response<Body> {
        let headers = forwarded(headers);
        let (status, value) = match path.split_once('/') {
            None => self.details(path, &headers).await,
            Some((id, "reviews")) => self.reviews(id, &headers).await,
            Some((id, "ratings")) => self.ratings(id, &headers).await,
            Some(_) => return text(StatusCode::NOT_FOUND, "Not Found\n"),
        };
        json(status, &value)
    }
}

impl Service for ProductPage {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, "/login") => login(request).await,
            (&Method::GET, "/logout") => {
                back(request.headers(), "session=; Path=/; Max-Age=0; HttpOnly")
            }
            (&Method::GET | &Method::HEAD, "/" | "/index.html") => {
                reply(StatusCode::OK, "text/html; charset=utf-8", page::index())
            }
            (&Method::GET | &Method::HEAD, "/health") => {
                text(StatusCode::OK, "Product page is healthy")
            }
            (&Method::GET, "/productpage") => self.front(request.headers()).await,
            (&Method::GET, "/api/v1/products") => json(StatusCode::OK, &products()),
            (&Method::GET, path) => match path.strip_prefix("/api/v1/products/") {
                Some(product) => self.product(product, request.headers()).await,
                None => text(StatusCode::NOT_FOUND, "Not Found\n"),
            },
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"),
        }
    }
}

fn products() -> Value {
    json!([{ "id": 0, "title": page::TITLE, "descriptionHtml": page::DESCRIPTION }])
}

/// The headers that calls on behalf of a request carry. Who the person is comes from the session alone.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = passed_on(headers);
    forwarded.remove("end-user");
    if let Some(user) = user(headers)
        && let Ok(value) = HeaderValue::from_str(&user)
    {
        forwarded.insert("end-user", value);
    }
    forwarded
}

/// The user of the session. It is not signed: `/login` takes every password, so that a signature would vouch for nothing.
fn user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|cookies| cookies.split(';'))
        .map(str::trim);
    let user = pairs.find_map(|pair| pair.strip_prefix("session="))?;
    let user = page::percent_decoded(user);
    (!user.is_empty() && user.len() <= LONGEST_USER).then_some(user)
}

async fn login(request: Request<Incoming>) -> Response<Body> {
    let headers = request.headers().clone();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = match server::read(request).await {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(answer) => return *answer,
    };
    let pairs = query.split('&').chain(body.trim_end().split('&'));
    let user = pairs
        .filter_map(|pair| pair.strip_prefix("username="))
        .next_back()
        .unwrap_or_default();
    let user = page::percent_decoded(&user.replace('+', " "));
    let user: String = user
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_USER)
        .collect();
    let cookie = format!("session={}; Path=/; HttpOnly", page::percent_encoded(&user));
    back(&headers, &cookie)
}

/// Sends the person back to where they came from, with a cookie.
fn back(headers: &HeaderMap, cookie: &str) -> Response<Body> {
    let page = HeaderValue::from_static("/productpage");
    let mut response = text(StatusCode::FOUND, "Redirecting…\n");
    response
        .headers_mut()
        .insert(LOCATION, headers.get(REFERER).cloned().unwrap_or(page));
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
