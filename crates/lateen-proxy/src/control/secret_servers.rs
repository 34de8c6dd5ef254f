//! Secrets of other servers than the control plane: SDS by way of a cluster (`sds_config.api_config_source`).
//!
//! One stream for each such cluster, made anew when it ends. What was received stays while a server is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::{Resource, TypeUrl};
use lateen_traffic::program::Change;
use lateen_traffic::secret;
use lateen_xds::grpc::secrets::{Delivery, secrets};
use rand::seq::IndexedRandom as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::health::Subject;
use crate::shared::{Live, Shared};
use crate::upstream::{connect, target};

/// The first wait before a stream is tried again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The servers in use.
pub(super) struct SecretServers {
    shared: Arc<Shared>,
    servers: BTreeMap<Arc<str>, Server>,
    /// The configuration as it came, in effect or not: what is not in effect may be waiting for these secrets.
    live: watch::Sender<Arc<Live>>,
    sender: mpsc::Sender<(Arc<str>, Delivery)>,
    receiver: mpsc::Receiver<(Arc<str>, Delivery)>,
}

struct Server {
    names: watch::Sender<BTreeSet<Arc<str>>>,
    task: AbortHandle,
}

/// Secrets that came, under the names that they have here, and the duty to answer.
pub(super) type Delivered = (Vec<Change>, oneshot::Sender<Result<(), String>>);

impl SecretServers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // Full: servers wait with their next answer.
        let (sender, receiver) = mpsc::channel(8);
        Self {
            shared,
            servers: BTreeMap::new(),
            live: watch::Sender::new(Arc::default()),
            sender,
            receiver,
        }
    }

    /// Asks for the secrets that are wanted of each server, and no longer for others.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Arc<str>>) {
        let mut by_cluster: BTreeMap<&str, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (cluster, name) in wanted.iter().filter_map(|key| secret::external(key)) {
            by_cluster.entry(cluster).or_default().insert(name.into());
        }
        self.servers.retain(|cluster, server| {
            let keep = by_cluster.contains_key(&**cluster);
            if !keep {
                server.task.abort();
            }
            keep
        });
        for (cluster, names) in by_cluster {
            if let Some(server) = self.servers.get(cluster) {
                server.names.send_if_modified(|known| {
                    let differ = *known != names;
                    *known = names;
                    differ
                });
                continue;
            }
            let cluster: Arc<str> = cluster.into();
            let (names, asked) = watch::channel(names);
            let asking = Asking {
                shared: Arc::clone(&self.shared),
                cluster: Arc::clone(&cluster),
                names: asked,
                live: self.live.subscribe(),
                deliveries: self.sender.clone(),
            };
            let task = tokio::task::spawn_local(asking.run()).abort_handle();
            self.servers.insert(cluster, Server { names, task });
        }
    }

    /// Shows the newest configuration to whoever connects next.
    pub(super) fn see(&self, live: impl FnOnce() -> Live) {
        if !self.servers.is_empty() {
            self.live.send_replace(Arc::new(live()));
        }
    }

    /// The next secrets. Safe to cancel.
    pub(super) async fn next(&mut self) -> Delivered {
        // The sender is held here, so the channel never ends.
        let Some((cluster, delivery)) = self.receiver.recv().await else {
            return std::future::pending().await;
        };
        let changes = delivery.secrets.into_iter().map(|found| {
            let name = secret::external_key(&cluster, &found.name);
            Change::Upsert(TypeUrl::Secret, Resource { name, ..found })
        });
        (changes.collect(), delivery.answer)
    }
}

/// What asks one server.
struct Asking {
    shared: Arc<Shared>,
    cluster: Arc<str>,
    names: watch::Receiver<BTreeSet<Arc<str>>>,
    live: watch::Receiver<Arc<Live>>,
    deliveries: mpsc::Sender<(Arc<str>, Delivery)>,
}

impl Asking {
    async fn run(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            let started = tokio::time::Instant::now();
            let ended = self.stream().await;
            let reason = ended
                .err()
                .unwrap_or_else(|| "the server closed the stream".to_owned());
            tracing::warn!(cluster = %self.cluster, reason, "no stream of secrets; the last ones stay");
            if started.elapsed() > BACKOFF.1 {
                wait = BACKOFF.0;
            }
            let pause = wait.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(pause) => wait = (wait * 2).min(BACKOFF.1),
                // The cluster or its endpoints may be what came.
                Ok(()) = self.live.changed() => {}
            }
        }
    }

    async fn stream(&mut self) -> Result<(), String> {
        let live = self.live.borrow_and_update().clone();
        let subject = host_of(&live, &self.cluster)?;
        let target = target::of_server(&self.shared, &live, &subject);
        let target = target.map_err(|error| error.to_string())?;
        let stream = connect::connect(&target).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let authority = self.cluster.rsplit('|').next().unwrap_or(&self.cluster);
        let (deliveries, mut mine) = mpsc::channel(1);
        let node = self.shared.config.node.clone();
        let asked = secrets(stream, authority, node, self.names.clone(), deliveries);
        let pass_on = async {
            while let Some(delivery) = mine.recv().await {
                let named = (Arc::clone(&self.cluster), delivery);
                if self.deliveries.send(named).await.is_err() {
                    return;
                }
            }
        };
        let (ended, ()) = tokio::join!(asked, pass_on);
        ended.map_err(|status| format!("{}: {}", status.code(), status.message()))
    }
}

/// Any host of a cluster that is not known to be unwell.
fn host_of(live: &Live, cluster: &Arc<str>) -> Result<Subject, String> {
    let cluster = live
        .program
        .cluster(cluster)
        .ok_or("there is no such cluster")?;
    let set = live
        .endpoints_of(cluster)
        .ok_or("its endpoints are not known yet")?;
    let groups = set.localities.iter();
    let hosts = groups.flat_map(|group| group.endpoints.clone().map(move |index| (group, index)));
    let hosts: Vec<_> = hosts
        .filter(|(_, index)| {
            let health = lateen_traffic::lb::HostHealth::from(set.endpoints[*index].health);
            health == lateen_traffic::lb::HostHealth::Healthy
        })
        .collect();
    let (group, index) = hosts
        .choose(&mut rand::rng())
        .ok_or("it has no healthy host")?;
    Ok(Subject {
        cluster: Arc::clone(cluster),
        endpoint: Arc::clone(&set.endpoints[*index]),
        locality: group.metadata.clone(),
    })
}
