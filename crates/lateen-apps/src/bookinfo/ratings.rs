//! The ratings of a book: five and four stars, until somebody posts others. The variants that misbehave
//! (`v-faulty`, `v-delayed`, `v-unavailable`, `v-unhealthy`) are chosen by `SERVICE_VERSION`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{port, product_id};
use crate::server::{self, Body, Service, json, text};
use crate::{Environment, RunError};

/// Products whose ratings may be posted: anybody may post.
const PRODUCTS: usize = 10_000;
/// The largest ratings that are kept.
const LARGEST: usize = 4096;

pub(crate) struct Ratings {
    version: Version,
    started: Instant,
    posted: Mutex<BTreeMap<u64, Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Normal,
    /// Half of the answers are 503.
    Faulty,
    /// Half of the answers take seven seconds.
    Delayed,
    /// Every other period all answers are 503.
    Unavailable(Duration),
    /// The same, and the health check fails too.
    Unhealthy(Duration),
}

pub(crate) async fn run(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let listener = server::listen(port(arguments)?)?;
    server::serve(listener, Arc::new(Ratings::new(environment)), stop).await;
    Ok(0)
}

impl Ratings {
    pub(crate) fn new(environment: &Environment) -> Ratings {
        let version = match environment.get("SERVICE_VERSION").map(String::as_str) {
            Some("v-faulty") => Version::Faulty,
            Some("v-delayed") => Version::Delayed,
            Some("v-unavailable") => Version::Unavailable(Duration::from_secs(60)),
            Some("v-unhealthy") => Version::Unhealthy(Duration::from_secs(900)),
            _ => Version::Normal,
        };
        Ratings {
            version,
            started: Instant::now(),
            posted: Mutex::default(),
        }
    }

    fn is_down(&self) -> bool {
        match self.version {
            Version::Unavailable(period) | Version::Unhealthy(period) => {
                (self.started.elapsed().as_secs() / period.as_secs()) % 2 == 1
            }
            _ => false,
        }
    }

    async fn get(&self, id: u64) -> Response<Body> {
        match self.version {
            Version::Faulty if coin() => return unavailable(),
            Version::Delayed if coin() => tokio::time::sleep(Duration::from_secs(7)).await,
            _ if self.is_down() => return unavailable(),
            _ => {}
        }
        json(StatusCode::OK, &self.of(id))
    }

    fn of(&self, id: u64) -> Value {
        let posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        let default = || json!({ "Reviewer1": 5, "Reviewer2": 4 });
        json!({ "id": id, "ratings": posted.get(&id).cloned().unwrap_or_else(default) })
    }

    async fn post(&self, id: u64, request: Request<Incoming>) -> Response<Body> {
        let body = match server::read(request).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let Ok(ratings) = serde_json::from_slice::<Value>(&body) else {
            return bad_request("please provide valid ratings JSON");
        };
        {
            let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = !posted.contains_key(&id);
            if body.len() > LARGEST || (is_new && posted.len() >= PRODUCTS) {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "too many ratings\n");
            }
            posted.insert(id, ratings);
        }
        json(StatusCode::OK, &self.of(id))
    }
}

impl Service for Ratings {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        println!("{} {}", request.method(), request.uri());
        let path = request.uri().path();
        if path == "/health" {
            return match self.version {
                Version::Unhealthy(_) if self.is_down() => {
                    let status = json!({ "status": "Ratings is not healthy" });
                    json(StatusCode::INTERNAL_SERVER_ERROR, &status)
                }
                _ => json(StatusCode::OK, &json!({ "status": "Ratings is healthy" })),
            };
        }
        let Some(id) = path.strip_prefix("/ratings/") else {
            return text(StatusCode::NOT_FOUND, "Not Found\n");
        };
        let Some(id) = product_id(id) else {
            return bad_request("please provide numeric product ID");
        };
        match *request.method() {
            Method::GET => self.get(id).await,
            Method::POST => self.post(id, request).await,
            _ => text(StatusCode::NOT_FOUND, "Not Found\n"),
        }
    }
}

fn bad_request(error: &str) -> Response<Body> {
    json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

fn unavailable() -> Response<Body> {
    json(
        StatusCode::SERVICE_UNAVAILABLE,
        &json!({ "error": "Service unavailable" }),
    )
}

/// Heads or tails. Every `RandomState` has new keys; for more than a sample it would not do.
fn coin() -> bool {
    RandomState::new().hash_one(0) & 1 == 0
}
