//! A small HTTP server for answers that are computed at once: metrics and debug output.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

/// An answer: its status, media type and body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) media_type: &'static str,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            media_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self {
            status: StatusCode::OK,
            media_type: "application/json",
            body: format!("{value:#}\n"),
        }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::text(format!("{what}\n"))
        }
    }
}

/// Answers the path and query of a request.
pub(crate) type Answer = Arc<dyn Fn(&str, Option<&str>) -> Reply + Send + Sync>;

/// Serves one connection to its end.
pub(crate) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: Answer,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let reply = answer(request.uri().path(), request.uri().query());
        async move { Ok::<_, Infallible>(response(reply)) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(io), service).await {
        debug!(%error, "a debug connection failed");
    }
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let media_type = http::HeaderValue::from_static(reply.media_type);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, media_type);
    response
}
