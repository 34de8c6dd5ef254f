//! Secrets: certificates and trust bundles that arrive by SDS.

use std::sync::Arc;

use crate::tls::{DataSource, TlsCertificate, Validation};

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Its name.
    pub name: Arc<str>,
    /// Its content.
    pub kind: SecretKind,
}

/// What a secret holds.
#[derive(Clone, Debug)]
pub enum SecretKind {
    /// A certificate with its key.
    TlsCertificate(TlsCertificate),
    /// Roots, and conditions on the peer.
    Validation(Arc<Validation>),
    /// Session ticket keys.
    SessionTicketKeys(Vec<DataSource>),
    /// Anything else.
    Generic(DataSource),
}

/// What begins the key of a secret of another server than the control plane or the agent.
const EXTERNAL: &str = "sds-server:";

/// The key of a secret that the server behind a cluster has. Names alone would not do: two servers may each have one of a name.
pub fn external_key(cluster: &str, name: &str) -> Arc<str> {
    format!("{EXTERNAL}{cluster}/{name}").into()
}

/// The cluster and the name of such a secret; none if the key is another's.
pub fn external(key: &str) -> Option<(&str, &str)> {
    // A cluster's name has no slash: it is made of host names, numbers and bars.
    key.strip_prefix(EXTERNAL)?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_which_server_has_a_secret() {
        let key = external_key("outbound|8443||sds.ns.svc.cluster.local", "a/b");
        let parts = external(&key);
        assert_eq!(
            parts,
            Some(("outbound|8443||sds.ns.svc.cluster.local", "a/b"))
        );
        assert_eq!(external("kubernetes://a/b"), None);
    }
}
