//! TLS of both sides: rustls configurations from Envoy's contexts and secrets, verification of peers, who a peer is.

mod context;
mod peer;
mod verify;

pub(crate) use context::{ClientTls, ContextError, TlsContexts};
pub(crate) use peer::PeerCertificate;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

/// The one cryptography provider (aws-lc-rs, with the post-quantum X25519MLKEM768 preferred, rustls' default).
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
