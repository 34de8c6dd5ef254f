//! Names of STRICT_DNS and LOGICAL_DNS clusters, resolved again and again off the workers.
//!
//! The system's resolver is asked, on threads of the runtime's blocking pool. A failure keeps the last addresses: a name server that is
//! away is no reason to drop hosts that work.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::cluster::{Discovery, DnsFamily, DnsOptions};
use lateen_traffic::endpoint::EndpointAddress;
use lateen_traffic::{EndpointSet, Program};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Not asked more often than this, whatever is configured.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Resolves the names a program refers to.
pub(super) struct Resolver {
    answers: BTreeMap<Arc<str>, Vec<IpAddr>>,
    asking: BTreeMap<Arc<str>, JoinHandle<()>>,
    sender: mpsc::Sender<(Arc<str>, Vec<IpAddr>)>,
    receiver: mpsc::Receiver<(Arc<str>, Vec<IpAddr>)>,
}

impl Resolver {
    /// A resolver that knows no name.
    pub(super) fn new() -> Self {
        // Full: whoever resolves waits, and asks again later than it would have.
        let (sender, receiver) = mpsc::channel(64);
        Self {
            answers: BTreeMap::new(),
            asking: BTreeMap::new(),
            sender,
            receiver,
        }
    }

    /// Begins to resolve the program's names, and stops for names that are gone.
    pub(super) fn follow(&mut self, program: &Program) {
        let mut wanted: BTreeMap<Arc<str>, Duration> = BTreeMap::new();
        for cluster in program.dns_clusters() {
            let (Discovery::StrictDns(set, options) | Discovery::LogicalDns(set, options)) =
                &cluster.discovery
            else {
                continue;
            };
            for name in names(set) {
                let rate = wanted.entry(name).or_insert(options.refresh_rate);
                *rate = options.refresh_rate.min(*rate).max(MIN_REFRESH);
            }
        }
        self.asking.retain(|name, task| {
            let keep = wanted.contains_key(name);
            if !keep {
                task.abort();
            }
            keep
        });
        self.answers.retain(|name, _| wanted.contains_key(name));
        for (name, rate) in wanted {
            let sender = self.sender.clone();
            let asked = Arc::clone(&name);
            self.asking
                .entry(name)
                .or_insert_with(|| tokio::task::spawn_local(ask(asked, rate, sender)));
        }
    }

    /// Returns when an answer changed. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        loop {
            // The resolver holds a sender itself, so the channel never ends.
            let Some((name, addresses)) = self.receiver.recv().await else {
                return std::future::pending().await;
            };
            if self.answers.get(&name) != Some(&addresses) {
                tracing::debug!(%name, ?addresses, "name resolved");
                self.answers.insert(name, addresses);
                return;
            }
        }
    }

    /// The endpoints of the program's DNS clusters, as far as they are known.
    pub(super) fn resolved(&self, program: &Program) -> BTreeMap<Arc<str>, Arc<EndpointSet>> {
        let mut all = BTreeMap::new();
        for cluster in program.dns_clusters() {
            let (set, options, only_first) = match &cluster.discovery {
                Discovery::StrictDns(set, options) => (set, options, false),
                Discovery::LogicalDns(set, options) => (set, options, true),
                _ => continue,
            };
            let set = set.resolved(|host| {
                let mut addresses = self
                    .answers
                    .get(host)
                    .map(|a| of_family(a, options))
                    .unwrap_or_default();
                addresses.truncate(if only_first { 1 } else { usize::MAX });
                addresses
            });
            all.insert(Arc::clone(&cluster.name), Arc::new(set));
        }
        all
    }
}

fn names(set: &EndpointSet) -> BTreeSet<Arc<str>> {
    let name = |address: &EndpointAddress| match address {
        EndpointAddress::Dns { host, .. } => Some(Arc::clone(host)),
        _ => None,
    };
    set.endpoints
        .iter()
        .filter_map(|endpoint| name(&endpoint.address))
        .collect()
}

fn of_family(addresses: &[IpAddr], options: &DnsOptions) -> Vec<IpAddr> {
    let of = |v4: bool| -> Vec<IpAddr> {
        addresses
            .iter()
            .filter(|ip| ip.is_ipv4() == v4)
            .copied()
            .collect()
    };
    let first = |list: Vec<IpAddr>, other: bool| if list.is_empty() { of(other) } else { list };
    match options.family {
        DnsFamily::All => addresses.to_vec(),
        DnsFamily::V4Only => of(true),
        DnsFamily::V6Only => of(false),
        DnsFamily::V4Preferred => first(of(true), false),
        DnsFamily::Auto => first(of(false), true),
    }
}

async fn ask(name: Arc<str>, rate: Duration, answers: mpsc::Sender<(Arc<str>, Vec<IpAddr>)>) {
    loop {
        match tokio::net::lookup_host((&*name, 0)).await {
            Ok(found) => {
                let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
                if answers
                    .send((Arc::clone(&name), addresses.into_iter().collect()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => tracing::debug!(%name, %error, "name does not resolve"),
        }
        tokio::time::sleep(rate).await;
    }
}
