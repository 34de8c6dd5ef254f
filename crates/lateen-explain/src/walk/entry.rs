//! Where a request begins: at a workload with or without a sidecar, outside at a gateway, or at one proxy's listener.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use lateen_compile::{Pod, PodRole, Service};
use lateen_traffic::Listener;
use lateen_traffic::listener::{ListenAddress, TrafficDirection};

use super::{Arrival, ExplainError, Head, Hello, Outcome, Payload, Step, Trail, Walker};
use crate::asked::{self, Asked};
use crate::mesh::{Client, Mesh, Proxy};
use crate::report::{End, Note, NoteKind, Stage};

/// Some address that is nobody's, for names that nobody here knows (RFC 5737).
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// A client outside (RFC 5737).
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Clients' ports are as good as random.
const CLIENT_PORT: u16 = 50_000;
/// Where sidecars take redirected connections of their workload.
const OUTBOUND_PORT: u16 = 15_001;

/// Begins at a client of the mesh; returns how to name it.
pub(super) fn from_client(
    walker: &mut Walker<'_>,
    mesh: &Mesh,
    client: &Client,
    asked: &Asked,
) -> Result<String, ExplainError> {
    let (Client::Workload { namespace, pod } | Client::Outside { namespace, pod }) = client;
    let pod = mesh
        .snapshot()
        .pod(namespace, pod)
        .ok_or_else(|| ExplainError::NoPod(namespace.clone(), pod.clone()))?;
    match client {
        Client::Workload { .. } => {
            let from = format!("{}.{}", mesh.workload(pod), pod.namespace);
            match mesh.proxy(pod).filter(|_| pod.role == PodRole::Sidecar) {
                Some(proxy) => from_sidecar(walker, mesh, pod, proxy, asked)?,
                None => from_plain(walker, mesh, pod, asked),
            }
            Ok(from)
        }
        Client::Outside { .. } => {
            let from = format!("outside, through {}.{}", mesh.workload(pod), pod.namespace);
            if let Some(proxy) = mesh.proxy(pod) {
                from_outside(walker, mesh, pod, proxy, asked)?;
            }
            Ok(from)
        }
    }
}

/// Begins at a listener of one proxy.
pub(super) fn at_proxy(
    walker: &mut Walker<'_>,
    proxy: Arc<Proxy>,
    asked: &Asked,
) -> Result<(), ExplainError> {
    let port = walker.options.listener.unwrap_or(OUTBOUND_PORT);
    let accepting = listening(&proxy, port).ok_or_else(|| no_listener(&proxy, port))?;
    let mut trail = Trail::new();
    let inbound = accepting.direction == TrafficDirection::Inbound;
    let own = proxy.ips.first().copied();
    let ip = match (given(asked), inbound) {
        (Some(ip), _) => ip,
        (None, true) => own.unwrap_or(IpAddr::V4(SOMEWHERE)),
        (None, false) => resolve(&mut trail, &proxy, asked),
    };
    let remote = if inbound {
        IpAddr::V4(OUTSIDER)
    } else {
        own.unwrap_or(IpAddr::V4(OUTSIDER))
    };
    // A listener that is not redirected to has its own port.
    let redirected = accepting.use_original_dst || inbound;
    let local_port = if redirected { asked.url.port } else { port };
    walker.arrive(
        trail,
        Arrival {
            accepting,
            local: SocketAddr::new(ip, local_port),
            remote: SocketAddr::new(remote, CLIENT_PORT),
            payload: payload(asked),
            workload: None,
            proxy,
        },
    );
    Ok(())
}

/// The request as the client sends it.
fn payload(asked: &Asked) -> Payload {
    let inner = if asked.url.payload.is_http() {
        Payload::Http(Box::new(Head {
            method: asked.method.clone(),
            authority: asked.authority(),
            path: asked.url.path.clone(),
            headers: asked.headers.clone(),
            http2: asked.http2,
        }))
    } else {
        Payload::Opaque
    };
    if !asked.url.payload.is_tls() {
        return inner;
    }
    let host = asked.url.host.trim_matches(['[', ']']);
    let alpn = match asked.url.payload {
        asked::Payload::Https => vec!["h2".to_owned(), "http/1.1".to_owned()],
        _ => Vec::new(),
    };
    Payload::Tls(Box::new(Hello {
        // Addresses are no server names (RFC 6066).
        sni: host.parse::<IpAddr>().is_err().then(|| host.to_owned()),
        alpn,
        certificate: asked.certificate.clone(),
        expects: Vec::new(),
        inner,
    }))
}

/// The address that needs no looking up.
fn given(asked: &Asked) -> Option<IpAddr> {
    let literal = || asked.url.host.trim_matches(['[', ']']).parse().ok();
    asked.resolve.or_else(literal)
}

