//! The PROXY protocol's header, versions 1 and 2: who the connection is really from.
//!
//! Source: the PROXY protocol specification by W. Tarreau, sections 2.1 and 2.2. TLVs are skipped by their stated length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use lateen_traffic::cluster::ProxyVersion;

use super::Verdict;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest version 1 line, with its end (section 2.1).
const V1_MAX: usize = 107;
/// Longest version 2 block that is accepted: the addresses of the longest family plus room for TLVs.
const V2_MAX: usize = 4096;

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Source and destination as the sender saw them; `None` for `UNKNOWN` and `LOCAL`, which keep the socket's own.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    /// Bytes the header takes at the start of the stream.
    pub(crate) length: usize,
}

/// Reads the header at the start of a stream. [`Verdict::NotThis`] means the connection has to be refused where the header
/// is required.
pub(crate) fn parse(bytes: &[u8]) -> Verdict<Header> {
    let shared = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..shared] == V2_SIGNATURE[..shared] {
        return if bytes.len() < 16 {
            Verdict::NeedMore
        } else {
            version2(bytes)
        };
    }
    let shared = bytes.len().min(6);
    if bytes[..shared] == b"PROXY "[..shared] {
        return version1(bytes);
    }
    Verdict::NotThis
}

fn version1(bytes: &[u8]) -> Verdict<Header> {
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= V1_MAX {
            Verdict::NotThis
        } else {
            Verdict::NeedMore
        };
    };
    let Ok(line) = std::str::from_utf8(&window[..end]) else {
        return Verdict::NotThis;
    };
    let length = end + 2;
    let fields: Vec<&str> = line.split(' ').collect();
    match fields.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Verdict::Found(Header {
            addresses: None,
            length,
        }),
        [
            "PROXY",
            family @ ("TCP4" | "TCP6"),
            source,
            destination,
            source_port,
            destination_port,
        ] => {
            let source = address(family, source, source_port);
            let destination = address(family, destination, destination_port);
            match source.zip(destination) {
                Some(addresses) => Verdict::Found(Header {
                    addresses: Some(addresses),
                    length,
                }),
                None => Verdict::NotThis,
            }
        }
        _ => Verdict::NotThis,
    }
}

fn address(family: &str, ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    if ip.is_ipv4() != (family == "TCP4") {
        return None;
    }
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

fn version2(bytes: &[u8]) -> Verdict<Header> {
    let (version_command, family) = (bytes[12], bytes[13]);
    let body_length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if version_command >> 4 != 2 || body_length > V2_MAX {
        return Verdict::NotThis;
    }
    let length = 16 + body_length;
    let Some(body) = bytes.get(16..length) else {
        return Verdict::NeedMore;
    };
    let addresses = match (version_command & 0xf, family) {
        (0, _) => None,
        (1, 0x11) => match v4_pair(body) {
            Some(pair) => Some(pair),
            None => return Verdict::NotThis,
        },
        (1, 0x21) => match v6_pair(body) {
            Some(pair) => Some(pair),
            None => return Verdict::NotThis,
        },
        (1, _) => None,
        _ => return Verdict::NotThis,
    };
    Verdict::Found(Header { addresses, length })
}

fn v4_pair(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let b: &[u8; 12] = body.first_chunk()?;
    let source = Ipv4Addr::new(b[0], b[1], b[2], b[3]);
    let destination = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
    Some((
        (source, u16::from_be_bytes([b[8], b[9]])).into(),
        (destination, u16::from_be_bytes([b[10], b[11]])).into(),
    ))
}

fn v6_pair(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let b: &[u8; 36] = body.first_chunk()?;
    let source: [u8; 16] = *b.first_chunk()?;
    let destination: [u8; 16] = *b[16..].first_chunk()?;
    Some((
        (Ipv6Addr::from(source), u16::from_be_bytes([b[32], b[33]])).into(),
        (
            Ipv6Addr::from(destination),
            u16::from_be_bytes([b[34], b[35]]),
        )
            .into(),
    ))
}

/// The header that names a connection's client and its destination, if they are known.
pub(crate) fn write(version: ProxyVersion, ends: Option<(SocketAddr, SocketAddr)>) -> Bytes {
    // Two families that differ cannot be said either.
    let ends = ends.filter(|(source, destination)| source.is_ipv4() == destination.is_ipv4());
    match (version, ends) {
        (ProxyVersion::V1, None) => Bytes::from_static(b"PROXY UNKNOWN\r\n"),
        (ProxyVersion::V1, Some((source, destination))) => write_v1(source, destination),
        (ProxyVersion::V2, ends) => write_v2(ends),
    }
}

fn write_v1(source: SocketAddr, destination: SocketAddr) -> Bytes {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let ports = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into()
}

fn write_v2(ends: Option<(SocketAddr, SocketAddr)>) -> Bytes {
    let mut out = V2_SIGNATURE.to_vec();
    let Some((source, destination)) = ends else {
        out.extend([0x20, 0, 0, 0]); // LOCAL: the connection speaks for itself
        return out.into();
    };
    let mut addresses = Vec::with_capacity(36);
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    out.extend([0x21, family, 0]);
    out.push(u8::try_from(addresses.len()).unwrap_or(u8::MAX)); // 12 or 36
    out.extend(addresses);
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(bytes: &[u8]) -> Header {
        match parse(bytes) {
            Verdict::Found(header) => header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_gives_both_addresses() {
        let header = found(b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\nGET /");
        assert_eq!(header.length, 41);
        assert_eq!(
            header.addresses.unwrap().0,
            "192.0.2.1:5000".parse().unwrap()
        );
        assert!(found(b"PROXY UNKNOWN\r\n").addresses.is_none());
    }

    #[test]
    fn version_2_gives_addresses_and_skips_tlvs() {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend_from_slice(&[
            0x21, 0x11, 0, 15, 10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80, 4, 0, 0,
        ]);
        let header = found(&bytes);
        assert_eq!(header.length, bytes.len());
        assert_eq!(header.addresses.unwrap().1, "10.0.0.2:80".parse().unwrap());
    }

    #[test]
    fn mixed_families_and_garbage_are_refused() {
        assert_eq!(parse(b"PROXY TCP4 ::1 192.0.2.2 1 2\r\n"), Verdict::NotThis);
        assert_eq!(parse(b"GET / HTTP/1.1"), Verdict::NotThis);
        assert_eq!(parse(b"PROXY TCP4"), Verdict::NeedMore);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for ends in [
                ("192.0.2.1:5000", "192.0.2.2:443"),
                ("[2001:db8::1]:5000", "[2001:db8::2]:443"),
            ] {
                let ends = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
                let header = found(&write(version, Some(ends)));
                assert_eq!(header.addresses, Some(ends));
            }
            let mixed = ("192.0.2.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
            assert_eq!(found(&write(version, Some(mixed))).addresses, None);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), signed: bool) {
            let mut input = if signed { V2_SIGNATURE.to_vec() } else { b"PROXY ".to_vec() };
            input.extend(bytes);
            let _ = parse(&input);
        }
    }
}
