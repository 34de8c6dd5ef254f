//! Stand-ins for the images that Istio's samples and guides use, so that their manifests run without a container
//! runtime: bookinfo, httpbin, hello-app, helloworld, tcp-echo, Istio's echo application and external authorizer, a WebSocket echo, `curl`
//! and `sleep`; and a small load generator.
//!
//! They keep to what the originals do on the wire: paths, bodies, headers passed on, ports, and ending on SIGTERM with
//! the requests in flight answered. They know nothing of the mesh.
//!
//! Adding one: its module, a line in [`run`], and its image in [`images`].

mod bookinfo;
mod client;
mod echo;
mod exec;
mod ext_authz;
mod get;
mod hello;
mod httpbin;
pub mod images;
mod load;
mod options;
mod propagation;
mod server;
mod sleep;
mod tcp_echo;
mod websocket;

use std::collections::BTreeMap;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Environment variables of an application.
pub type Environment = BTreeMap<String, String>;

/// Names of all applications, for help texts.
pub const NAMES: &[&str] = &[
    "bookinfo-details",
    "bookinfo-productpage",
    "bookinfo-ratings",
    "bookinfo-reviews",
    "echo",
    "exec",
    "ext-authz",
    "health",
    "hello-app",
    "helloworld",
    "http-get",
    "httpbin",
    "load",
    "sleep",
    "static",
    "tcp-echo",
    "websocket-echo",
];

/// Why an application ended otherwise than it should.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such application.
    #[error("no application is called `{0}`")]
    UnknownApplication(String),
    /// The arguments are wrong.
    #[error("{0}")]
    Usage(String),
    /// A port could not be opened.
    #[error("listening on port {port}")]
    Listen {
        /// The port.
        port: u16,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("running `{program}`")]
    Exec {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No runtime or signal handler could be made.
    #[error("starting")]
    Start(#[source] std::io::Error),
}

/// Runs application `name` until it ends by itself, SIGTERM or SIGINT, and returns its exit code. What goes wrong is
/// said on standard error.
pub fn run(name: &str, arguments: &[String], environment: &Environment) -> u8 {
    match try_run(name, arguments, environment) {
        Ok(code) => code,
        Err(error) => {
            report(name, &error);
            match error {
                RunError::Usage(_) | RunError::UnknownApplication(_) => 2,
                // As a shell says that a command was not found.
                RunError::Exec { .. } => 127,
                RunError::Listen { .. } | RunError::Start(_) => 1,
            }
        }
    }
}

fn report(name: &str, error: &dyn std::error::Error) {
    let mut line = format!("{name}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
}

fn try_run(name: &str, arguments: &[String], environment: &Environment) -> Result<u8, RunError> {
    if name == "exec" {
        return exec::run(arguments, environment);
    }
    // One thread: a stand-in is to cost little, and its answers cost less.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(RunError::Start)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut signals = Signals::new().map_err(RunError::Start)?;
        let application = application(name, arguments, environment, stop.clone());
        tokio::pin!(application);
        tokio::select! {
            ended = &mut application => return ended,
            () = signals.next() => stop.cancel(),
        }
        tokio::select! {
            ended = &mut application => ended,
            // Asked a second time: at once.
            () = signals.next() => Ok(130),
        }
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of either.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs application `name` until it ends or `stop` is cancelled.
async fn application(
    name: &str,
    arguments: &[String],
    environment: &Environment,
    stop: CancellationToken,
) -> Result<u8, RunError> {
    match name {
        "bookinfo-details" => bookinfo::details::run(arguments, environment, stop).await,
        "bookinfo-productpage" => bookinfo::productpage::run(arguments, environment, stop).await,
        "bookinfo-ratings" => bookinfo::ratings::run(arguments, environment, stop).await,
        "bookinfo-reviews" => bookinfo::reviews::run(arguments, environment, stop).await,
        "echo" => echo::run(arguments, environment, stop).await,
        "ext-authz" => ext_authz::run(arguments, stop).await,
        "health" => hello::health(arguments, stop).await,
        "hello-app" => hello::app(arguments, environment, stop).await,
        "helloworld" => hello::world(arguments, environment, stop).await,
        "http-get" => Ok(get::run(arguments, stop).await),
        "httpbin" => httpbin::run(arguments, environment, stop).await,
        "load" => load::run(arguments, stop).await,
        "sleep" => sleep::run(arguments, stop).await,
        "static" => hello::page(arguments, stop).await,
        "tcp-echo" => tcp_echo::run(arguments, stop).await,
        "websocket-echo" => websocket::run(arguments, stop).await,
        other => Err(RunError::UnknownApplication(other.to_owned())),
    }
}

#[cfg(test)]
mod tests;
