//! Where this proxy and its peers are, for zone-aware routing: made anew when the endpoints of the local cluster change.

use std::sync::Arc;

use lateen_traffic::endpoint::Locality;
use lateen_traffic::lb::Vicinity;
use lateen_traffic::{EndpointSet, Program};

use crate::config::ProxyConfig;
use crate::shared::Live;

/// What is known of the proxy's surroundings.
#[derive(Debug)]
pub(super) struct Surroundings {
    cluster: Option<Arc<str>>,
    locality: Option<Locality>,
    last: Option<(Arc<EndpointSet>, Arc<Vicinity>)>,
}

impl Surroundings {
    /// Those of a proxy whose peers are not known yet. One that does not know where it is itself never knows more.
    pub(super) fn new(config: &ProxyConfig) -> Self {
        let locality = config.node.locality.as_ref().map(|locality| Locality {
            region: locality.region.as_str().into(),
            zone: locality.zone.as_str().into(),
            sub_zone: locality.sub_zone.as_str().into(),
        });
        Self {
            cluster: config.local_cluster.clone(),
            locality,
            last: None,
        }
    }

    /// The endpoints to ask for, where the local cluster is none of the configuration's own.
    pub(super) fn subscription(&self, program: &Program) -> Option<Arc<str>> {
        let name = self.cluster.as_ref()?;
        (!program.has_cluster(name)).then(|| Arc::clone(name))
    }

    /// The surroundings under a configuration; the same as before as long as nothing in them has changed, so that nobody works them out
    /// again who goes by them.
    pub(super) fn look(&mut self, live: &Live) -> Option<Arc<Vicinity>> {
        let (name, locality) = (self.cluster.as_ref()?, self.locality.as_ref()?);
        let endpoints = match live.program.cluster(name) {
            Some(cluster) => live.endpoints_of(cluster),
            None => live.program.endpoints(name),
        };
        let endpoints = endpoints?;
        if let Some((known, vicinity)) = &self.last
            && Arc::ptr_eq(known, endpoints)
        {
            return Some(Arc::clone(vicinity));
        }
        let vicinity = Arc::new(Vicinity::new(locality.clone(), endpoints));
        self.last = Some((Arc::clone(endpoints), Arc::clone(&vicinity)));
        Some(vicinity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigSource;
    use crate::static_resources::resources_from_json;
    use lateen_envoy::pb::envoy::config::core::v3::{Locality as At, Node};
    use lateen_traffic::program::Change;
    use serde_json::json;
    use tokio::sync::watch;

    fn config() -> ProxyConfig {
        let node = Node {
            locality: Some(At {
                region: "here".to_owned(),
                ..At::default()
            }),
            ..Node::default()
        };
        let source = ConfigSource::fixed(Default::default());
        let mut config = ProxyConfig::new(node, source, watch::channel(None).1);
        config.local_cluster = Some("local_cluster".into());
        config
    }

    fn live(ports: &[u16]) -> Live {
        let host = |port: &u16| json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}});
        let set = resources_from_json(&[json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "local_cluster",
            "endpoints": [{"locality": {"region": "here"}, "lb_endpoints": ports.iter().map(host).collect::<Vec<_>>()}],
        })])
        .unwrap();
        let changes: Vec<Change> = set
            .iter()
            .flat_map(|(ty, all)| all.values().map(move |one| Change::Upsert(ty, one.clone())))
            .collect();
        Live {
            program: Program::new().update(&changes).0,
            ..Live::default()
        }
    }

    #[test]
    fn peers_are_asked_for_by_name_and_looked_at_once() {
        let mut surroundings = Surroundings::new(&config());
        assert_eq!(surroundings.look(&Live::default()), None);
        let name = surroundings.subscription(&Program::new());
        assert_eq!(name.as_deref(), Some("local_cluster"));
        let now = live(&[1, 2]);
        let first = surroundings.look(&now).unwrap();
        assert!(Arc::ptr_eq(&first, &surroundings.look(&now).unwrap()));
        assert_eq!(&*first.locality().region, "here");
        let more = surroundings.look(&live(&[1, 2, 3])).unwrap();
        assert!(!Arc::ptr_eq(&first, &more) && first != more);
    }

    #[test]
    fn a_proxy_that_does_not_know_where_it_is_disregards_zones() {
        let mut config = config();
        config.node.locality = None;
        assert_eq!(Surroundings::new(&config).look(&live(&[1])), None);
    }
}
