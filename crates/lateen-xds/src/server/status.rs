//! How far a client has got: what `proxy-status` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use lateen_envoy::TypeUrl;

/// The state of every type a client has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionStatus {
    /// By type; a type that is absent was never asked for (`IGNORED` in `istioctl proxy-status`).
    pub types: BTreeMap<TypeUrl, TypeStatus>,
}

/// The state of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Whether the client is subscribed to every resource.
    pub wildcard: bool,
    /// What it is subscribed to by name.
    pub names: Arc<BTreeSet<Arc<str>>>,
    /// The last response sent.
    pub sent: Option<Transfer>,
    /// The last response accepted.
    pub acked: Option<Transfer>,
    /// The last response rejected, until a later one is accepted.
    pub error: Option<Rejection>,
}

/// A response, and when something happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The version of the whole type.
    pub version: String,
    /// The response's nonce.
    pub nonce: String,
    /// When it was sent or answered.
    pub at: Instant,
}

/// A rejected response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which, and when it was rejected.
    pub of: Transfer,
    /// The client's reason.
    pub message: String,
}

/// The words of `istioctl proxy-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// Nothing was sent, since there was nothing to send.
    NotSent,
    /// The last response was accepted.
    Synced,
    /// The last response is not answered yet.
    Stale,
    /// The last response was rejected.
    Error,
}

impl TypeStatus {
    /// How far the client has got.
    pub fn sync(&self) -> SyncState {
        let Some(sent) = &self.sent else {
            return SyncState::NotSent;
        };
        let is_last = |transfer: &Transfer| transfer.nonce == sent.nonce;
        if self.error.as_ref().is_some_and(|error| is_last(&error.of)) {
            SyncState::Error
        } else if self.acked.as_ref().is_some_and(is_last) {
            SyncState::Synced
        } else {
            SyncState::Stale
        }
    }
}

impl SyncState {
    /// As `istioctl proxy-status` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        }
    }
}
