//! Properties of both halves together, over random interleavings of configuration changes, deliveries, rejections and reconnects:
//! the client always ends with what the server wants it to have, and its routes never lead to a cluster it cannot use.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_envoy::TypeUrl::{
    self, Cluster as Cds, ClusterLoadAssignment as Eds, Listener as Lds, RouteConfiguration as Rds,
};
use lateen_envoy::pb::envoy::config::cluster::v3::Cluster;
use lateen_envoy::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{Resource, ResourceSet};
use lateen_xds::client::{ClientSession, Incoming, Update};
use lateen_xds::server::{Response, ServerSession, SessionConfig, SyncState, Variant};
use proptest::prelude::*;

/// A configuration of a mesh with up to five services.
#[derive(Clone, Debug)]
struct Config {
    /// Versions of the services that exist.
    services: BTreeMap<u8, u8>,
    /// Which service the route leads to, if it exists.
    route: u8,
    /// A version for what is not about services.
    version: u8,
}

impl Config {
    fn resources(&self) -> ResourceSet {
        let mut set = ResourceSet::default();
        for (service, version) in &self.services {
            let name = format!("service{service}");
            set.insert(Cds, cluster(&name, version / 2));
            set.insert(Eds, opaque(Eds, &name, &version.to_string()));
        }
        let target = self
            .services
            .contains_key(&self.route)
            .then_some(self.route);
        let target = target.map_or("none".to_owned(), |service| format!("service{service}"));
        set.insert(Rds, opaque(Rds, "80", &target));
        set.insert(Lds, opaque(Lds, "listener", &self.version.to_string()));
        set
    }
}

fn cluster(name: &str, version: u8) -> Resource {
    let cluster = Cluster {
        name: name.to_owned(),
        alt_stat_name: version.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    };
    Resource::new(name, &cluster)
}

fn opaque(ty: TypeUrl, name: &str, text: &str) -> Resource {
    let any = Any {
        type_url: ty.as_str().to_owned(),
        value: text.as_bytes().to_vec(),
    };
    Resource::from_any(name, any)
}

#[derive(Clone, Debug)]
enum Step {
    Configure(Config),
    /// Delivers the oldest message to the server.
    ToServer,
    /// Delivers the oldest message to the client.
    ToClient,
    /// The stream breaks and another begins, on another server.
    Reconnect,
    Wait(u16),
}

fn config() -> impl Strategy<Value = Config> {
    (
        proptest::collection::btree_map(0_u8..5, 0_u8..4, 0..5),
        0_u8..5,
        0_u8..3,
    )
        .prop_map(|(services, route, version)| Config {
            services,
            route,
            version,
        })
}

