//! What one client holds of one type: what it was last told, shared with everyone who was told the same, and the exceptions to it.
//!
//! A mesh of ten thousand services has as many clusters and endpoints, and a thousand clients that hold them all. So the ordinary
//! case, "the client has what it was to have", is a pointer, and only what differs is written down name by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_envoy::{Resource, Resources};

/// What the client holds under a name, as far as we know.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Held<'a> {
    /// What we sent, accepted or not: a rejected version is not worth sending again.
    Sent(&'a Resource),
    /// A version it brought from an earlier stream.
    Claimed(u64),
    /// Something from an earlier stream in a version that is not ours.
    Unknown,
    /// We said that there is no such resource.
    Absent,
}

impl Held<'_> {
    pub(in crate::server) fn version(self) -> Option<u64> {
        match self {
            Self::Sent(resource) => Some(resource.version),
            Self::Claimed(version) => Some(version),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// Where a client differs from what it was last told.
#[derive(Clone, Debug)]
enum Exception {
    /// It was not told this yet, or asked to be told again.
    Nothing,
    /// It still has this, which is gone or changed since.
    Kept(Resource),
    Claimed(u64),
    Unknown,
    Absent,
}

#[derive(Debug, Default)]
pub(in crate::server) struct Holdings {
    /// All there was when the client was last told something.
    base: Arc<Resources>,
    /// Says what holds instead, name by name.
    exceptions: BTreeMap<Arc<str>, Exception>,
    /// Names in `base` that the client brought from an earlier stream in that very version.
    brought: BTreeSet<Arc<str>>,
    /// Tells one state of `base` from another; see [`digest`](Self::digest).
    digest: u64,
}

impl Holdings {
    /// What is held under a name, if it is subscribed to.
    pub(in crate::server) fn get(&self, name: &str) -> Option<Held<'_>> {
        match self.exceptions.get(name) {
            Some(Exception::Nothing) => None,
            Some(Exception::Kept(resource)) => Some(Held::Sent(resource)),
            Some(Exception::Claimed(version)) => Some(Held::Claimed(*version)),
            Some(Exception::Unknown) => Some(Held::Unknown),
            Some(Exception::Absent) => Some(Held::Absent),
            None => self.base.get(name).map(Held::Sent),
        }
    }

    /// What the exceptions are exceptions to.
    pub(super) fn base(&self) -> &Resources {
        &self.base
    }

    /// The names that something out of the ordinary is known of.
    pub(super) fn exceptions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.exceptions.keys()
    }

    /// The version of everything that was last told. It depends on nothing but the versions of the resources, so it is the same from
    /// every replica.
    pub(in crate::server) fn digest(&self) -> u64 {
        self.digest
    }

    /// A name as it is stored already, where it is.
    pub(super) fn shared_name(&self, name: &str) -> Arc<str> {
        let known = self.base.get_key_value(name);
        known.map_or_else(|| Arc::from(name), |(name, _)| name.clone())
    }

    /// Whether a name was brought from an earlier stream and not sent since.
    pub(super) fn was_brought(&self, name: &Arc<str>) -> bool {
        let claimed = matches!(
            self.exceptions.get(name),
            Some(Exception::Claimed(_) | Exception::Unknown)
        );
        claimed || self.brought.contains(name)
    }

    /// The client does not have it, or wants it again.
    pub(super) fn lose(&mut self, name: Arc<str>) {
        self.exceptions.insert(name, Exception::Nothing);
    }

    /// The client says that it has a version of ours, or something else.
    pub(in crate::server) fn claim(&mut self, name: Arc<str>, version: Option<u64>) {
        let claim = version.map_or(Exception::Unknown, Exception::Claimed);
        self.exceptions.insert(name, claim);
    }

    /// The client was told that there is no such thing.
    pub(super) fn absent(&mut self, name: Arc<str>) {
        self.brought.remove(&name);
        self.exceptions.insert(name, Exception::Absent);
    }

    /// The client keeps what is gone.
    pub(super) fn keep(&mut self, resource: Resource) {
        self.exceptions
            .insert(resource.name.clone(), Exception::Kept(resource));
    }

    /// Whatever there is holds; no exception.
    pub(super) fn take_back(&mut self, name: &Arc<str>) {
        self.brought.remove(name);
        self.exceptions.remove(name);
    }

    /// Drops exceptions for other names.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Arc<str>) -> bool) {
        self.exceptions.retain(|name, _| wanted(name));
        self.brought.retain(wanted);
    }

    /// Says of each wanted name that it is held, and of the others nothing.
    pub(super) fn spell_out(&mut self, wanted: impl Fn(&Arc<str>) -> bool) {
        let base = std::mem::take(&mut self.base);
        self.digest = 0;
        for (name, resource) in base.iter().filter(|(name, _)| wanted(name)) {
            let kept = || Exception::Kept(resource.clone());
            self.exceptions.entry(name.clone()).or_insert_with(kept);
        }
    }

    /// Everything that is no exception is as in `target` from now on.
    pub(super) fn rebase(&mut self, target: &Arc<Resources>) {
        for difference in self.base.differences(target) {
            for resource in difference.old.into_iter().chain(difference.new) {
                self.digest ^= scattered(resource.version);
            }
        }
        self.base = Arc::clone(target);
        let brought = &mut self.brought;
        self.exceptions.retain(|name, exception| {
            let (version, claimed) = match exception {
                Exception::Claimed(version) => (*version, true),
                Exception::Kept(resource) => (resource.version, false),
                Exception::Nothing | Exception::Unknown | Exception::Absent => return true,
            };
            let known = target.get_key_value(name);
            let Some((name, _)) = known.filter(|(_, resource)| resource.version == version) else {
                return true;
            };
            if claimed {
                brought.insert(name.clone());
            }
            false
        });
    }
}

/// Spreads the bits of a version, so that those of many resources can be put together by exclusive or. (The finaliser of SplitMix64.)
fn scattered(version: u64) -> u64 {
    let mut z = version.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
