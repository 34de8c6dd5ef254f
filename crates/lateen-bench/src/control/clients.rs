//! Proxies as the control plane sees them: a connection and an ADS stream each, which subscribe as Envoy does and accept everything.
//!
//! Many to a process. They keep no resources: only what has to be asked for next, and when something last arrived.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::config::listener::v3::Listener;
use lateen_envoy::pb::envoy::config::listener::v3::filter::ConfigType;
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::pb::google::protobuf::Any;
use prost::Message;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use super::now_ns;
use super::plane::say;
use super::world::{self, Shape};
use crate::options::{number, text};
use crate::process::join_load;

mod delta;
mod sotw;

/// Types that a proxy asks for, each of which it is to be answered for once before it is ready.
const TYPES: [TypeUrl; 4] = [
    TypeUrl::Cluster,
    TypeUrl::ClusterLoadAssignment,
    TypeUrl::Listener,
    TypeUrl::RouteConfiguration,
];
/// Resources of a response that is noted by name: more are no single change.
const NOTED: usize = 8;

/// Runs until standard input ends.
///
/// # Errors
/// An argument is no good.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    join_load()?;
    let shape = Shape {
        services: number(arguments, "services", 1000)?,
        scoped: true,
    };
    let target: SocketAddr = text(arguments, "target")
        .context("--target is missing")?
        .parse()
        .context("--target")?;
    let count: usize = number(arguments, "proxies", 100)?;
    let delta = text(arguments, "protocol") != Some("sotw");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let fleet = Arc::new(Fleet::new(count));
    for index in 0..count {
        runtime.spawn(proxy(fleet.clone(), shape, index, target, delta));
    }
    for line in std::io::stdin().lock().lines() {
        match line.context("reading a command")?.as_str() {
            "report" => say(&fleet.report()),
            "mark" => say(&fleet.mark()),
            "note" => say(&fleet.note()),
            "notes" => say(&fleet.notes()),
            unknown => say(&json!({"error": format!("no such command: {unknown}")})),
        }
    }
    Ok(())
}

/// What all proxies of the process share.
struct Fleet {
    /// When each last received something since the mark; zero: nothing.
    last: Vec<AtomicU64>,
    /// When each had its first answer of every type.
    ready: Vec<AtomicU64>,
    responses: AtomicU64,
    noting: AtomicBool,
    /// Names of endpoints and when they arrived.
    noted: Mutex<Vec<(String, u64)>>,
    /// The route configurations that a listener names, by a hash of the listener.
    routes: Mutex<HashMap<u64, Arc<[String]>>>,
}

impl Fleet {
    fn new(count: usize) -> Self {
        let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            last: zeros(),
            ready: zeros(),
            responses: AtomicU64::new(0),
            noting: AtomicBool::new(false),
            noted: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    fn received(&self, index: usize) -> u64 {
        let now = now_ns();
        self.last[index].store(now, Ordering::Relaxed);
        self.responses.fetch_add(1, Ordering::Relaxed);
        now
    }

    fn became_ready(&self, index: usize) {
        self.ready[index].store(now_ns(), Ordering::Relaxed);
    }

    fn arrived<'a>(&self, at: u64, count: usize, names: impl Iterator<Item = &'a str>) {
        if count > NOTED || !self.noting.load(Ordering::Relaxed) {
            return;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.extend(names.map(|name| (name.to_owned(), at)));
    }

    fn mark(&self) -> Value {
        self.last
            .iter()
            .for_each(|last| last.store(0, Ordering::Relaxed));
        json!({})
    }

    fn report(&self) -> Value {
        let read = |list: &[AtomicU64]| -> Vec<u64> {
            list.iter()
                .map(|at| at.load(Ordering::Relaxed))
                .filter(|at| *at > 0)
                .collect()
        };
        json!({
            "ready": read(&self.ready),
            "last": read(&self.last),
            "responses": self.responses.load(Ordering::Relaxed),
        })
    }

    fn note(&self) -> Value {
        self.noting.store(true, Ordering::Relaxed);
        json!({})
    }

    fn notes(&self) -> Value {
        self.noting.store(false, Ordering::Relaxed);
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        json!({"notes": noted})
    }

    /// The route configurations that a listener names.
    fn routes_of(&self, listener: &Any) -> Arc<[String]> {
        let mut hasher = DefaultHasher::new();
        listener.value.hash(&mut hasher);
        let mut all = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all
            .entry(hasher.finish())
            .or_insert_with(|| routes_of(listener).into());
        Arc::clone(known)
    }
}

fn routes_of(listener: &Any) -> Vec<String> {
    let Ok(listener) = Listener::decode(listener.value.as_slice()) else {
        return Vec::new();
    };
    let chains = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| match filter.config_type.as_ref()? {
            ConfigType::TypedConfig(any) if any.type_url.ends_with("HttpConnectionManager") => {
                HttpConnectionManager::decode(any.value.as_slice()).ok()
            }
            _ => None,
        })
        .filter_map(|manager| match manager.route_specifier? {
            RouteSpecifier::Rds(rds) => Some(rds.route_config_name),
            _ => None,
        })
        .collect()
}

/// One proxy: connects, and again when its stream ends.
async fn proxy(fleet: Arc<Fleet>, shape: Shape, index: usize, target: SocketAddr, delta: bool) {
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{target}")) else {
        return;
    };
    loop {
        if let Ok(channel) = endpoint.connect().await {
            let client = AggregatedDiscoveryServiceClient::new(channel)
                .max_decoding_message_size(usize::MAX);
            let node = node(shape, index);
            // Turned away while many connect, or the control plane has ended: try again either way.
            let _ = if delta {
                delta::run(&fleet, index, node, client).await
            } else {
                sotw::run(&fleet, index, node, client).await
            };
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

type Client = AggregatedDiscoveryServiceClient<Channel>;

/// What our own sidecar says of itself.
fn node(shape: Shape, index: usize) -> Node {
    let (pod, namespace) = (
        world::pod(shape, index),
        world::namespace(world::home(shape, index)),
    );
    let metadata = json!({
        "LABELS": pod.labels,
        "INSTANCE_IPS": pod.ipv4.to_string(),
        "NAMESPACE": namespace,
        "NAME": pod.name,
        "SERVICE_ACCOUNT": pod.service_account,
        "WORKLOAD_NAME": pod.owner.name,
        "DNS_CAPTURE": "true",
        "LATEEN_NATIVE": true,
    });
    let metadata = metadata
        .as_object()
        .map(lateen_envoy::struct_from_json)
        .unwrap_or_default();
    Node {
        id: format!(
            "sidecar~{}~{}.{namespace}~{namespace}.svc.cluster.local",
            pod.ipv4, pod.name
        ),
        metadata: Some(metadata),
        ..Node::default()
    }
}

/// Which types were answered.
#[derive(Default)]
struct Answered(BTreeMap<TypeUrl, bool>);

impl Answered {
    /// Whether this was the last type to be answered for the first time.
    fn completes(&mut self, ty: TypeUrl) -> bool {
        self.0.insert(ty, true).is_none() && self.0.len() == TYPES.len()
    }
}
