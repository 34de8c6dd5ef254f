//! `resolv.conf`: which servers to pass queries on to, and which domains clients try.

use std::net::{IpAddr, SocketAddr};

/// What concerns us of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in order.
    pub servers: Vec<SocketAddr>,
    /// The search list; the last line that has one counts, as in glibc.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads it. Lines that make no sense are passed over, as every resolver does.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), Some(address)) => {
                    if let Some(ip) = parse_ip(address) {
                        conf.servers.push(SocketAddr::new(ip, 53));
                    }
                }
                (Some("search" | "domain"), Some(first)) => {
                    let domains = std::iter::once(first).chain(words);
                    conf.search = domains.map(super::table::normal).collect();
                }
                _ => {}
            }
        }
        conf
    }
}

/// A scoped address (`fe80::1%eth0`) cannot be reached without its interface; it is passed over.
fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_list_are_read() {
        let text = "# made by kubelet\nnameserver 10.96.0.10\nnameserver fd00::10\nnameserver fe80::1%eth0\n\
            search default.svc.cluster.local. svc.cluster.local ; comment\noptions ndots:5\nnameserver\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.servers.len(), 2);
        assert_eq!(conf.servers[0].to_string(), "10.96.0.10:53");
        assert_eq!(
            conf.search,
            ["default.svc.cluster.local", "svc.cluster.local"]
        );
    }
}
