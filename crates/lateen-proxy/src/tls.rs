//! TLS of both sides: rustls configurations from Envoy's contexts and secrets, verification of peers, who a peer is.

mod chain;
mod context;
mod peer;
mod provider;
mod session;
mod verify;

pub(crate) use chain::revocation_list;
pub(crate) use context::{ClientTls, ContextError, TlsContexts};
pub(crate) use peer::{PeerCertificate, pem};
pub(crate) use session::Session;
pub(crate) use verify::NameRule;
