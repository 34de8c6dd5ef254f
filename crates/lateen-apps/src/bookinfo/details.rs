//! The details of a book, which are the same for every book.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{port, product_id};
use crate::server::{self, Body, Service, json, text};
use crate::{Environment, RunError};

pub(crate) struct Details;

pub(crate) async fn run(
    arguments: &[String],
    _environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let listener = server::listen(port(arguments)?)?;
    server::serve(listener, Arc::new(Details), stop).await;
    Ok(0)
}

impl Service for Details {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path();
        if path == "/health" || path.starts_with("/health/") {
            return json(StatusCode::OK, &json!({ "status": "Details is healthy" }));
        }
        if path != "/details" && !path.starts_with("/details/") {
            return text(StatusCode::NOT_FOUND, "Not Found\n");
        }
        let last = path
            .rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or_default();
        match product_id(last) {
            Some(id) => json(StatusCode::OK, &details(id)),
            None => {
                let error = json!({ "error": "please provide numeric product id" });
                json(StatusCode::BAD_REQUEST, &error)
            }
        }
    }
}

fn details(id: u64) -> serde_json::Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    })
}
