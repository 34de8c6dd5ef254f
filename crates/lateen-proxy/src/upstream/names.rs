//! Names that requests and TLS connections ask for, for clusters that go wherever they are asked to.
//!
//! The system's resolver is asked, on the worker's blocking pool. Answers are kept for a minute, as Envoy's DNS cache keeps
//! them; there is no limit to the names a client may ask for, so there is one to what is kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lateen_traffic::cluster::DnsFamily;
use tokio::time::Instant;

/// How long an answer is used. Source: Envoy's `dns_refresh_rate`.
const KEPT: Duration = Duration::from_secs(60);
/// How long a resolver may take. Source: Envoy's `dns_query_timeout`.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers kept at a time. Source: Envoy's `max_hosts`.
const MOST: usize = 1024;
/// The longest name there is.
const LONGEST: usize = 255;

/// Answers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Names {
    answers: RefCell<BTreeMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Names {
    /// The address of `host`, or `host:port`. None if it has none.
    pub(crate) async fn address(
        &self,
        authority: &str,
        default_port: u16,
        family: DnsFamily,
    ) -> Option<SocketAddr> {
        let (host, port) = split(authority, default_port)?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, port));
        }
        let host = host.to_ascii_lowercase();
        let kept = self.kept(&host);
        let addresses = match kept {
            Some(addresses) => addresses,
            None => self.ask(host).await?,
        };
        Some(SocketAddr::new(first_of(&addresses, family)?, port))
    }

    fn kept(&self, host: &str) -> Option<Vec<IpAddr>> {
        let answers = self.answers.borrow();
        let (since, addresses) = answers.get(host)?;
        (since.elapsed() < KEPT).then(|| addresses.clone())
    }

    async fn ask(&self, host: String) -> Option<Vec<IpAddr>> {
        let asked = tokio::net::lookup_host((host.as_str(), 0));
        let found = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
        let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        let mut answers = self.answers.borrow_mut();
        if answers.len() >= MOST {
            answers.retain(|_, (since, _)| since.elapsed() < KEPT);
        }
        if answers.len() < MOST {
            answers.insert(host, (Instant::now(), addresses.clone()));
        }
        Some(addresses)
    }
}

/// Host and port of an authority; none if it is no host.
fn split(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        // `[::1]` and `::1` end in no port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok()?)
        }
        _ => (authority, default_port),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    (!host.is_empty() && host.len() <= LONGEST && port != 0).then_some((host, port))
}

fn first_of(addresses: &[IpAddr], family: DnsFamily) -> Option<IpAddr> {
    let of = |v4: bool| addresses.iter().find(|ip| ip.is_ipv4() == v4).copied();
    match family {
        DnsFamily::All => addresses.first().copied(),
        DnsFamily::V4Only => of(true),
        DnsFamily::V6Only => of(false),
        DnsFamily::V4Preferred => of(true).or_else(|| of(false)),
        DnsFamily::Auto => of(false).or_else(|| of(true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_with_or_without_a_port() {
        assert_eq!(split("example.com", 80), Some(("example.com", 80)));
        assert_eq!(split("example.com:8080", 80), Some(("example.com", 8080)));
        assert_eq!(split("[::1]:8080", 80), Some(("::1", 8080)));
        assert_eq!(split("[::1]", 80), Some(("::1", 80)));
        assert_eq!(split("::1", 80), Some(("::1", 80)));
        for wrong in ["", ":80", "example.com:", "example.com:0", "example.com:x"] {
            assert_eq!(split(wrong, 80), None, "{wrong}");
        }
    }

    #[test]
    fn the_family_asked_for_is_kept_to() {
        let both: Vec<IpAddr> = vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        assert_eq!(first_of(&both, DnsFamily::V4Only), Some(both[1]));
        assert_eq!(first_of(&both, DnsFamily::Auto), Some(both[0]));
        assert_eq!(first_of(&both[..1], DnsFamily::V4Only), None);
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver_and_a_name_is_kept() {
        let names = Names::default();
        let address = names.address("10.0.0.1", 80, DnsFamily::All).await;
        assert_eq!(address, Some("10.0.0.1:80".parse().unwrap()));
        let local = names.address("localhost:81", 80, DnsFamily::V4Only).await;
        assert_eq!(local, Some("127.0.0.1:81".parse().unwrap()));
        assert!(names.kept("localhost").is_some());
    }
}