/// `waits`: whether time passes, which ends the waits that protect routes.
fn steps(waits: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => config().prop_map(Step::Configure),
        6 => Just(Step::ToServer),
        6 => Just(Step::ToClient),
        1 => Just(Step::Reconnect),
        u32::from(waits) => (0_u16..5000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Both ends, and what is under way between them.
struct World {
    now: Instant,
    target: ResourceSet,
    server: ServerSession,
    client: ClientSession,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
    held: BTreeMap<TypeUrl, BTreeMap<Arc<str>, Resource>>,
    /// Rejects listeners of this version.
    rejects: Option<&'static [u8]>,
}

impl World {
    fn new(rejects: Option<&'static [u8]>) -> Self {
        let mut client = ClientSession::new(Node {
            id: "n".to_owned(),
            ..Node::default()
        });
        client.subscribe_all(Cds);
        client.subscribe_all(Lds);
        client.subscribe(Rds, ["80"]);
        let initial = Config {
            services: BTreeMap::new(),
            route: 0,
            version: 0,
        };
        let mut world = Self {
            now: Instant::now(),
            target: initial.resources(),
            server: ServerSession::new(Variant::Delta, SessionConfig::default()),
            client,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            held: BTreeMap::new(),
            rejects,
        };
        world.reconnect();
        world
    }

    fn reconnect(&mut self) {
        self.client.disconnected();
        self.to_client.clear();
        self.to_server = self.client.restart().into();
        self.server = ServerSession::new(Variant::Delta, SessionConfig::default());
        self.server.set_resources(self.target.clone());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Configure(config) => {
                self.target = config.resources();
                self.server.set_resources(self.target.clone());
            }
            Step::ToServer => {
                if let Some(request) = self.to_server.pop_front() {
                    self.server.on_delta_request(&request, self.now).unwrap();
                }
            }
            Step::ToClient => {
                if let Some(response) = self.to_client.pop_front() {
                    self.receive(response);
                }
            }
            Step::Reconnect => self.reconnect(),
            Step::Wait(millis) => self.now += Duration::from_millis(millis.into()),
        }
        while let Some(response) = self.server.poll(self.now) {
            let Response::Delta(response) = response else {
                panic!("the wrong variant")
            };
            self.to_client.push_back(response);
        }
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse) {
        let Incoming::Update(update) = self.client.on_response(response) else {
            panic!("the server made no sense")
        };
        let ticket = update.ticket.clone();
        let bad = |r: &Resource| self.rejects.is_some_and(|v| r.body.value == v);
        if update.ty == Lds && update.changed.iter().any(bad) {
            self.to_server
                .extend(self.client.nack(&ticket, "bad listener"));
            return;
        }
        let asks = self.apply(update);
        self.to_server.extend(self.client.ack(&ticket));
        self.to_server.extend(asks);
    }

    /// Takes an update as a proxy does: it asks for the endpoints of new clusters and forgets those of clusters that are gone.
    fn apply(&mut self, update: Update) -> Vec<DeltaDiscoveryRequest> {
        let held = self.held.entry(update.ty).or_default();
        let new: Vec<_> = update
            .changed
            .iter()
            .map(|resource| resource.name.clone())
            .collect();
        held.extend(update.changed.into_iter().map(|r| (r.name.clone(), r)));
        for name in &update.removed {
            held.remove(name);
        }
        if update.ty != Cds {
            return Vec::new();
        }
        let endpoints = self.held.entry(Eds).or_default();
        for name in &update.removed {
            endpoints.remove(name);
        }
        let asks = self.client.subscribe(Eds, new);
        asks.into_iter()
            .chain(self.client.unsubscribe(Eds, &update.removed))
            .collect()
    }

    /// Delivers everything until both sides are silent.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.step(Step::ToServer);
            self.step(Step::ToClient);
            if self.to_server.is_empty() && self.to_client.is_empty() {
                let Some(deadline) = self.server.deadline() else {
                    return;
                };
                self.now = self.now.max(deadline);
            }
        }
        panic!("the two never come to rest");
    }

    fn names(&self, ty: TypeUrl) -> BTreeSet<Arc<str>> {
        self.held
            .get(&ty)
            .into_iter()
            .flat_map(|held| held.keys().cloned())
            .collect()
    }

    fn route_target(&self) -> Option<String> {
        let route = self.held.get(&Rds)?.get("80")?;
        let target = String::from_utf8(route.body.value.clone()).unwrap();
        (target != "none").then_some(target)
    }
}

proptest! {
    #[test]
    fn the_client_ends_with_what_the_server_wants(steps in steps(true)) {
        let mut world = World::new(None);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        for ty in [Cds, Eds, Lds, Rds] {
            let held = world.held.get(&ty).cloned().unwrap_or_default();
            prop_assert!(held.iter().eq(world.target.get(ty).iter()), "{}", ty);
        }
        for (ty, status) in world.server.status().types {
            let synced = [SyncState::Synced, SyncState::NotSent].contains(&status.sync());
            prop_assert!(synced, "{} is {:?}", ty, status);
        }
    }

    #[test]
    fn a_client_that_rejects_one_type_still_gets_the_others(steps in steps(true)) {
        let mut world = World::new(Some(b"1"));
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        for ty in [Cds, Eds, Rds] {
            let held = world.held.get(&ty).cloned().unwrap_or_default();
            prop_assert!(held.iter().eq(world.target.get(ty).iter()), "{}", ty);
        }
    }

    #[test]
    fn routes_never_lead_to_a_cluster_that_cannot_be_used(steps in steps(false)) {
        let mut world = World::new(None);
        for step in steps {
            world.step(step);
            if let Some(target) = world.route_target() {
                prop_assert!(world.names(Cds).contains(target.as_str()), "no cluster {}", target);
                prop_assert!(world.names(Eds).contains(target.as_str()), "no endpoints of {}", target);
            }
        }
    }
}