/// The address of the URL's host, as the proxy's own DNS gives it.
fn resolve(trail: &mut Trail, proxy: &Proxy, asked: &Asked) -> IpAddr {
    let host = &asked.url.host;
    if let Some(ip) = given(asked) {
        return ip;
    }
    let known = proxy.resolve(host);
    if let Some(ip) = known.first() {
        let others = match known.len() {
            1 => String::new(),
            count => format!(" (one of {count})"),
        };
        let what = format!("{host} is {ip}{others}");
        trail.push(Step::new(&proxy.name, Stage::Name, what));
        return *ip;
    }
    if let Some(ip) = domain_address(proxy, host) {
        let what = format!("{host} is {ip}, by the domains of its virtual host");
        trail.push(Step::new(&proxy.name, Stage::Name, what));
        return ip;
    }
    let what = format!("{host} is not a name of the mesh: some address outside, {SOMEWHERE} here");
    trail.push(Step::info(&proxy.name, Stage::Name, what));
    IpAddr::V4(SOMEWHERE)
}

/// Without a name table: virtual hosts have their services' addresses among their domains.
fn domain_address(proxy: &Proxy, host: &str) -> Option<IpAddr> {
    let configs = proxy.program.route_configs();
    let mut vhosts = configs.iter().flat_map(|(_, config)| config.vhosts.iter());
    let vhost = vhosts.find(|vhost| {
        let is = |domain: &Arc<str>| domain.eq_ignore_ascii_case(host);
        vhost.domains.iter().any(is)
    })?;
    vhost.domains.iter().find_map(|domain| domain.parse().ok())
}

fn from_sidecar(
    walker: &mut Walker<'_>,
    mesh: &Mesh,
    pod: &Pod,
    proxy: Arc<Proxy>,
    asked: &Asked,
) -> Result<(), ExplainError> {
    let mut trail = client_step(mesh, pod);
    let ip = resolve(&mut trail, &proxy, asked);
    let local = SocketAddr::new(ip, asked.url.port);
    let redirecting = proxy.program.listeners().iter().find(|(_, listener)| {
        listener.use_original_dst && listener.direction == TrafficDirection::Outbound
    });
    let accepting = match redirecting {
        Some((_, listener)) => Arc::clone(listener),
        None => {
            listening(&proxy, asked.url.port).ok_or_else(|| no_listener(&proxy, asked.url.port))?
        }
    };
    let client = pod.ips.first().copied().unwrap_or(IpAddr::V4(SOMEWHERE));
    let arrival = Arrival {
        accepting,
        local,
        remote: SocketAddr::new(client, CLIENT_PORT),
        payload: payload(asked),
        workload: None,
        proxy,
    };
    if excluded(
        pod,
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        local.port(),
    ) {
        trail.push(Step::info(
            &pod.name,
            Stage::Listener,
            format!(
                "port {} is in excludeOutboundPorts: the sidecar is passed by",
                local.port()
            ),
        ));
        walker.reach_address(trail, local, arrival.remote, arrival.payload);
    } else {
        walker.arrive(trail, arrival);
    }
    Ok(())
}

fn client_step(mesh: &Mesh, pod: &Pod) -> Trail {
    let mut trail = Trail::new();
    let ip = pod
        .ips
        .first()
        .map_or_else(String::new, ToString::to_string);
    let (what, notes) = if pod.role == PodRole::Plain {
        let note = "it has no sidecar: nothing on this side looks at the request";
        (
            format!("{} {ip}, without an identity", pod.name),
            vec![Note::new(NoteKind::Info, note)],
        )
    } else {
        let identity = mesh.identity(&pod.namespace, &pod.service_account);
        (format!("{} {ip}, {identity}", pod.name), Vec::new())
    };
    let at = format!("{}.{}", mesh.workload(pod), pod.namespace);
    trail.push(Step::info(&at, Stage::Client, what).with_notes(notes));
    trail
}

/// A workload without a sidecar: the cluster's own DNS and service addresses lead it to a pod.
fn from_plain(walker: &mut Walker<'_>, mesh: &Mesh, pod: &Pod, asked: &Asked) {
    let mut trail = client_step(mesh, pod);
    let client = pod.ips.first().copied().unwrap_or(IpAddr::V4(SOMEWHERE));
    let remote = SocketAddr::new(client, CLIENT_PORT);
    let ip = given(asked).or_else(|| cluster_dns(mesh, pod, &asked.url.host));
    let Some(ip) = ip else {
        let what = format!("{} is not a name of the cluster", asked.url.host);
        let outcome = Outcome::new(End::LeavesMesh, format!("{what}; the mesh does not see it"));
        return walker.stop(trail, Step::new(&pod.name, Stage::Name, what), outcome);
    };
    trail.push(Step::new(
        &pod.name,
        Stage::Name,
        format!("{} is {ip}", asked.url.host),
    ));
    let local = SocketAddr::new(ip, asked.url.port);
    walker.reach_address(trail, local, remote, payload(asked));
}

