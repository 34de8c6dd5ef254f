//! httpbin: answers that show the request, or that are as the path asks. Two flavours, as there are two images:
//! `python` (kennethreitz/httpbin: header values are texts) and `go` (mccutchen/go-httpbin: they are lists).
//!
//! Source: httpbin.org and go-httpbin 2.15, by behaviour. Left out: images, forms, digest authentication,
//! server-sent events.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::options::{Options, port};
use crate::server::{self, Body, Service, reply, text};
use crate::websocket;
use crate::{Environment, RunError};

mod access;
mod mirror;
mod shape;
mod slow;

/// Which of the two httpbins this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    Python,
    Go,
}

pub(crate) struct HttpBin {
    flavor: Flavor,
    hostname: String,
    websocket: websocket::Echo,
}

pub(crate) async fn run(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    // Both images are started by a server program with flags of its own; those that name the port are understood.
    let options = Options::parse(
        arguments,
        &["flavor", "port", "host", "max-duration", "max-body-size"],
        &[],
    )?;
    let flavor = match options.last("flavor") {
        None | Some("go") => Flavor::Go,
        Some("python") => Flavor::Python,
        Some(other) => {
            return Err(RunError::Usage(format!(
                "--flavor: `{other}` is not go or python"
            )));
        }
    };
    let from_environment = environment.get("PORT").map(String::as_str);
    let listener = server::listen(port(
        from_environment.or(options.last("port")).unwrap_or("8080"),
    )?)?;
    server::serve(
        listener,
        Arc::new(HttpBin::new(flavor, environment, stop.clone())),
        stop,
    )
    .await;
    Ok(0)
}

impl HttpBin {
    pub(crate) fn new(
        flavor: Flavor,
        environment: &Environment,
        stop: CancellationToken,
    ) -> HttpBin {
        HttpBin {
            flavor,
            hostname: environment.get("HOSTNAME").cloned().unwrap_or_default(),
            websocket: websocket::Echo::new(stop),
        }
    }
}

/// A request that was read, and where it came from.
struct Asked {
    flavor: Flavor,
    head: Parts,
    body: Bytes,
    peer: SocketAddr,
}

impl Service for HttpBin {
    async fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        if request.uri().path() == "/websocket/echo" {
            return self.websocket.call(request, peer).await;
        }
        let (head, body) = request.into_parts();
        let body = match server::read(Request::from_parts(head.clone(), body)).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        let asked = Asked {
            flavor: self.flavor,
            head,
            body,
            peer,
        };
        let path = asked.head.uri.path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        self.answer(&asked, &parts).await
    }
}

impl HttpBin {
    async fn answer(&self, asked: &Asked, parts: &[&str]) -> Response<Body> {
        if let Some(answer) = self.mirrors(asked, parts) {
            return answer;
        }
        if let Some(answer) = slow::answer(asked, parts).await {
            return answer;
        }
        let answer = access::answer(asked, parts).or_else(|| shape::answer(asked, parts));
        answer.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "Not Found\n"))
    }

    /// Answers that show the request, or are always the same.
    fn mirrors(&self, asked: &Asked, parts: &[&str]) -> Option<Response<Body>> {
        let method = &asked.head.method;
        let allowed = |expected: &Method| {
            method == expected || (method == Method::HEAD && expected == Method::GET)
        };
        let only = |expected: Method, answer: Value| match allowed(&expected) {
            true => pretty(StatusCode::OK, &answer),
            false => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"),
        };
        Some(match parts {
            [] => reply(StatusCode::OK, "text/html; charset=utf-8", INDEX),
            ["get"] => only(Method::GET, mirror::get(asked)),
            ["post"] => only(Method::POST, mirror::whole(asked)),
            ["put"] => only(Method::PUT, mirror::whole(asked)),
            ["patch"] => only(Method::PATCH, mirror::whole(asked)),
            ["delete"] => only(Method::DELETE, mirror::whole(asked)),
            ["head"] => only(Method::GET, mirror::get(asked)),
            ["anything", ..] => pretty(StatusCode::OK, &mirror::anything(asked)),
            ["headers"] => pretty(
                StatusCode::OK,
                &json!({ "headers": mirror::headers(asked) }),
            ),
            ["ip"] => pretty(StatusCode::OK, &json!({ "origin": mirror::origin(asked) })),
            ["user-agent"] => {
                let agent = asked.head.headers.get(http::header::USER_AGENT);
                let agent = agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()));
                pretty(StatusCode::OK, &json!({ "user-agent": agent }))
            }
            ["hostname"] => pretty(StatusCode::OK, &json!({ "hostname": self.hostname })),
            ["html"] => reply(StatusCode::OK, "text/html; charset=utf-8", HTML),
            ["xml"] => reply(StatusCode::OK, "application/xml", XML),
            ["json"] => pretty(StatusCode::OK, &slideshow()),
            ["robots.txt"] => text(StatusCode::OK, "User-agent: *\nDisallow: /deny\n"),
            ["deny"] => text(StatusCode::OK, "YOU SHOULDN'T BE HERE\n"),
            ["encoding", "utf8"] => reply(
                StatusCode::OK,
                "text/html; charset=utf-8",
                "<h1>Unicode</h1><p>∮ E⋅da = Q, ∀x∈ℝ, γλώσσα, кириллица, 文字, 😀</p>\n",
            ),
            _ => return None,
        })
    }
}

/// JSON as httpbin prints it: indented, with a line end.
fn pretty(status: StatusCode, body: &Value) -> Response<Body> {
    let mut body = serde_json::to_string_pretty(body).unwrap_or_default();
    body.push('\n');
    reply(status, "application/json", body)
}

const INDEX: &str = "<!DOCTYPE html>\n<title>httpbin</title><h1>httpbin</h1>\
    <p>/get /post /put /patch /delete /anything /headers /ip /user-agent /status/{codes} /delay/{seconds} \
    /redirect/{n} /bytes/{n} /stream/{n} /drip /basic-auth/{user}/{password} /bearer /cookies /gzip /deflate \
    /cache /etag/{etag} /response-headers /base64/{text} /uuid /html /json /xml /websocket/echo</p>\n";
const HTML: &str = "<!DOCTYPE html>\n<html><body><h1>Herman Melville - Moby-Dick</h1>\
    <p>Call me Ishmael.</p></body></html>\n";
const XML: &str = "<?xml version='1.0' encoding='us-ascii'?>\n<slideshow title=\"Sample Slide Show\" \
    author=\"Yours Truly\"><slide type=\"all\"><title>Overview</title></slide></slideshow>\n";

fn slideshow() -> Value {
    json!({
        "slideshow": {
            "author": "Yours Truly",
            "date": "date of publication",
            "slides": [
                { "title": "Wake up to WonderWidgets!", "type": "all" },
                {
                    "items": [
                        "Why <em>WonderWidgets</em> are great",
                        "Who <em>buys</em> WonderWidgets",
                    ],
                    "title": "Overview",
                    "type": "all",
                },
            ],
            "title": "Sample Slide Show",
        }
    })
}
