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
