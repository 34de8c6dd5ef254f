//! Pods as the compiler sees them: runtime facts that no manifest holds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A region, a zone in it and a part of the zone; each may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.istio.io/subzone`.
    pub sub_zone: String,
}

impl Locality {
    /// Parses `region/zone/subzone`, each part optional. Istio also allows `.` for `/` in labels.
    pub fn parse(text: &str) -> Self {
        let separator = if text.contains('/') { '/' } else { '.' };
        let mut parts = text.splitn(3, separator).map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            sub_zone: next(),
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        for part in [&self.zone, &self.sub_zone] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

/// What a pod is for the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodRole {
    /// A workload with a sidecar.
    Sidecar,
    /// A workload that is not in the mesh.
    #[default]
    Plain,
    /// A gateway.
    Gateway,
}

/// A running pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its addresses, the main one first.
    pub ips: Vec<IpAddr>,
    /// Its service account.
    pub service_account: String,
    /// Where it runs.
    pub locality: Locality,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Whether it is being ended. Such a pod takes no new traffic.
    pub terminating: bool,
    /// Sidecar, plain or gateway.
    pub role: PodRole,
    /// Named container ports, for `targetPort` by name.
    pub ports: BTreeMap<String, u16>,
    /// The network it is in; empty if there is only one.
    pub network: String,
    /// The name of the workload it belongs to.
    pub workload_name: String,
}

impl Pod {
    /// Whether peers can speak mutual TLS to it.
    pub fn has_proxy(&self) -> bool {
        self.role != PodRole::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_parse_with_either_separator() {
        let full = Locality::parse("us-east/a/1");
        assert_eq!(
            (full.zone.as_str(), full.to_string().as_str()),
            ("a", "us-east/a/1")
        );
        assert_eq!(Locality::parse("us-east.a").zone, "a");
        assert_eq!(Locality::parse("us-east").to_string(), "us-east");
        assert!(Locality::parse("").is_empty());
    }
}
