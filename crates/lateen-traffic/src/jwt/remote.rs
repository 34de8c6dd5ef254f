//! Keys that whoever carries requests fetches itself: from where, and how often.
//!
//! Nothing is fetched in here. [`JwtAuthn::authenticate`](super::JwtAuthn::authenticate) asks a [`FetchedKeys`] for them and says what it missed;
//! the caller fetches that and asks once more.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::{JwtStatus, KeySet};

/// Where an issuer's keys are, and how they are fetched. Source: Envoy, `RemoteJwks`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteKeys {
    /// The cluster that is asked.
    pub cluster: Arc<str>,
    /// `https` rather than `http`: what the request says, not how it is carried.
    pub secure: bool,
    /// The host that is asked for.
    pub authority: Arc<str>,
    /// The path, with its query.
    pub path: Arc<str>,
    /// How long a fetch may take with all its retries; none: as long as it takes.
    pub timeout: Option<Duration>,
    /// How long keys are used before they are fetched again.
    pub kept: Duration,
    /// Keys are fetched before a request needs them; after a failure again after so long.
    pub ahead: Option<Duration>,
    /// What is done about a fetch that fails.
    pub retries: Retries,
}

/// How often a fetch is repeated, and after how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Retries {
    /// Repetitions, at most.
    pub most: u32,
    /// The first waits up to so long, each other twice as long as the one before.
    pub base: Duration,
    /// None waits longer than this.
    pub longest: Duration,
}

/// Keys that were fetched, as the caller has them.
pub trait FetchedKeys {
    /// An issuer's keys, or why there are none; `None` if they have to be fetched first.
    fn get(&self, from: &RemoteKeys) -> Option<Result<Arc<KeySet>, JwtStatus>>;
}

/// For who fetches nothing.
impl FetchedKeys for () {
    fn get(&self, _: &RemoteKeys) -> Option<Result<Arc<KeySet>, JwtStatus>> {
        Some(Err(JwtStatus::KeysNotFetched))
    }
}

/// Where a provider has its keys from.
#[derive(Clone, Debug)]
pub enum Keys {
    /// They came with the configuration, or cannot be used.
    Given(Result<Arc<KeySet>, JwtStatus>),
    /// They have to be fetched.
    Remote(Arc<RemoteKeys>),
}

/// A provider's keys at this moment.
pub(super) enum Held<'a> {
    Given(&'a KeySet),
    Fetched(Arc<KeySet>),
}

impl Deref for Held<'_> {
    type Target = KeySet;

    fn deref(&self) -> &KeySet {
        match self {
            Self::Given(keys) => keys,
            Self::Fetched(keys) => keys,
        }
    }
}

impl Keys {
    /// The keys, or why there are none; `None` if they have to be fetched first.
    pub(super) fn held<'a>(
        &'a self,
        fetched: &dyn FetchedKeys,
    ) -> Option<Result<Held<'a>, JwtStatus>> {
        match self {
            Self::Given(keys) => Some(keys.as_deref().map(Held::Given).map_err(|status| *status)),
            Self::Remote(from) => Some(fetched.get(from)?.map(Held::Fetched)),
        }
    }

    /// Keys that came with the configuration.
    pub fn given(&self) -> Option<&KeySet> {
        match self {
            Self::Given(keys) => keys.as_deref().ok(),
            Self::Remote(_) => None,
        }
    }
}
