//! A cluster under construction: the parts that several steps touch before it is encoded.

use std::collections::HashMap;

use crate::proto::{any, cluster, core, upstream_http};

use upstream_http::HttpProtocolOptions;
use upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};

/// The key under which clusters carry their HTTP options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster and its HTTP options, which are packed last because several settings share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) cluster: cluster::Cluster,
    http: Option<HttpProtocolOptions>,
    /// Its transport sockets have the mesh's identities.
    pub(crate) mutual: bool,
}

impl Draft {
    /// A cluster of a type. Its statistics are named by its whole name, ended by `;` so that dots in host names do not
    /// confuse tag extraction (Istio's convention).
    pub(crate) fn new(name: &str, ty: cluster::cluster::DiscoveryType) -> Self {
        Self {
            cluster: cluster::Cluster {
                name: name.to_owned(),
                alt_stat_name: format!("{name};"),
                cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
                    ty as i32,
                )),
                common_lb_config: Some(Default::default()),
                ..Default::default()
            },
            http: None,
            mutual: false,
        }
    }

    pub(crate) fn common_lb(&mut self) -> &mut cluster::cluster::CommonLbConfig {
        self.cluster.common_lb_config.get_or_insert_default()
    }

    pub(crate) fn http_options(&mut self) -> &mut HttpProtocolOptions {
        self.http.get_or_insert_default()
    }

    pub(crate) fn is_original_dst(&self) -> bool {
        self.has_type(cluster::cluster::DiscoveryType::OriginalDst)
    }

    fn has_type(&self, ty: cluster::cluster::DiscoveryType) -> bool {
        self.cluster.cluster_discovery_type
            == Some(cluster::cluster::ClusterDiscoveryType::Type(ty as i32))
    }

    /// Sends connections where the client was going, whatever the endpoints are.
    pub(crate) fn become_original_dst(&mut self) {
        let ty = cluster::cluster::DiscoveryType::OriginalDst;
        self.cluster.cluster_discovery_type =
            Some(cluster::cluster::ClusterDiscoveryType::Type(ty as i32));
        self.cluster.lb_policy = cluster::cluster::LbPolicy::ClusterProvided as i32;
        self.cluster.load_assignment = None;
    }

    /// Speaks HTTP/2, unless a protocol was chosen before.
    pub(crate) fn use_h2(&mut self) {
        let options = self.http_options();
        if options.upstream_protocol_options.is_none() {
            options.upstream_protocol_options = Some(UpstreamProtocolOptions::ExplicitHttpConfig(
                ExplicitHttpConfig {
                    protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                        core::Http2ProtocolOptions::default(),
                    )),
                },
            ));
        }
    }

    /// Speaks what the client speaks.
    pub(crate) fn use_downstream_protocol(&mut self) {
        self.http_options().upstream_protocol_options = Some(
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                ..Default::default()
            }),
        );
    }

    /// The HTTP/2 options of a cluster that always speaks HTTP/2.
    pub(crate) fn explicit_h2(&mut self) -> Option<&mut core::Http2ProtocolOptions> {
        match self.http.as_mut()?.upstream_protocol_options.as_mut()? {
            UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(h2)),
            }) => Some(h2),
            _ => None,
        }
    }

    /// Whether hosts are spoken to as the client speaks.
    pub(crate) fn follows_client(&self) -> bool {
        let options = self
            .http
            .as_ref()
            .and_then(|http| http.upstream_protocol_options.as_ref());
        matches!(
            options,
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_))
        )
    }

    /// Whether hosts may be spoken to by the mesh's mutual TLS.
    pub(crate) const fn is_mutual(&self) -> bool {
        self.mutual
    }

    pub(crate) fn is_h2(&mut self) -> bool {
        self.explicit_h2().is_some()
    }

    /// The finished cluster.
    pub(crate) fn build(mut self) -> cluster::Cluster {
        if let Some(mut options) = self.http {
            options.upstream_protocol_options.get_or_insert_with(|| {
                UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                    protocol_config: Some(ProtocolConfig::HttpProtocolOptions(
                        core::Http1ProtocolOptions::default(),
                    )),
                })
            });
            self.cluster.typed_extension_protocol_options =
                HashMap::from([(HTTP_OPTIONS.to_owned(), any(&options))]);
        }
        let eds = cluster::cluster::DiscoveryType::Eds as i32;
        if self.cluster.cluster_discovery_type
            == Some(cluster::cluster::ClusterDiscoveryType::Type(eds))
        {
            self.cluster.eds_cluster_config = Some(cluster::cluster::EdsClusterConfig {
                eds_config: Some(crate::proto::ads()),
                service_name: self.cluster.name.clone(),
            });
        }
        self.cluster
    }
}
