//! A gateway's listeners, routes and secrets.

use std::collections::BTreeMap;

use lateen_envoy::TypeUrl;

use crate::authentication::RequestAuthentications;
use crate::authorization::Policies;
use crate::clusters::Mode;
use crate::gateways::{MergedGateway, Server};
use crate::listeners::{self, GatewayListenerInputs, ListenerView};
use crate::model::Resolution;
use crate::routes::{self, GatewayRouteInputs, relevant_labels};
use crate::scope::Scope;
use crate::secrets;
use crate::shared::Shared;
use crate::snapshot::VirtualServiceConfig;

use super::outbound::{Outbound, references as references_of_rules};
use super::sidecar::plan_context;
use super::{Compiler, Output, Proxy, destination_facts, hashing_rules, resource};

impl Compiler {
    pub(super) fn add_gateway(
        &self,
        proxy: &Proxy<'_>,
        scope: &Scope,
        outbound: &Outbound,
        out: &mut Output,
    ) {
        let targets = proxy.snapshot.targets(&proxy.node.ips);
        let merged = MergedGateway::of(proxy.snapshot, proxy.labels, &targets);
        out.diagnostics.extend(merged.diagnostics.iter().cloned());
        let mut services = scope.services.iter();
        let view = ListenerView {
            dynamic_dns: services.any(|service| service.resolution == Resolution::DynamicDns),
            ..proxy.listener_view()
        };
        let policies = Shared::new(Policies::of_workload(proxy.snapshot, &proxy.workload()));
        let authentication = Shared::new(RequestAuthentications::of_workload(
            proxy.snapshot,
            &proxy.workload(),
        ));
        let context = plan_context(proxy, scope, &view);
        for (port, bind, chains) in listeners::gateway_plan(&merged, &context) {
            let inputs = GatewayListenerInputs {
                view: view.clone(),
                mesh: proxy.mesh(),
                port,
                bind,
                chains,
                policies: policies.clone(),
                authentication: authentication.clone(),
            };
            out.add(
                TypeUrl::Listener,
                &self.gateway_listeners.get(&inputs, |inputs| {
                    let built = listeners::gateway(inputs);
                    vec![resource(&built.name, &built)]
                }),
            );
        }
        if merged.hands_on_by_name() {
            self.add_services(proxy, scope, Mode::ServerName, out);
        }
        for (name, servers) in &merged.routes {
            let inputs = route_inputs(proxy, scope, name, servers);
            out.add(
                TypeUrl::RouteConfiguration,
                &self.gateway_routes.get(&inputs, |inputs| {
                    let built = routes::gateway(inputs);
                    vec![resource(&built.name, &built)]
                }),
            );
        }
        self.add_secrets(proxy, outbound, &merged, out);
    }

    /// The certificates that servers and rules name, as far as they are in the gateway's own namespace.
    fn add_secrets(
        &self,
        proxy: &Proxy<'_>,
        outbound: &Outbound,
        merged: &MergedGateway,
        out: &mut Output,
    ) {
        let servers = merged.ports.iter().flat_map(|port| &port.servers);
        let mut references: Vec<secrets::Reference> = servers
            .flat_map(|server| secrets::of_server(&server.spec, &server.object, &server.path))
            .collect();
        references.extend(references_of_rules(outbound, |_| true));
        self.add_references(proxy, &references, out);
    }
}

fn route_inputs(
    proxy: &Proxy<'_>,
    scope: &Scope,
    name: &str,
    servers: &[Shared<Server>],
) -> GatewayRouteInputs {
    let mut bound: BTreeMap<String, Vec<Shared<VirtualServiceConfig>>> = BTreeMap::new();
    for server in servers {
        bound.entry(server.gateway.clone()).or_insert_with(|| {
            proxy
                .snapshot
                .virtual_services(&server.gateway, &proxy.node.namespace)
                .cloned()
                .collect()
        });
    }
    let all = || bound.values().flatten();
    let destinations = destination_facts(all(), |host| {
        scope.service(host).map(|service| listeners::facts(service))
    });
    let hosts: Vec<String> = all()
        .flat_map(|config| crate::scope::destinations(&config.spec))
        .collect();
    GatewayRouteInputs {
        name: name.to_owned(),
        servers: servers.to_vec(),
        destinations,
        rules: hashing_rules(proxy, scope, hosts.into_iter()),
        labels: relevant_labels(all(), proxy.labels),
        namespace: proxy.node.namespace.clone(),
        default_retry: proxy.snapshot.mesh().default_http_retry.clone(),
        virtual_services: bound,
    }
}
