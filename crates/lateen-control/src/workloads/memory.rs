//! What a control plane that starts again knows of workloads that are no pods: who counted when the last one ended.
//!
//! Written down is what their proxies said about themselves; what a group makes of it is worked out anew from the files of today.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lateen_compile::{Locality, ProxyNode};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Known, RETURN, State, Workloads, claimed, key_of};

/// What a proxy said about itself, as far as its entry needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Remembered {
    namespace: String,
    group: String,
    entry: String,
    address: Option<IpAddr>,
    labels: BTreeMap<String, String>,
    network: String,
    locality: [String; 3],
    probed: bool,
}

impl Remembered {
    pub(super) fn of(node: &ProxyNode) -> Self {
        let place = node.locality.clone();
        Self {
            namespace: node.namespace.clone(),
            group: node.auto_register_group.clone(),
            entry: node.workload_entry.clone(),
            address: node.main_ip(),
            labels: node.labels.clone(),
            network: node.network.clone(),
            locality: [place.region, place.zone, place.sub_zone],
            probed: node.readiness_probe,
        }
    }

    fn node(self) -> ProxyNode {
        let [region, zone, sub_zone] = self.locality;
        ProxyNode {
            namespace: self.namespace,
            auto_register_group: self.group,
            workload_entry: self.entry,
            ips: self.address.into_iter().collect(),
            labels: self.labels,
            network: self.network,
            locality: Locality {
                region,
                zone,
                sub_zone,
            },
            readiness_probe: self.probed,
            ..ProxyNode::default()
        }
    }
}

impl State {
    /// Those that count.
    fn remembered(&self) -> Vec<&Remembered> {
        let counting = self.entries.values().filter(|entry| entry.counts());
        counting.map(|entry| &entry.node).collect()
    }
}

impl Workloads {
    /// Writes down who counts, as it changes. What cannot be written is told, and costs nothing but the memory.
    pub(crate) async fn write_down(&self, path: PathBuf) {
        let mut changes = self.watch();
        loop {
            let text = serde_json::to_vec(&self.lock().remembered());
            let path = path.clone();
            let write = move || write(&path, &text.map_err(io::Error::other)?);
            match tokio::task::spawn_blocking(write).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "cannot write down who registered"),
                Err(error) => warn!(%error, "cannot write down who registered"),
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes those that were written down for connected, for as long as it takes to connect again.
    pub(crate) fn recall(self: &Arc<Self>, path: &Path, known: &Known) {
        let remembered = match read(path) {
            Ok(remembered) => remembered,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                warn!(%error, path = %path.display(), "cannot read who was registered");
                return;
            }
        };
        let mut state = self.lock();
        for node in remembered.into_iter().map(Remembered::node) {
            // A group or an entry that is gone since needs no word: its workloads are told when they connect.
            let Ok(Some(claimed)) = claimed(&node, known) else {
                continue;
            };
            let key = key_of(&claimed.object);
            let mut entry = claimed.entry(&node);
            entry.healthy = true;
            state.entries.insert(key.clone(), entry);
            info!(
                namespace = key.0,
                entry = key.1,
                "a workload was registered before"
            );
            let workloads = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(RETURN).await;
                workloads.expire(&key, 0);
            });
        }
        self.publish(&state);
    }
}

/// Readers see the old list or the new one.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

fn read(path: &Path) -> io::Result<Vec<Remembered>> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
