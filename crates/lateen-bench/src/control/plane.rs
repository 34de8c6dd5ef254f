//! The control plane under measurement, in a process of its own: the product's publisher, compiler and ADS server, fed from memory.
//!
//! What is left out is the reading of files: a change is an object that the sources hand on. Each line on standard input is a
//! command, each answered by one line of JSON. Times are of the monotonic clock, which all processes of a machine share.

use std::io::{BufRead, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lateen_api::Resource;
use lateen_compile::Settings;
use lateen_control::discovery::{Door, Proxies, Trust};
use lateen_control::mesh::{Debounce, Published, Sources, publish};
use lateen_identity::grpc::Authenticators;
use lateen_identity::spiffe::{TrustDomain, TrustDomains};
use lateen_sources::files::Loaded;
use lateen_sources::plan::PodState;
use lateen_sources::pods::PodStates;
use lateen_xds::grpc::{AdsServer, ServerConfig};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::now_ns;
use super::world::{self, Shape};
use crate::options::{number, text};
use crate::process::{Core, pin};

/// Serves until standard input ends.
///
/// # Errors
/// The port is taken, or a command is not known.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    // Before the runtime, whose threads inherit it and which counts the cores it may use.
    pin(std::process::id(), Core::Subject)?;
    let shape = Shape {
        services: number(arguments, "services", 1000)?,
        scoped: number(arguments, "scoped", 1)? != 0,
    };
    let listen: SocketAddr = text(arguments, "listen")
        .context("--listen is missing")?
        .parse()
        .context("--listen")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mut plane = runtime.block_on(Plane::start(shape, listen))?;
    say(&json!({"ready": true, "snapshot_ms": plane.published.borrow().took.as_secs_f64() * 1e3}));
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading a command")?;
        let answer = plane.command(&line)?;
        say(&answer);
    }
    Ok(())
}

/// Prints a line at once.
pub(super) fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Whoever reads it has gone if this fails; the end of standard input follows.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

/// Objects of a file, as users have them: a service with what belongs to it in a few.
const IN_A_FILE: usize = 16;

struct Plane {
    shape: Shape,
    /// As from files of so many objects each.
    objects: Vec<Arc<[Resource]>>,
    pods: Vec<Arc<PodState>>,
    files: watch::Sender<Arc<Loaded>>,
    states: watch::Sender<PodStates>,
    published: watch::Receiver<Arc<Published>>,
    proxies: Arc<Proxies>,
    revision: usize,
}

impl Plane {
    async fn start(shape: Shape, listen: SocketAddr) -> Result<Self> {
        let objects = world::objects(shape)?;
        let objects: Vec<Arc<[Resource]>> = objects.chunks(IN_A_FILE).map(Arc::from).collect();
        let pods = (0..shape.services).map(|i| Arc::new(world::pod(shape, i)));
        let pods: Vec<Arc<PodState>> = pods.collect();
        let (files, files_seen) = watch::channel(loaded(&objects));
        let (states, states_seen) = watch::channel(PodStates::from(pods.as_slice()));
        let sources = Sources::new(files_seen, states_seen, Settings::default());
        let published = publish(sources, Debounce::default()).await;
        let authenticators = Authenticators::new(Vec::new());
        let domains = TrustDomains::new(TrustDomain::cluster_local(), []);
        let proxies = Arc::new(Proxies::new(published.clone(), authenticators, domains));
        let door = Door {
            proxies: Arc::clone(&proxies),
            trust: Trust::Anyone,
        };
        // Simulated proxies may share a connection.
        let config = ServerConfig {
            streams_per_connection: 100_000,
            ..ServerConfig::default()
        };
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let server = config
            .transport()
            .add_service(AdsServer::new(Arc::new(door), config.clone()).into_service())
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        Ok(Self {
            shape,
            objects,
            pods,
            files,
            states,
            published,
            proxies,
            revision: 0,
        })
    }

    fn command(&mut self, line: &str) -> Result<Value> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let index = |at: usize| -> Result<usize> {
            let word = words.get(at).context("a number is missing")?;
            word.parse().context("a number")
        };
        match words.first().copied().unwrap_or_default() {
            "stats" => Ok(self.stats()),
            "storm" => self.storm(index(1)?, index(2)?),
            kind => {
                let index = index(1)?;
                Ok(json!({"at_ns": self.change(kind, index)?}))
            }
        }
    }

    /// Makes one change and says when.
    fn change(&mut self, kind: &str, index: usize) -> Result<u64> {
        self.revision += 1;
        let (shape, revision) = (self.shape, self.revision);
        let home = world::home(shape, index);
        match kind {
            "endpoint" => return Ok(self.toggle(index)),
            "virtual-service" => self.replace(&world::virtual_service_text(
                shape,
                index / 10 * 10,
                revision,
            ))?,
            "namespace" => self.replace(&world::namespace_text(home, revision))?,
            "policy" => self.replace(&world::policy_text(home, revision))?,
            "service" => {
                // Beyond those there are, in a namespace that there is.
                let new = shape.services + revision * shape.namespaces() + home;
                let text = world::service_text(shape, new);
                self.objects.push([world::parse_one(&text)?].into());
            }
            unknown => bail!("no such command: {unknown}"),
        }
        let next = loaded(&self.objects);
        let at = now_ns();
        self.files.send_replace(next);
        Ok(at)
    }

    /// A pod becomes ready or stops being so.
    fn toggle(&mut self, index: usize) -> u64 {
        let pod = Arc::make_mut(&mut self.pods[index]);
        pod.ready = !pod.ready;
        let next = PodStates::from(self.pods.as_slice());
        let at = now_ns();
        self.states.send_replace(next);
        at
    }

    fn replace(&mut self, text: &str) -> Result<()> {
        let new = world::parse_one(text)?;
        let key = new.key();
        for file in &mut self.objects {
            let is_it = |object: &Resource| object.kind == new.kind && object.key() == key;
            if let Some(at) = file.iter().position(is_it) {
                Arc::make_mut(file)[at] = new;
                return Ok(());
            }
        }
        bail!("no object to replace")
    }

    /// Endpoint changes at a steady rate: which service, and when.
    fn storm(&mut self, per_second: usize, seconds: usize) -> Result<Value> {
        let pause = Duration::from_secs_f64(1.0 / per_second.max(1) as f64);
        let start = std::time::Instant::now();
        let mut done = Vec::new();
        for step in 0..per_second * seconds {
            let due = start + pause * u32::try_from(step).context("a few thousand steps")?;
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            let index = step * 7 % self.shape.services;
            done.push(json!([world::host(self.shape, index), self.toggle(index)]));
        }
        Ok(json!({"changes": done}))
    }

    fn stats(&self) -> Value {
        let work = self.proxies.work();
        json!({
            "connected": work.connected,
            "behind": work.behind,
            "compilations": work.compilations,
            "generators": work.generators,
            "responses": work.responses,
            "bytes": work.sent_bytes,
            "cpu_ns": cpu_ns(),
            "generation": self.published.borrow().generation,
            "snapshot_ms": self.published.borrow().took.as_secs_f64() * 1e3,
        })
    }
}

/// CPU time of this process but for the thread that calls: that one carries out commands, and nothing else.
fn cpu_ns() -> u64 {
    let spent = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
    };
    spent(ClockId::ProcessCPUTime).saturating_sub(spent(ClockId::ThreadCPUTime))
}

fn loaded(objects: &[Arc<[Resource]>]) -> Arc<Loaded> {
    Arc::new(Loaded {
        resources: objects.iter().cloned().collect(),
        ..Loaded::default()
    })
}
