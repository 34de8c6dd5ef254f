//! Which addresses keys may be fetched from.
//!
//! Whoever may write a RequestAuthentication makes the control plane send requests. It stands where its users do not: next to the
//! cloud's metadata service, and to itself. So some addresses are never connected to, whatever name led to them; the check is on
//! the address of the connection, so that a name that resolves differently the second time gains nothing.
//!
//! Private addresses are allowed: issuers inside the cluster or the company have them. Source of that choice: Istio,
//! `jwksBlockedIP`. Loopback is not allowed, unlike in Istio: what listens there counts on being out of reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of metadata services that are not link-local: Alibaba Cloud, Oracle Cloud, Azure's host, AWS by IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Which addresses keys may be fetched from.
#[derive(Clone, Debug, Default)]
pub struct AddressGuard {
    /// Networks that are not connected to, beside those that never are (Istio: `BLOCKED_CIDRS_IN_JWKS_URIS`).
    pub blocked: Vec<IpNet>,
    /// Networks that are connected to although they would not be, such as `127.0.0.0/8` for an issuer on the same machine.
    pub allowed: Vec<IpNet>,
}

/// Why an address is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}, where keys are not fetched from")]
pub struct Blocked {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub kind: &'static str,
}

impl AddressGuard {
    /// Whether an address may be connected to.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, address: IpAddr) -> Result<(), Blocked> {
        let address = plain(address);
        if self.allowed.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let kind = if self.blocked.iter().any(|net| net.contains(&address)) {
            Some("in a blocked network")
        } else {
            never(address)
        };
        kind.map_or(Ok(()), |kind| Err(Blocked { address, kind }))
    }
}

/// What an address is that is never connected to.
fn never(address: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast() || v4.octets()[0] == 0),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    if METADATA.contains(&address) {
        Some("a metadata service of a cloud")
    } else if link_local {
        Some("link-local")
    } else if address.is_loopback() {
        Some("this machine")
    } else if address.is_unspecified() || address.is_multicast() || broadcast {
        Some("not the address of a host")
    } else {
        None
    }
}

/// The IPv4 address in an IPv6 address that leads to it: mapped, translated (NAT64, RFC 6052) or 6to4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let segments = v6.segments();
    let four = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => four(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => four(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &AddressGuard, address: &str) -> bool {
        guard.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn metadata_services_and_the_machine_itself_are_never_asked() {
        let guard = AddressGuard::default();
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fe80::1",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(!check(&guard, address), "{address}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_asked() {
        let guard = AddressGuard::default();
        for address in [
            "10.96.0.1",
            "192.168.1.1",
            "fd00:10:96::1",
            "93.184.216.34",
            "2606::1",
        ] {
            assert!(check(&guard, address), "{address}");
        }
    }

    #[test]
    fn networks_can_be_blocked_and_allowed() {
        let guard = AddressGuard {
            blocked: vec!["10.0.0.0/8".parse().unwrap()],
            allowed: vec![
                "127.0.0.0/8".parse().unwrap(),
                "10.96.0.0/16".parse().unwrap(),
            ],
        };
        assert!(!check(&guard, "10.1.2.3"));
        assert!(!check(&guard, "::ffff:10.1.2.3"));
        assert!(check(&guard, "10.96.0.9"));
        assert!(check(&guard, "127.0.0.1"));
        assert!(!check(&guard, "::1"));
        let error = guard.check("10.1.2.3".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.1.2.3 is in a blocked network, where keys are not fetched from"
        );
    }
}
