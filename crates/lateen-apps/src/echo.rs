//! Istio's echo application: says over HTTP, gRPC and TCP what it was asked and who it is.
//!
//! Understands the flags of `istio/app` that its samples use (`--port`, `--grpc`, `--tcp`, `--version`, …) and serves
//! `proto.EchoTestService` and `grpc.health.v1.Health`. HTTP and gRPC share one server: gRPC is told by its content
//! type. No reflection, no proxyless xDS: `--xds-grpc-server` is an ordinary gRPC port here.
//! Source: Istio 1.30 `pkg/test/echo`, by behaviour.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::options::{Options, port};
use crate::server::{self, Body, Service, text};
use crate::{Environment, RunError, tcp_echo};

mod grpc;

/// The longest delay that a request may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

pub(crate) struct Echo {
    version: String,
    cluster: String,
    hostname: String,
    address: String,
    stop: CancellationToken,
}

pub(crate) async fn run(
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    let known = [
        "port",
        "grpc",
        "tcp",
        "xds-grpc-server",
        "version",
        "cluster",
        "metrics",
        "crt",
        "key",
        "bind-ip",
        "istio-version",
        "uds",
        "server-first",
        "tls",
    ];
    let options = Options::parse(arguments, &known, &["disable-alpn"])?;
    let echo = Arc::new(Echo::new(&options, environment, stop.clone()));
    let mut ports = Vec::new();
    for name in ["port", "grpc", "xds-grpc-server", "metrics"] {
        ports.extend(
            options
                .all(name)
                .iter()
                .map(|text| port(text))
                .collect::<Result<Vec<_>, _>>()?,
        );
    }
    if ports.is_empty() {
        ports.push(8080);
    }
    // The samples name one port in two roles.
    ports.sort_unstable();
    ports.dedup();
    let http = ports
        .into_iter()
        .map(server::listen)
        .collect::<Result<Vec<_>, _>>()?;
    let tcp = options
        .all("tcp")
        .iter()
        .map(|text| server::listen(port(text)?));
    let tcp = tcp.collect::<Result<Vec<_>, _>>()?;
    let mut servers = JoinSet::new();
    for listener in http {
        servers.spawn(server::serve(listener, Arc::clone(&echo), stop.clone()));
    }
    if !tcp.is_empty() {
        let prefix = echo.version.clone();
        servers.spawn(async move { tcp_echo::serve(tcp, &prefix, stop).await });
    }
    while servers.join_next().await.is_some() {}
    Ok(0)
}

impl Echo {
    pub(crate) fn new(
        options: &Options,
        environment: &Environment,
        stop: CancellationToken,
    ) -> Echo {
        let variable = |name: &str| environment.get(name).cloned().unwrap_or_default();
        Echo {
            version: options.last("version").unwrap_or_default().to_owned(),
            cluster: options.last("cluster").unwrap_or_default().to_owned(),
            hostname: variable("HOSTNAME"),
            address: variable("INSTANCE_IP"),
            stop,
        }
    }

    /// The lines about a request and this instance, `Key=value` each.
    fn fields(&self, protocol: &str, peer: SocketAddr, request: &Head<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, value) in request.headers {
            lines.push(format!(
                "RequestHeader={name}:{}",
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        let mut field = |name: &str, value: &str| lines.push(format!("{name}={value}"));
        field("Host", request.host);
        field("URL", request.url);
        field("Method", request.method);
        field("Protocol", protocol);
        field("ServiceVersion", &self.version);
        field("Cluster", &self.cluster);
        field("Hostname", &self.hostname);
        field("IP", &peer.ip().to_string());
        if !self.address.is_empty() {
            field("InstanceIP", &self.address);
        }
        lines
    }
}

/// The head of a request, borrowed.
struct Head<'a> {
    headers: &'a HeaderMap,
    host: &'a str,
    url: &'a str,
    method: &'a str,
}

impl Service for Echo {
    async fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        if grpc::is_grpc(request.headers()) {
            return self.grpc(request, peer).await;
        }
        let (head, _) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        if let Some(delay) = parameter("delay").and_then(|delay| go_duration(&delay)) {
            tokio::time::sleep(delay.min(LONGEST_DELAY)).await;
        }
        let status =
            parameter("codes").and_then(|codes| codes.split([',', ':']).next()?.parse().ok());
        let status = status.unwrap_or(StatusCode::OK);
        let host = head
            .headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok());
        let url = head.uri.to_string();
        let lines = self.fields(
            &format!("{:?}", head.version),
            peer,
            &Head {
                headers: &head.headers,
                host: host.or(head.uri.host()).unwrap_or_default(),
                url: &url,
                method: head.method.as_str(),
            },
        );
        text(
            status,
            format!("StatusCode={}\n{}\n", status.as_u16(), lines.join("\n")),
        )
    }
}

/// `1.5s`, `20ms`, `1m`: one number and unit of Go's durations.
fn go_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let scale = match &text[unit..] {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let number: f64 = text[..unit].parse().ok()?;
    Duration::try_from_secs_f64(number * scale).ok()
}