fn cluster_dns(mesh: &Mesh, pod: &Pod, host: &str) -> Option<IpAddr> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let complete = mesh
        .search(&pod.namespace)
        .into_iter()
        .map(|suffix| format!("{host}.{suffix}"));
    let names: Vec<String> = std::iter::once(host.clone()).chain(complete).collect();
    names.iter().find_map(|name| {
        let service = mesh
            .snapshot()
            .services()
            .find(|service| service.hostname == *name)?;
        let vip = service.vips(false).iter().find_map(|vip| vip.parse().ok());
        vip.or_else(|| {
            // Headless: the pods' own addresses.
            let port = service.ports.first()?;
            let endpoints = mesh.snapshot().endpoints(service, port.number)?;
            endpoints.first()?.addresses.first()?.parse().ok()
        })
    })
}

/// A client outside the mesh: its connection reaches the port of the gateway's Service.
fn from_outside(
    walker: &mut Walker<'_>,
    mesh: &Mesh,
    pod: &Pod,
    proxy: Arc<Proxy>,
    asked: &Asked,
) -> Result<(), ExplainError> {
    let mut trail = Trail::new();
    let at = format!("{}.{}", mesh.workload(pod), pod.namespace);
    let target = target_port(mesh, pod, asked.url.port);
    let port = target.unwrap_or(asked.url.port);
    let via = target.filter(|target| *target != asked.url.port);
    let via = via.map_or_else(String::new, |target| format!(" (port {target} of the pod)"));
    trail.push(Step::info(
        &at,
        Stage::Client,
        format!("a client outside the mesh, to port {}{via}", asked.url.port),
    ));
    let ip = pod.ips.first().copied().unwrap_or(IpAddr::V4(SOMEWHERE));
    let Some(accepting) = listening(&proxy, port) else {
        let port = asked.url.port;
        let what = match open_ports(mesh, pod, &proxy).join(", ") {
            none if none.is_empty() => "no Gateway opens a port here".to_owned(),
            open => format!("no Gateway opens port {port} here; open are: {open}"),
        };
        let outcome = Outcome::new(End::Failed, format!("the connection is refused: {what}"));
        walker.stop(
            trail,
            Step::new(&proxy.name, Stage::Listener, what),
            outcome,
        );
        return Ok(());
    };
    walker.arrive(
        trail,
        Arrival {
            accepting,
            local: SocketAddr::new(ip, port),
            remote: SocketAddr::new(IpAddr::V4(OUTSIDER), CLIENT_PORT),
            payload: payload(asked),
            workload: None,
            proxy,
        },
    );
    Ok(())
}

/// The pod's port behind a port of a Service that selects it.
fn target_port(mesh: &Mesh, pod: &Pod, port: u16) -> Option<u16> {
    let mut services = mesh.snapshot().services();
    services.find_map(|service| target_of(mesh, service, pod, u32::from(port)))
}

/// The port of a pod that a service's port leads to.
fn target_of(mesh: &Mesh, service: &Service, pod: &Pod, port: u32) -> Option<u16> {
    let endpoints = mesh.snapshot().endpoints(service, port)?;
    let is_pod = |address: &String| {
        let address = address.parse::<IpAddr>();
        address.is_ok_and(|address| pod.ips.contains(&address))
    };
    let own = endpoints
        .iter()
        .find(|endpoint| endpoint.addresses.iter().any(is_pod))?;
    u16::try_from(own.port).ok()
}

/// The ports of a gateway's services behind which a Gateway opened one.
fn open_ports(mesh: &Mesh, pod: &Pod, proxy: &Proxy) -> Vec<String> {
    let services = mesh.snapshot().services();
    let all = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let open = all.filter(|(service, port)| {
        let target = target_of(mesh, service, pod, port.number);
        target.is_some_and(|target| listening(proxy, target).is_some())
    });
    let open: BTreeSet<u32> = open.map(|(_, port)| port.number).collect();
    open.iter().map(ToString::to_string).collect()
}

/// The listener that has a port's socket.
pub(super) fn listening(proxy: &Proxy, port: u16) -> Option<Arc<Listener>> {
    let has = |listener: &Listener| {
        listener.bind_to_port
            && listener
                .addresses()
                .any(|address| matches!(address, ListenAddress::Socket(s) if s.port() == port))
    };
    let mut listeners = proxy.program.listeners().iter();
    listeners
        .find(|(_, listener)| has(listener))
        .map(|(_, listener)| Arc::clone(listener))
}

fn ports(proxy: &Proxy) -> Vec<String> {
    let mut ports: Vec<u16> = proxy
        .program
        .listeners()
        .iter()
        .filter(|(_, listener)| listener.bind_to_port)
        .flat_map(|(_, listener)| listener.addresses())
        .filter_map(|address| match address {
            ListenAddress::Socket(address) => Some(address.port()),
            ListenAddress::Pipe(_) | ListenAddress::Internal => None,
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports.iter().map(ToString::to_string).collect()
}

fn no_listener(proxy: &Proxy, port: u16) -> ExplainError {
    ExplainError::NoListener {
        port,
        known: ports(proxy),
    }
}

/// Whether a port is in an annotation's list of ports.
pub(super) fn excluded(pod: &Pod, annotation: &str, port: u16) -> bool {
    pod.annotations
        .get(annotation)
        .is_some_and(|list| list.split(',').any(|text| text.trim().parse() == Ok(port)))
}
