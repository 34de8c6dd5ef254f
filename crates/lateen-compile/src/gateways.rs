//! The Gateways of one workload, merged by port.
//!
//! Several Gateways may select one workload; their servers share its ports as far as they can. Source: Istio, `mergeGateways`.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::Diagnostic;
use lateen_api::networking::{Gateway, Server as ServerSpec, ServerTlsMode};

use crate::diagnostics::{GATEWAY_CONFLICT, on_object};
use crate::labels;
use crate::names::ObjectRef;
use crate::protocol::Protocol;
use crate::shared::Shared;
use crate::snapshot::{Named, ServiceTarget, Snapshot};

/// One server of a Gateway on one port of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// `namespace/name` of its Gateway: what virtual services are bound to.
    pub(crate) gateway: String,
    pub(crate) object: ObjectRef,
    /// `spec.servers[1]`.
    pub(crate) path: String,
    /// As written, with the namespaces of its hosts complete.
    pub(crate) spec: ServerSpec,
    /// The port the service declares.
    pub(crate) number: u32,
    pub(crate) protocol: Protocol,
    /// The name of its route configuration; empty for servers without HTTP.
    pub(crate) route_name: String,
}

impl Server {
    /// Whether it hands TLS on as it is.
    pub(crate) fn is_passthrough(&self) -> bool {
        matches!(
            self.spec.tls.as_ref().map(|tls| tls.mode),
            Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough)
        ) && !self.protocol.is_http()
    }

    /// Whether connections to it are TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.spec.tls.is_some() && !self.protocol.is_http()
    }

    /// Whether it speaks HTTP, once TLS is ended.
    pub(crate) fn is_http(&self) -> bool {
        self.protocol.is_http() || self.terminates_https()
    }

    /// Whether it ends TLS with HTTP inside.
    pub(crate) fn terminates_https(&self) -> bool {
        self.protocol == Protocol::Https && self.is_tls() && !self.is_passthrough()
    }

    /// The host names of its hosts, without namespaces.
    pub(crate) fn sni_hosts(&self) -> Vec<String> {
        let hosts: BTreeSet<String> = self
            .spec
            .hosts
            .iter()
            .map(|host| {
                host.split_once('/')
                    .map_or(host.as_str(), |(_, name)| name)
                    .to_lowercase()
            })
            .collect();
        hosts.into_iter().collect()
    }

    /// The hosts open to virtual services of a namespace.
    pub(crate) fn hosts_for(&self, namespace: &str) -> Vec<String> {
        self.spec
            .hosts
            .iter()
            .filter_map(|host| match host.split_once('/') {
                None => Some(host.to_lowercase()),
                Some((ns, name)) => (ns == namespace || ns == "*").then(|| name.to_lowercase()),
            })
            .collect()
    }

    /// Whether HTTP is answered with a redirect to HTTPS.
    pub(crate) fn redirects_to_https(&self) -> bool {
        self.spec.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }
}

/// The servers that share one listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PortServers {
    /// The port of the workload.
    pub(crate) port: u32,
    /// The address asked for; empty for all.
    pub(crate) bind: String,
    pub(crate) protocol: Protocol,
    /// For plain HTTP, the routes all servers share.
    pub(crate) route_name: String,
    pub(crate) servers: Vec<Shared<Server>>,
}

/// The Gateways of one workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct MergedGateway {
    pub(crate) ports: Vec<PortServers>,
    /// The servers of each route configuration.
    pub(crate) routes: BTreeMap<String, Vec<Shared<Server>>>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    used: BTreeSet<(u32, String)>,
    tls_hosts: BTreeSet<(u32, String, String)>,
}

impl MergedGateway {
    /// Merges the Gateways that select a workload.
    pub(crate) fn of(
        snapshot: &Snapshot,
        labels: &BTreeMap<String, String>,
        targets: &[ServiceTarget],
    ) -> Self {
        let mut merged = Self::default();
        for gateway in snapshot.gateways() {
            if gateway.services.is_empty() {
                if labels::is_subset(&gateway.spec.selector, labels) {
                    merged.add_gateway(gateway, |number| selected_port(number, targets));
                }
                continue;
            }
            // Bound to Services by name: only their ports exist.
            let own: Vec<&ServiceTarget> = targets
                .iter()
                .filter(|target| {
                    gateway.services.contains(&target.service.hostname)
                        && target.service.namespace == gateway.object.namespace
                })
                .collect();
            merged.add_gateway(gateway, |number| service_ports(number, &own));
        }
        merged
    }

