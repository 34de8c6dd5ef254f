//! The filters that the compiler makes of a case's policies: a workload's inbound listener is compiled and read back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};
use lateen_api::mesh::MeshConfig;
use lateen_api::security::{Action, AuthorizationPolicy};
use lateen_api::{Resource, SourceFile, Spec, parse_file, parse_fragment};
use lateen_compile::{
    Compiler, Features, Pod, PodRole, ProxyKind, ProxyNode, Settings, Snapshot, SnapshotInputs,
};
use lateen_envoy::pb::envoy::config::listener::v3::filter::ConfigType;
use lateen_envoy::pb::envoy::config::listener::v3::{FilterChain, Listener};
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use lateen_envoy::{TypeUrl, unpack};

use super::filters::{Filters, is_policy_http, is_policy_network};
use super::{Case, Protocol};

/// The workload of every case.
const NAMESPACE: &str = "foo";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1));
const HTTP_PORT: u32 = 8000;
const TCP_PORT: u32 = 9000;

/// The workload's own service, and the one that external authorization providers refer to.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: workload-under-test, namespace: foo}
spec: {clusterIP: 10.96.0.1, selector: {app: httpbin}, ports: [{name: http, port: 8000}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: my-custom-ext-authz, namespace: foo}
spec: {clusterIP: 10.96.0.2, selector: {app: none}, ports: [{name: grpc, port: 9000}, {name: http, port: 8000}]}
";

/// Compiles a case and reads its policies' filters back.
pub(super) fn filters(case: &Case, policies: &str) -> Result<Filters> {
    let mut resources = parse("services", SERVICES)?;
    resources.extend(
        parse(&case.input, policies)?
            .into_iter()
            .filter(|resource| is_built(resource, case.custom_action_builder)),
    );
    let (snapshot, _) = Snapshot::new(SnapshotInputs {
        mesh: mesh(case)?,
        settings: Settings {
            trust_domain: case.trust_domain()?.to_owned(),
            // None is set, so no policy is in it.
            root_namespace: "no-root-namespace.invalid".to_owned(),
            features: Features::default(),
            ..Settings::default()
        },
        resources,
        pods: vec![pod()],
        cluster_ips: std::sync::Arc::default(),
        jwks: Default::default(),
    });
    let compiled = Compiler::new().compile(&snapshot, &node());
    let listeners = compiled.resources.get(TypeUrl::Listener);
    let inbound = listeners
        .get("virtualInbound")
        .context("there is no inbound listener")?;
    let inbound: Listener = unpack(&inbound.body)?;
    match case.protocol {
        Protocol::Http => http_filters(chain_of(&inbound, HTTP_PORT)?).map(Filters::Http),
        Protocol::Tcp => Ok(Filters::Tcp(network_filters(chain_of(&inbound, TCP_PORT)?))),
    }
}

fn parse(name: &str, text: &str) -> Result<Vec<Resource>> {
    let parsed = parse_file(&SourceFile::new(name, text), NAMESPACE);
    if let Some(error) = parsed.diagnostics.iter().find(|found| found.is_error()) {
        bail!("{name}: {}: {}", error.field, error.message);
    }
    Ok(parsed.resources)
}

/// Istio builds CUSTOM by itself, and then the rest.
fn is_built(resource: &Resource, custom: bool) -> bool {
    match &*resource.spec {
        Spec::AuthorizationPolicy(AuthorizationPolicy { action, .. }) => {
            (*action == Action::Custom) == custom
        }
        _ => true,
    }
}

fn mesh(case: &Case) -> Result<MeshConfig> {
    let text = case.mesh_config.as_deref().unwrap_or_default();
    let (mut mesh, found) = parse_fragment::<MeshConfig>(&SourceFile::new("mesh_config", text));
    if let Some(error) = found.iter().find(|found| found.is_error()) {
        bail!("mesh_config: {}: {}", error.field, error.message);
    }
    case.trust_domain()?.clone_into(&mut mesh.trust_domain);
    mesh.trust_domain_aliases
        .clone_from(&case.trust_domain_aliases);
    Ok(mesh)
}

fn labels() -> BTreeMap<String, String> {
    [("app", "httpbin"), ("version", "v1")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn pod() -> Pod {
    Pod {
        namespace: NAMESPACE.to_owned(),
        name: "httpbin".to_owned(),
        labels: labels(),
        ips: vec![ADDRESS],
        ready: true,
        role: PodRole::Sidecar,
        ..Pod::default()
    }
}

fn node() -> ProxyNode {
    ProxyNode {
        id: "sidecar~10.244.0.1~httpbin.foo~foo.svc.cluster.local".to_owned(),
        kind: ProxyKind::Sidecar,
        namespace: NAMESPACE.to_owned(),
        name: "httpbin".to_owned(),
        labels: labels(),
        ips: vec![ADDRESS],
        dns_domain: "foo.svc.cluster.local".to_owned(),
        native: true,
        ..ProxyNode::default()
    }
}

/// A chain of a port.
fn chain_of(listener: &Listener, port: u32) -> Result<&FilterChain> {
    listener
        .filter_chains
        .iter()
        .find(|chain| {
            chain
                .filter_chain_match
                .as_ref()
                .and_then(|conditions| conditions.destination_port)
                .is_some_and(|wanted| wanted.value == port)
        })
        .with_context(|| format!("there is no chain for port {port}"))
}

fn network_filters(
    chain: &FilterChain,
) -> Vec<lateen_envoy::pb::envoy::config::listener::v3::Filter> {
    chain
        .filters
        .iter()
        .filter(|filter| is_policy_network(filter))
        .cloned()
        .collect()
}

fn http_filters(
    chain: &FilterChain,
) -> Result<Vec<lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter>>
{
    let manager = chain
        .filters
        .iter()
        .filter_map(|filter| match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => unpack::<HttpConnectionManager>(any).ok(),
            _ => None,
        })
        .next()
        .context("the chain has no HTTP connection manager")?;
    Ok(manager
        .http_filters
        .into_iter()
        .filter(is_policy_http)
        .collect())
}
