//! Istio's `security.istio.io` kinds: who may call whom, with which credentials.

mod authorization_policy;
mod peer_authentication;
mod request_authentication;

pub use authorization_policy::*;
pub use peer_authentication::*;
pub use request_authentication::*;