    /// Whether a server hands mutual TLS on by the cluster its server name spells.
    pub(crate) fn hands_on_by_name(&self) -> bool {
        self.ports
            .iter()
            .flat_map(|port| &port.servers)
            .any(|server| {
                server
                    .spec
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough)
            })
    }

    fn add_gateway(
        &mut self,
        gateway: &Shared<Named<Gateway>>,
        workload_ports: impl Fn(u32) -> Vec<u32>,
    ) {
        for (index, spec) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = &spec.port else { continue };
            let protocol = Protocol::parse(&port.protocol);
            let object = &gateway.object;
            let server = Server {
                gateway: format!("{}/{}", object.namespace, object.name),
                object: object.clone(),
                path: format!("spec.servers[{index}]"),
                spec: with_namespaces(spec, &object.namespace),
                number: port.number,
                protocol,
                route_name: String::new(),
            };
            for resolved in workload_ports(port.number) {
                let server = Server {
                    route_name: route_name(&server, resolved),
                    ..server.clone()
                };
                self.add(Shared::new(server), resolved);
            }
        }
    }

    fn add(&mut self, server: Shared<Server>, port: u32) {
        if server.is_tls() && !self.claim_tls_hosts(&server, port) {
            self.refuse(
                &server,
                port,
                "another server on the port serves the same host over TLS",
            );
            return;
        }
        let bind = server.spec.bind.clone();
        let first = self.used.insert((port, bind.clone()));
        if first {
            self.open(server, port);
            return;
        }
        let same = |p: &&mut PortServers| p.port == port && p.bind == bind;
        let plain = |p: &PortServers| p.servers.first().is_some_and(|server| !server.is_tls());
        let plain_open = self.ports.iter_mut().filter(same).any(|p| plain(p));
        if plain_open {
            self.join_plain(server, port);
        } else if !server.is_tls() {
            self.refuse(&server, port, "the port serves TLS");
        } else {
            self.join_tls(server, port);
        }
    }

    fn open(&mut self, server: Shared<Server>, port: u32) {
        if server.is_http() {
            self.routes
                .insert(server.route_name.clone(), vec![server.clone()]);
        }
        self.ports.push(PortServers {
            port,
            bind: server.spec.bind.clone(),
            protocol: server.protocol,
            route_name: server.route_name.clone(),
            servers: vec![server],
        });
    }

    /// Plain HTTP servers share one route configuration; plain TCP has nothing to tell servers apart by.
    fn join_plain(&mut self, server: Shared<Server>, port: u32) {
        let found = self
            .ports
            .iter()
            .position(|p| p.port == port && p.bind == server.spec.bind);
        let Some(index) = found else { return };
        let current = &mut self.ports[index];
        let both_http = current.protocol.is_http() && server.protocol.is_http();
        if !both_http {
            self.refuse(&server, port, "the port serves another protocol");
            return;
        }
        current.servers.push(server.clone());
        self.routes
            .entry(server.route_name.clone())
            .or_default()
            .push(server);
    }

    fn join_tls(&mut self, server: Shared<Server>, port: u32) {
        if server.is_http() {
            if self.routes.contains_key(&server.route_name) {
                self.refuse(
                    &server,
                    port,
                    "another server of the gateway has the same port name",
                );
                return;
            }
            self.routes
                .insert(server.route_name.clone(), vec![server.clone()]);
        }
        let same = self.ports.iter_mut().find(|p| {
            p.port == port && p.bind == server.spec.bind && p.protocol == server.protocol
        });
        match same {
            Some(existing) => existing.servers.push(server),
            None => self.ports.push(PortServers {
                port,
                bind: server.spec.bind.clone(),
                protocol: server.protocol,
                route_name: String::new(),
                servers: vec![server],
            }),
        }
    }

    /// Takes the server names of a TLS server; false if one is taken.
    fn claim_tls_hosts(&mut self, server: &Server, port: u32) -> bool {
        let key = |host: String| (port, server.spec.bind.clone(), host);
        let keys: Vec<_> = server.sni_hosts().into_iter().map(key).collect();
        if keys.iter().any(|key| self.tls_hosts.contains(key)) {
            return false;
        }
        self.tls_hosts.extend(keys);
        true
    }

    fn refuse(&mut self, server: &Server, port: u32, why: &str) {
        let message = format!("the server cannot share port {port}: {why}");
        self.diagnostics.push(
            on_object(GATEWAY_CONFLICT, &server.object, &server.path, message)
                .effect("the server is left out; the one declared first stays"),
        );
    }
}

/// A service with this label takes no part in finding a Gateway's ports by a selector. Source: Istio.
const NO_PORT_TRANSLATION: &str = "experimental.istio.io/disable-gateway-port-translation";

/// The workload's port behind a service's: a gateway's Service maps 80 to 8080, say. Where no service has the port, the number
/// is the workload's own.
fn selected_port(number: u32, targets: &[ServiceTarget]) -> Vec<u32> {
    let found = targets
        .iter()
        .filter(|target| !target.service.labels.contains_key(NO_PORT_TRANSLATION))
        .find(|target| target.port.number == number);
    vec![found.map_or(number, |target| target.target)]
}

/// The workload's ports behind a port of certain services.
fn service_ports(number: u32, targets: &[&ServiceTarget]) -> Vec<u32> {
    let ports: BTreeSet<u32> = targets
        .iter()
        .filter(|target| target.port.number == number)
        .map(|target| target.target)
        .collect();
    ports.into_iter().collect()
}

/// `http.8080`, or `https.443.name.gateway.namespace`: what Istio calls them.
fn route_name(server: &Server, port: u32) -> String {
    let bind = if server.spec.bind.is_empty() {
        String::new()
    } else {
        format!(".{}", server.spec.bind)
    };
    if server.protocol.is_http() {
        return format!("http.{port}{bind}");
    }
    if server.terminates_https() {
        let name = server
            .spec
            .port
            .as_ref()
            .map_or("", |port| port.name.as_str());
        let object = &server.object;
        return format!(
            "https.{}.{name}.{}.{}{bind}",
            server.number, object.name, object.namespace
        );
    }
    String::new()
}

/// `./host` means the Gateway's own namespace, `*/host` any.
fn with_namespaces(spec: &ServerSpec, namespace: &str) -> ServerSpec {
    let mut out = spec.clone();
    for host in &mut out.hosts {
        if let Some((ns, name)) = host.split_once('/') {
            *host = match ns {
                "." => format!("{namespace}/{name}"),
                "*" => name.to_owned(),
                _ => continue,
            };
        }
    }
    out
}
