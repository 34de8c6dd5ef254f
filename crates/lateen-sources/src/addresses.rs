//! Addresses for pods and services that no cluster hands out: a hash of the name, moved on where two names collide.
//!
//! The same set of names always gets the same addresses. A name that comes or goes moves others only if they collided.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

/// Pods' IPv4 addresses: `10.244.0.0/16`, the range kubeadm documents for its default network.
pub const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 0);
/// Services' IPv4 addresses: `10.96.0.0/16`, the head of Kubernetes' default service range.
pub const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
/// Pods' IPv6 addresses, `fd00:10:244::/112` of them in use.
pub const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0);
/// Services' IPv6 addresses.
pub const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0);

/// The first 256 addresses of each range are the node's own (gateway, istiod, DNS).
const RESERVED: u16 = 256;

/// One range of 65,536 addresses, and who has which.
#[derive(Debug, Default)]
pub struct Allocator {
    taken: BTreeSet<u16>,
    /// Nothing is free any more, so nothing need be searched.
    full: bool,
}

impl Allocator {
    /// Marks the suffixes of addresses that users chose themselves, so that nobody else gets them.
    pub fn reserve(&mut self, base: Ipv4Addr, address: IpAddr) {
        if let IpAddr::V4(v4) = address
            && v4.octets()[..2] == base.octets()[..2]
        {
            self.taken
                .insert(u16::from_be_bytes([v4.octets()[2], v4.octets()[3]]));
        }
    }

    /// Gives every name a suffix. Names are served in their sorted order, so the input's order is irrelevant.
    ///
    /// A name is absent from the result only when the range is full.
    pub fn allocate<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> BTreeMap<&'a str, u16> {
        let names: BTreeSet<&str> = names.into_iter().collect();
        names
            .into_iter()
            .filter_map(|name| Some((name, self.take(name)?)))
            .collect()
    }

    fn take(&mut self, name: &str) -> Option<u16> {
        if self.full {
            return None;
        }
        let digest = Sha256::digest(name.as_bytes());
        let wanted = u16::from_be_bytes([digest[0], digest[1]]);
        let free = (0..=u16::MAX)
            .map(|step| wanted.wrapping_add(step))
            .find(|suffix| usable(*suffix) && !self.taken.contains(suffix));
        self.full = free.is_none();
        self.taken.extend(free);
        free
    }
}

fn usable(suffix: u16) -> bool {
    suffix >= RESERVED && suffix != u16::MAX && !matches!(suffix & 0xff, 0 | 0xff)
}

/// The IPv4 address with a suffix in a range.
pub fn v4(base: Ipv4Addr, suffix: u16) -> Ipv4Addr {
    let [a, b, _, _] = base.octets();
    let [c, d] = suffix.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// The IPv6 address with a suffix in a range.
pub fn v6(base: Ipv6Addr, suffix: u16) -> Ipv6Addr {
    let mut segments = base.segments();
    segments[7] = suffix;
    segments.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_names_get_the_same_addresses_in_any_order() {
        let forwards = Allocator::default().allocate(["a/x", "b/y", "c/z"]);
        let backwards = Allocator::default().allocate(["c/z", "b/y", "a/x"]);
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn no_two_names_share_an_address_and_none_is_reserved() {
        let names: Vec<String> = (0..20_000).map(|i| format!("ns/pod-{i}")).collect();
        let given = Allocator::default().allocate(names.iter().map(String::as_str));
        let distinct: BTreeSet<u16> = given.values().copied().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(distinct.iter().all(|suffix| usable(*suffix)));
    }

    #[test]
    fn an_address_a_user_chose_is_not_given_away() {
        let name = "default/reviews";
        let natural = Allocator::default().allocate([name])[name];
        let mut allocator = Allocator::default();
        allocator.reserve(SERVICE_V4, v4(SERVICE_V4, natural).into());
        assert_ne!(allocator.allocate([name])[name], natural);
    }

    #[test]
    fn a_full_range_leaves_names_without_an_address_rather_than_looping() {
        let mut allocator = Allocator {
            taken: (0..u16::MAX).collect(),
            full: false,
        };
        allocator.taken.remove(&0x1234);
        assert_eq!(allocator.allocate(["a", "b", "c"]).len(), 1);
    }
}
