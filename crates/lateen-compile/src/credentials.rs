//! What a credential's name means: a Secret of the control plane, the workload's own identity, or a secret of another server.
//!
//! Source: Istio, `ConstructSdsSecretConfigForCredential` (`pilot/pkg/security/model/authentication.go`).

use lateen_api::mesh::{ExtensionProvider, SdsProvider};

use crate::clusters::{
    ROOT_SECRET, WORKLOAD_SECRET, agent_secret, control_plane_secret, grpc_secret,
};
use crate::names;
use crate::proto::tls;

/// The ending that asks for the CA of a credential.
pub(crate) const CA_SUFFIX: &str = "-cacert";
/// The cluster of the server of secrets on a socket in the pod.
pub(crate) const SOCKET_CLUSTER: &str = "sds-external";
/// Where that socket is, in the proxy's file system.
pub(crate) const SOCKET_PATH: &str = "./var/run/secrets/credential-uds/socket";

/// The workload's own identity, by name.
const BUILTIN: &str = "builtin://";
/// What another server of secrets is asked for.
const EXTERNAL: &str = "sds://";
/// Names that say themselves what the control plane has to look for.
const TYPED: [&str; 4] = [
    "kubernetes://",
    "kubernetes-gateway://",
    "configmap://",
    "invalid://",
];

/// The servers of secrets of a proxy, beside its agent and the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CredentialServers {
    /// Whether there is one on a socket in its pod; it is asked before all others.
    pub(crate) socket: bool,
    /// The one that MeshConfig names; for clients' credentials it is not asked (Istio).
    pub(crate) provider: Option<SdsServer>,
}

/// A server of secrets in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SdsServer {
    cluster: String,
    authority: String,
}

impl SdsServer {
    /// The first server of secrets among extension providers; `lookup` finds the host name of a service as written. With a service that
    /// there is not, the cluster is one that there is not: whoever needs a secret of it gets none.
    pub(crate) fn of(
        providers: &[ExtensionProvider],
        lookup: impl Fn(&str) -> Result<String, String>,
    ) -> Option<Self> {
        let provider = Self::provider(providers)?;
        let authority = lookup(&provider.service).unwrap_or_else(|_| provider.service.clone());
        Some(Self {
            cluster: names::outbound_cluster("", &authority, provider.port),
            authority,
        })
    }

    /// The provider that counts: the first.
    pub(crate) fn provider(providers: &[ExtensionProvider]) -> Option<&SdsProvider> {
        providers.iter().find_map(|provider| provider.sds.as_ref())
    }
}

impl CredentialServers {
    /// The servers for credentials of clients (DestinationRules).
    pub(crate) fn of_clients(socket: bool) -> Self {
        Self {
            socket,
            provider: None,
        }
    }

    /// Where to get a credential from.
    pub(crate) fn secret(&self, name: &str) -> tls::SdsSecretConfig {
        if let Some(own) = name.strip_prefix(BUILTIN) {
            return agent_secret(if own == CA_SUFFIX {
                ROOT_SECRET
            } else {
                WORKLOAD_SECRET
            });
        }
        match (self.control_plane_name(name), &self.provider) {
            (Some(name), _) => control_plane_secret(&name),
            // Servers on a socket have always been asked for the whole name (Istio).
            (None, _) if self.socket => grpc_secret(name, SOCKET_CLUSTER, ""),
            (None, Some(server)) => {
                let name = name.strip_prefix(EXTERNAL).unwrap_or(name);
                grpc_secret(name, &server.cluster, &server.authority)
            }
            (None, None) => control_plane_secret(&kubernetes_secret(name)),
        }
    }

    /// The name under which the control plane has a credential; none if it is not the one to be asked.
    pub(crate) fn control_plane_name(&self, name: &str) -> Option<String> {
        if name.starts_with(BUILTIN) {
            return None;
        }
        match name.strip_prefix(EXTERNAL) {
            Some(_) if self.socket || self.provider.is_some() => None,
            Some(name) => Some(kubernetes_secret(name)),
            None => Some(kubernetes_secret(name)),
        }
    }
}

/// `kubernetes://name`, unless the name already says where it is.
fn kubernetes_secret(name: &str) -> String {
    if TYPED.iter().any(|prefix| name.starts_with(prefix)) {
        name.to_owned()
    } else {
        format!("kubernetes://{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::core;

    use core::config_source::ConfigSourceSpecifier;
    use core::grpc_service::TargetSpecifier;

    /// The secret's name and the cluster it is fetched from; `ads` for the control plane.
    fn source(servers: &CredentialServers, name: &str) -> (String, String) {
        let config = servers.secret(name);
        let source = config.sds_config.unwrap().config_source_specifier.unwrap();
        let from = match source {
            ConfigSourceSpecifier::Ads(_) => "ads".to_owned(),
            ConfigSourceSpecifier::ApiConfigSource(api) => {
                match &api.grpc_services[0].target_specifier {
                    Some(TargetSpecifier::EnvoyGrpc(grpc)) => grpc.cluster_name.clone(),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        };
        (config.name, from)
    }

    fn pair(name: &str, from: &str) -> (String, String) {
        (name.to_owned(), from.to_owned())
    }

    fn provider() -> Option<SdsServer> {
        let providers = [ExtensionProvider {
            name: "p".to_owned(),
            sds: Some(SdsProvider {
                service: "vault.ns.svc.cluster.local".to_owned(),
                port: 8443,
                ..SdsProvider::default()
            }),
            ..ExtensionProvider::default()
        }];
        SdsServer::of(&providers, |service| Ok(service.to_owned()))
    }

    #[test]
    fn names_mean_secrets_unless_they_say_something_else() {
        let servers = CredentialServers::default();
        assert_eq!(source(&servers, "a"), pair("kubernetes://a", "ads"));
        assert_eq!(
            source(&servers, "kubernetes://a"),
            pair("kubernetes://a", "ads")
        );
        assert_eq!(source(&servers, "builtin://"), pair("default", "sds-grpc"));
        assert_eq!(
            source(&servers, "builtin://-cacert"),
            pair("ROOTCA", "sds-grpc")
        );
    }

    #[test]
    fn an_external_credential_comes_from_the_socket_then_the_provider_then_the_control_plane() {
        let provider_cluster = "outbound|8443||vault.ns.svc.cluster.local";
        let mut servers = CredentialServers {
            socket: true,
            provider: provider(),
        };
        assert_eq!(source(&servers, "sds://a"), pair("sds://a", "sds-external"));
        assert_eq!(source(&servers, "b"), pair("kubernetes://b", "ads"));
        servers.socket = false;
        assert_eq!(source(&servers, "sds://a"), pair("a", provider_cluster));
        assert_eq!(servers.control_plane_name("sds://a"), None);
        servers.provider = None;
        assert_eq!(
            source(&servers, "sds://a-cacert"),
            pair("kubernetes://a-cacert", "ads")
        );
    }
}
