//! Every rule of the server's half, without sockets and with time in hand.

use std::time::{Duration, Instant};

use lateen_envoy::TypeUrl::{
    self, Cluster as Cds, ClusterLoadAssignment as Eds, Listener as Lds, NameTable as Nds,
    RouteConfiguration as Rds, Secret as Sds,
};
use lateen_envoy::pb::envoy::config::cluster::v3::Cluster;
use lateen_envoy::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::pb::google::rpc::Status;
use lateen_envoy::{Resource, ResourceSet};

use super::*;

mod delta;
mod ordering;
mod state_of_the_world;

/// Resources written as `(type, "name name=version …")`; without a version it is 1.
fn set(types: &[(TypeUrl, &str)]) -> ResourceSet {
    let mut set = ResourceSet::default();
    for (ty, resources) in types {
        for word in resources.split_whitespace() {
            let (name, version) = word.split_once('=').unwrap_or((word, "1"));
            set.insert(*ty, resource(*ty, name, version));
        }
    }
    set
}

/// Clusters are EDS clusters; everything else is opaque bytes.
fn resource(ty: TypeUrl, name: &str, version: &str) -> Resource {
    if ty == Cds {
        return Resource::new(name, &eds_cluster(name, version));
    }
    let value = format!("{name}={version}").into_bytes();
    Resource::from_any(
        name,
        Any {
            type_url: ty.as_str().to_owned(),
            value,
        },
    )
}

fn eds_cluster(name: &str, version: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        alt_stat_name: version.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig::default()),
        ..Cluster::default()
    }
}

fn rejected(message: &str) -> Option<Status> {
    Some(Status {
        code: 13,
        message: message.to_owned(),
        ..Status::default()
    })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A delta stream whose time stands still unless moved.
struct DeltaStream {
    session: ServerSession,
    now: Instant,
}

impl DeltaStream {
    fn new() -> Self {
        Self::with(SessionConfig::default())
    }

    fn with(config: SessionConfig) -> Self {
        Self {
            session: ServerSession::new(Variant::Delta, config),
            now: Instant::now(),
        }
    }

    fn set(&mut self, types: &[(TypeUrl, &str)]) {
        self.session.set_resources(set(types));
    }

    fn subscribe(&mut self, ty: TypeUrl, names: &str) -> Received {
        self.request(DeltaDiscoveryRequest {
            resource_names_subscribe: words(names),
            ..delta_request(ty)
        })
    }

    fn unsubscribe(&mut self, ty: TypeUrl, names: &str) {
        self.request(DeltaDiscoveryRequest {
            resource_names_unsubscribe: words(names),
            ..delta_request(ty)
        });
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Received {
        self.session.on_delta_request(&request, self.now).unwrap()
    }

    fn ack(&mut self, response: &DeltaDiscoveryResponse) -> Answer {
        self.answer(response, None)
    }

    fn nack(&mut self, response: &DeltaDiscoveryResponse, message: &str) -> Answer {
        self.answer(response, rejected(message))
    }

    fn answer(&mut self, to: &DeltaDiscoveryResponse, error_detail: Option<Status>) -> Answer {
        let request = DeltaDiscoveryRequest {
            type_url: to.type_url.clone(),
            response_nonce: to.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.request(request).answer
    }

    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        match self.session.poll(self.now)? {
            Response::Delta(response) => Some(response),
            Response::StateOfTheWorld(_) => panic!("the wrong variant"),
        }
    }

    /// The next response, as `"CDS +a +b -c"`, ACKed.
    fn acked(&mut self) -> String {
        let Some(response) = self.next() else {
            return "-".to_owned();
        };
        self.ack(&response);
        shape(&response)
    }

    /// Everything that comes, each ACKed at once.
    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.acked()).filter(|shape| shape != "-")).collect()
    }

    fn sync(&self, ty: TypeUrl) -> SyncState {
        self.session.status().types[&ty].sync()
    }
}

fn delta_request(ty: TypeUrl) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.as_str().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn shape(response: &DeltaDiscoveryResponse) -> String {
    let mut text = short(&response.type_url).to_owned();
    for resource in &response.resources {
        text += &format!(" +{}", resource.name);
    }
    for name in &response.removed_resources {
        text += &format!(" -{name}");
    }
    text
}

fn short(url: &str) -> &'static str {
    match TypeUrl::parse(url).unwrap() {
        Cds => "CDS",
        Eds => "EDS",
        Lds => "LDS",
        Rds => "RDS",
        Sds => "SDS",
        TypeUrl::TypedExtensionConfig => "ECDS",
        Nds => "NDS",
        TypeUrl::ProxyConfig => "PCDS",
    }
}

#[test]
fn nothing_is_sent_before_resources_are_known() {
    let mut stream = DeltaStream::new();
    stream.subscribe(Cds, "");
    assert_eq!(stream.next(), None);
    assert_eq!(stream.sync(Cds), SyncState::NotSent);
}

#[test]
fn requests_of_the_other_variant_end_the_stream() {
    let mut stream = DeltaStream::new();
    let request = DiscoveryRequest {
        type_url: Cds.as_str().to_owned(),
        ..DiscoveryRequest::default()
    };
    assert_eq!(
        stream.session.on_request(&request, stream.now),
        Err(RequestError::WrongVariant)
    );
}

#[test]
fn unknown_types_are_passed_over() {
    let mut stream = DeltaStream::new();
    let request = DeltaDiscoveryRequest {
        type_url: "x/y".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(stream.request(request).ty, None);
    assert_eq!(stream.session.status(), SessionStatus::default());
}

#[test]
fn clients_cannot_make_the_server_remember_without_bound() {
    let config = SessionConfig {
        max_names: 2,
        max_name_bytes: 8,
        ..SessionConfig::default()
    };
    let mut stream = DeltaStream::with(config);
    let mut subscribe = |names: &str| {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: words(names),
            ..delta_request(Eds)
        };
        stream.session.on_delta_request(&request, stream.now).err()
    };
    assert_eq!(subscribe("a"), None);
    assert_eq!(subscribe("b"), None);
    assert_eq!(
        subscribe("c"),
        Some(RequestError::TooManyNames {
            ty: Eds,
            count: 3,
            max: 2
        })
    );
    assert_eq!(
        subscribe("123456789"),
        Some(RequestError::NameTooLong { bytes: 9, max: 8 })
    );
}

#[test]
fn reasons_of_rejections_are_cut() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Cds, "a")]);
    stream.subscribe(Cds, "");
    let response = stream.next().unwrap();
    stream.nack(&response, &"é".repeat(10_000));
    let status = stream.session.status();
    assert_eq!(
        status.types[&Cds]
            .error
            .as_ref()
            .unwrap()
            .message
            .chars()
            .count(),
        4096
    );
}
