//! The reviews of a book: v1 without stars, v2 with black ones, v3 with red ones, which it asks ratings for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{peer, port, product_id};
use crate::client::{self, Call, Target};
use crate::propagation::passed_on;
use crate::server::{self, Body, Service, json, reply, text};
use crate::{Environment, RunError};

const TEXTS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    ),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

pub(crate) struct Reviews {
    /// The stars' colour; `None` is v1, which knows no stars.
    color: Option<String>,
    /// How long ratings may take: with black stars longer than Istio's fault-injection task delays them.
    timeout: Duration,
    ratings: String,
    pod: String,
    cluster: String,
}

pub(crate) async fn run(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let listener = server::listen(port(arguments)?)?;
    server::serve(listener, Arc::new(Reviews::new(environment)), stop).await;
    Ok(0)
}

impl Reviews {
    pub(crate) fn new(environment: &Environment) -> Reviews {
        let variable = |name: &str, default: &str| {
            environment
                .get(name)
                .cloned()
                .unwrap_or_else(|| default.to_owned())
        };
        let color = variable("STAR_COLOR", "black");
        let enabled = variable("ENABLE_RATINGS", "false").eq_ignore_ascii_case("true");
        let timeout = Duration::from_millis(if color == "black" { 10_000 } else { 2_500 });
        Reviews {
            color: enabled.then_some(color),
            timeout,
            ratings: peer("ratings", environment),
            // The original joins texts, where a missing one reads `null`.
            pod: variable("HOSTNAME", "null"),
            cluster: variable("CLUSTER_NAME", "null"),
        }
    }

    /// What ratings says, if it says something.
    async fn ratings(&self, id: u64, headers: &HeaderMap) -> Option<Value> {
        let url = format!("{}/ratings/{id}", self.ratings);
        let mut call = Call::get(Target::parse(&url).ok()?);
        call.headers = passed_on(headers);
        match client::send(&call, self.timeout).await {
            Ok(response) if response.status() == StatusCode::OK => {
                serde_json::from_slice(response.body()).ok()
            }
            Ok(response) => {
                println!(
                    "Error: unable to contact {url} got status of {}",
                    response.status()
                );
                None
            }
            Err(error) => {
                eprintln!("Error: unable to contact {url} got {error}");
                None
            }
        }
    }

    async fn reviews(&self, id: u64, headers: &HeaderMap) -> Value {
        let ratings = match self.color {
            Some(_) => self.ratings(id, headers).await,
            None => None,
        };
        let review = |(reviewer, text): (&str, &str)| {
            let mut review = json!({ "reviewer": reviewer, "text": text });
            if let Some(color) = &self.color {
                let stars = ratings
                    .as_ref()
                    .and_then(|all| all["ratings"][reviewer].as_i64());
                review["rating"] = match stars {
                    Some(stars) => json!({ "stars": stars, "color": color }),
                    None => json!({ "error": "Ratings service is currently unavailable" }),
                };
            }
            review
        };
        json!({
            "id": id.to_string(),
            "podname": self.pod,
            "clustername": self.cluster,
            "reviews": TEXTS.map(review),
        })
    }
}

impl Service for Reviews {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path();
        if path == "/health" {
            let body = "{\"status\": \"Reviews is healthy\"}";
            return reply(StatusCode::OK, "application/json", body);
        }
        match path.strip_prefix("/reviews/").and_then(product_id) {
            Some(id) => json(StatusCode::OK, &self.reviews(id, request.headers()).await),
            None => text(StatusCode::NOT_FOUND, "Not Found\n"),
        }
    }
}
