//! Applications that say hello: Google's `hello-app`, Istio's `helloworld` and `health`, and a plain web page.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::client::{Call, ClientError, Pool, Target, with_causes};
use crate::options::{Options, port};
use crate::propagation::passed_on;
use crate::server::{self, Body, Service, reply, text};
use crate::{Environment, RunError};

/// How long `TARGET` may take: as long as Envoy's default route timeout.
const TARGET_TIMEOUT: Duration = Duration::from_secs(15);

/// `hello-app`: its version and its host's name; with `TARGET` set also what that service answers.
///
/// The original ignores `TARGET`. Guides to canary releases set it and expect to see the other service's version, so
/// here it is called, and its answer is shown indented below `Target:`. If it fails, so does this.
pub(crate) struct Hello {
    version: String,
    hostname: String,
    target: Option<String>,
    pool: Pool,
}

pub(crate) async fn app(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let options = Options::parse(arguments, &["version", "port"], &[])?;
    let port_text = options
        .last("port")
        .or(environment.get("PORT").map(String::as_str));
    let listener = server::listen(port(port_text.unwrap_or("8080"))?)?;
    let hello = Hello::new(options.last("version").unwrap_or("1.0.0"), environment);
    server::serve(listener, Arc::new(hello), stop).await;
    Ok(0)
}

impl Hello {
    pub(crate) fn new(version: &str, environment: &Environment) -> Hello {
        let target = environment
            .get("TARGET")
            .filter(|target| !target.trim().is_empty());
        Hello {
            version: version.to_owned(),
            hostname: environment.get("HOSTNAME").cloned().unwrap_or_default(),
            target: target.map(|target| target.trim().to_owned()),
            pool: Pool::new(),
        }
    }

    async fn ask(
        &self,
        target: &str,
        headers: &HeaderMap,
    ) -> Result<(StatusCode, String), ClientError> {
        let mut call = Call::get(Target::parse(target)?);
        call.headers = passed_on(headers);
        let response = self.pool.send(&call, TARGET_TIMEOUT).await?;
        Ok((
            response.status(),
            String::from_utf8_lossy(response.body()).into_owned(),
        ))
    }
}

impl Service for Hello {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        println!("Serving request: {}", request.uri().path());
        let mut body = format!(
            "Hello, world!\nVersion: {}\nHostname: {}\n",
            self.version, self.hostname
        );
        let Some(target) = &self.target else {
            return text(StatusCode::OK, body);
        };
        body.push_str(&format!("Target: {target}\n"));
        let (status, answer) = match self.ask(target, request.headers()).await {
            Ok((status, answer)) if status.is_success() => (StatusCode::OK, answer),
            Ok((status, answer)) => (StatusCode::BAD_GATEWAY, format!("{status}\n{answer}")),
            Err(ClientError::Timeout(_)) => (StatusCode::GATEWAY_TIMEOUT, "no answer".to_owned()),
            Err(error) => (
                StatusCode::BAD_GATEWAY,
                format!("no answer: {}", with_causes(&error)),
            ),
        };
        for line in answer.lines() {
            body.push_str(&format!("  {line}\n"));
        }
        text(status, body)
    }
}

/// Istio's `helloworld`.
pub(crate) struct World {
    version: String,
    hostname: String,
}

pub(crate) async fn world(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let options = Options::parse(arguments, &["port"], &[])?;
    let listener = server::listen(options.number("port")?.unwrap_or(5000))?;
    server::serve(listener, Arc::new(World::new(environment)), stop).await;
    Ok(0)
}

impl World {
    pub(crate) fn new(environment: &Environment) -> World {
        // The original prints a missing variable as Python's `None`.
        let variable = |name| {
            environment
                .get(name)
                .cloned()
                .unwrap_or_else(|| "None".to_owned())
        };
        World {
            version: variable("SERVICE_VERSION"),
            hostname: variable("HOSTNAME"),
        }
    }
}

impl Service for World {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        match request.uri().path() {
            "/hello" => reply(
                StatusCode::OK,
                "text/html; charset=utf-8",
                format!(
                    "Hello version: {}, instance: {}\n",
                    self.version, self.hostname
                ),
            ),
            "/health" => text(StatusCode::OK, "Helloworld is healthy"),
            _ => text(StatusCode::NOT_FOUND, "Not Found\n"),
        }
    }
}

/// A page that is the same for every path, as a web server's first page.
pub(crate) struct Page;

pub(crate) async fn page(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    let options = Options::parse(arguments, &["port"], &[])?;
    let listener = server::listen(options.number("port")?.unwrap_or(80))?;
    server::serve(listener, Arc::new(Page), stop).await;
    Ok(0)
}

impl Service for Page {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        println!("{} {}", request.method(), request.uri().path());
        let html = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head>\
                    <body><h1>It works!</h1></body></html>\n";
        reply(StatusCode::OK, "text/html", html)
    }
}

/// Istio's `health:example`: two ports, each with two paths to probe.
struct Health(u16);

pub(crate) async fn health(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    Options::parse(arguments, &[], &[])?;
    let (first, second) = (server::listen(8001)?, server::listen(8002)?);
    tokio::join!(
        server::serve(first, Arc::new(Health(8001)), stop.clone()),
        server::serve(second, Arc::new(Health(8002)), stop),
    );
    Ok(0)
}

impl Service for Health {
    async fn call(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        match request.uri().path() {
            path @ ("/foo" | "/bar") => {
                let told = format!("Listening on {}: {} ", self.0, &path[1..]);
                text(StatusCode::OK, told)
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}
