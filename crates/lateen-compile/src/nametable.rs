//! The names an agent answers DNS questions for: every service a workload may see, so that it needs no cluster DNS for them.

use std::collections::BTreeMap;

use lateen_envoy::istio::nds::{NameTable, name_table::NameInfo};

use crate::model::{Endpoint, Health, Registry, Resolution, Service};
use crate::shared::Shared;

/// A service and, if it is headless, where its endpoints are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NamedService {
    pub(crate) service: Shared<Service>,
    /// For headless services: endpoints by port; any port will do, as names have none.
    pub(crate) endpoints: Option<Shared<Vec<Endpoint>>>,
    /// For headless services: the names of pods, with their addresses.
    pub(crate) pods: Vec<(String, Vec<String>)>,
}

/// Everything a name table depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NameTableInputs {
    pub(crate) services: Vec<NamedService>,
}

/// The name table.
pub(crate) fn name_table(inputs: &NameTableInputs) -> NameTable {
    let mut table: BTreeMap<String, NameInfo> = BTreeMap::new();
    for named in &inputs.services {
        let service = &named.service;
        let ips = addresses(named);
        if ips.is_empty() {
            continue;
        }
        let info = info(service, ips);
        for name in std::iter::once(&service.hostname).chain(&service.aliases) {
            table.entry(name.clone()).or_insert_with(|| info.clone());
        }
        for (pod, ips) in &named.pods {
            // `pod-0.service.namespace.svc…`: how members of a StatefulSet find each other.
            let name = format!("{pod}.{}", service.hostname);
            table.entry(name).or_insert_with(|| NameInfo {
                ips: ips.clone(),
                ..info.clone()
            });
        }
    }
    NameTable {
        table: table.into_iter().collect(),
    }
}

fn addresses(named: &NamedService) -> Vec<String> {
    let service = &named.service;
    if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
        let mut out: Vec<String> = named
            .endpoints
            .iter()
            .flat_map(|endpoints| endpoints.iter())
            .filter(|endpoint| match endpoint.health {
                Health::Healthy => true,
                Health::Unhealthy => service.publish_not_ready,
                Health::Terminating => false,
            })
            .flat_map(|endpoint| endpoint.addresses.clone())
            .collect();
        out.sort();
        out.dedup();
        return out;
    }
    // A range is no address to answer with.
    service
        .vips(true)
        .iter()
        .filter(|address| !address.contains('/'))
        .cloned()
        .collect()
}

fn info(service: &Service, ips: Vec<String>) -> NameInfo {
    let kubernetes = service.registry == Registry::Kubernetes;
    NameInfo {
        ips,
        registry: if kubernetes { "Kubernetes" } else { "External" }.to_owned(),
        shortname: if kubernetes {
            service.name.clone()
        } else {
            String::new()
        },
        namespace: if kubernetes {
            service.namespace.clone()
        } else {
            String::new()
        },
        ..Default::default()
    }
}
