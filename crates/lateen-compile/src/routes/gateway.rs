//! The routes of a gateway: the virtual services bound to its servers, for the hosts both sides name.

use std::collections::BTreeMap;

use lateen_api::networking::HttpRetry;

use crate::gateways::Server;
use crate::host::{self, with_port};
use crate::proto::route;
use crate::rules::MergedRule;
use crate::shared::Shared;
use crate::snapshot::{Semantics, VirtualServiceConfig};

use super::configuration;
use super::matches::is_catch_all;
use super::translate::{DestinationFacts, RouteContext, routes};

/// Everything one route configuration of a gateway depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GatewayRouteInputs {
    pub(crate) name: String,
    /// The servers that share it, in order of precedence.
    pub(crate) servers: Vec<Shared<Server>>,
    /// For each gateway of a server, the virtual services bound to it, in order of precedence.
    pub(crate) virtual_services: BTreeMap<String, Vec<Shared<VirtualServiceConfig>>>,
    pub(crate) destinations: BTreeMap<String, DestinationFacts>,
    pub(crate) rules: BTreeMap<String, Shared<MergedRule>>,
    /// The gateway's labels, as far as virtual services look at them.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) namespace: String,
    pub(crate) default_retry: Option<HttpRetry>,
}

/// A route configuration.
pub(crate) fn gateway(inputs: &GatewayRouteInputs) -> route::RouteConfiguration {
    let mut hosts: BTreeMap<String, route::VirtualHost> = BTreeMap::new();
    for server in &inputs.servers {
        let bound = inputs
            .virtual_services
            .get(&server.gateway)
            .map_or(&[][..], Vec::as_slice);
        for config in bound {
            add_routes(&mut hosts, inputs, server, config);
        }
        if server.redirects_to_https() {
            for name in server.hosts_for("") {
                entry(&mut hosts, &name, server.number).require_tls = require_tls();
            }
            for name in server.sni_hosts() {
                entry(&mut hosts, &name, server.number).require_tls = require_tls();
            }
        }
    }
    if hosts.is_empty() {
        let port = inputs.servers.first().map_or(0, |server| server.number);
        return configuration(&inputs.name, vec![blackhole(port)]);
    }
    let mut out: Vec<route::VirtualHost> = hosts.into_values().collect();
    for host in &mut out {
        // Several virtual services may serve a host; whatever takes everything has to come after all others.
        host.routes.sort_by_key(is_catch_all);
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    configuration(&inputs.name, out)
}

fn require_tls() -> i32 {
    route::virtual_host::TlsRequirementType::All as i32
}

fn add_routes(
    hosts: &mut BTreeMap<String, route::VirtualHost>,
    inputs: &GatewayRouteInputs,
    server: &Server,
    config: &VirtualServiceConfig,
) {
    let open = server.hosts_for(&config.object.namespace);
    let names = host::intersection(&open, &config.spec.hosts);
    if names.is_empty() {
        return;
    }
    let context = RouteContext {
        port: server.number,
        gateway: &server.gateway,
        tls: server.spec.tls.is_some(),
        labels: &inputs.labels,
        namespace: &inputs.namespace,
        destinations: &inputs.destinations,
        rules: &inputs.rules,
        default_retry: inputs.default_retry.as_ref(),
        semantics: Semantics::default(),
    };
    let built = routes(config, &context);
    if built.is_empty() {
        return;
    }
    for name in names {
        let host = entry(hosts, &name, server.number);
        host.routes.extend(built.iter().cloned());
        if server.redirects_to_https() {
            host.require_tls = require_tls();
        }
    }
}

fn entry<'a>(
    hosts: &'a mut BTreeMap<String, route::VirtualHost>,
    name: &str,
    port: u32,
) -> &'a mut route::VirtualHost {
    hosts
        .entry(name.to_owned())
        .or_insert_with(|| route::VirtualHost {
            name: with_port(name, port),
            domains: vec![host::ipv6_compliant(name)],
            include_request_attempt_count: true,
            ..Default::default()
        })
}

/// Answers 404 to everything: a server that no virtual service is bound to.
fn blackhole(port: u32) -> route::VirtualHost {
    route::VirtualHost {
        name: with_port("blackhole", port),
        domains: vec!["*".to_owned()],
        ..Default::default()
    }
}
