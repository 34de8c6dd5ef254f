//! What one who compiles an update has seen of it so far, so that what is like it is checked and not compiled.

use std::sync::Arc;

use lateen_envoy::TypeUrl;
use lateen_envoy::pb::google::protobuf::Any;

use super::stored::{ClusterFacts, Stored, StoredCluster};
use crate::EndpointSet;
use crate::from_xds::{self, Alike, Told, XdsError};

/// What was seen of an update.
#[derive(Debug)]
pub struct Seen {
    clusters: Alike<ClusterFacts>,
    endpoints: Alike<()>,
    pub(super) hosts: Alike<()>,
    /// The secrets of the last cluster that refers to any: most refer to the same.
    secrets: Arc<[Arc<str>]>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            clusters: Alike::clusters(),
            endpoints: Alike::assignments(),
            hosts: Alike::hosts(),
            secrets: Arc::default(),
        }
    }
}

impl Seen {
    /// Expects clusters to refer to these secrets, unless some were seen.
    pub(super) fn expect(&mut self, secrets: Option<&Arc<[Arc<str>]>>) {
        if let (true, Some(secrets)) = (self.secrets.is_empty(), secrets) {
            self.secrets = Arc::clone(secrets);
        }
    }

    /// A cluster, kept compiled if it replaces one in use.
    pub(super) fn cluster(
        &mut self,
        name: &Arc<str>,
        body: &Arc<Any>,
        in_use: bool,
    ) -> Result<StoredCluster, XdsError> {
        let may_be_alike = !in_use && body.type_url == TypeUrl::Cluster.as_str();
        if may_be_alike && let Some(cluster) = self.known_cluster(name, body) {
            debug_assert!(from_xds::cluster(body).is_ok(), "{name} is like others");
            return Ok(cluster);
        }
        let compiled = from_xds::cluster(body)?;
        let facts = ClusterFacts::of(&compiled, &self.secrets);
        if !facts.secrets.is_empty() {
            self.secrets = Arc::clone(&facts.secrets);
        }
        if may_be_alike {
            self.clusters.learn(facts.clone());
        }
        let service = compiled.discovery.service_name();
        let cluster = StoredCluster::new(name, body, service, facts);
        if in_use {
            cluster.keep(compiled);
        }
        Ok(cluster)
    }

    fn known_cluster(&mut self, name: &Arc<str>, body: &Arc<Any>) -> Option<StoredCluster> {
        let (mut own, mut service) = ("", "");
        let mut tell = |what, text| {
            match what {
                Told::Cluster => own = text,
                Told::Service => service = text,
                Told::Domain => {}
            }
            true
        };
        let facts = self.clusters.find(&body.value, 0, &mut tell)?.clone();
        let service = match (facts.is_eds, service) {
            (false, _) => None,
            (true, "") => Some(own),
            (true, service) => Some(service),
        };
        Some(StoredCluster::new(name, body, service, facts))
    }

    /// An endpoint set, kept compiled if it replaces one in use.
    pub(super) fn endpoints(
        &mut self,
        body: &Arc<Any>,
        in_use: bool,
    ) -> Result<Stored<EndpointSet>, XdsError> {
        let may_be_alike = !in_use && body.type_url == TypeUrl::ClusterLoadAssignment.as_str();
        let stored = Stored::new(body);
        if may_be_alike {
            let mut tell = |_: Told, _: &str| true;
            if self.endpoints.find(&body.value, 0, &mut tell).is_some() {
                debug_assert!(from_xds::endpoints(body).is_ok(), "it is like others");
                return Ok(stored);
            }
        }
        let compiled = from_xds::endpoints(body)?;
        if may_be_alike {
            self.endpoints.learn(());
        }
        if in_use {
            stored.keep(compiled);
        }
        Ok(stored)
    }
}
