//! A planned pod to what its process needs: images and references resolved, the sidecar added, probes rewritten.
//!
//! Pure: the same plan and surroundings give the same result. What a user got wrong is told in `problems` and, where a
//! container cannot run because of it, in that container's status.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use lateen_api::kube;
use lateen_sources::plan::{PodPlan, PodRole};

use crate::addresses::{DNS_V4, ISTIOD_V4, NODE_V4};
use crate::images::Images;
use crate::probe::ContainerProbes;
use crate::redirect::{PacketFilter, Redirection};
use crate::sandbox::{self, File, Mount, PROXY_CONTAINER, RestartPolicy, Start, Volume};
use crate::state::StateDir;
use crate::supervisor::{CommandLine, Credentials, Desired};

mod environment;
mod probes;
mod proxy;
mod security;
#[cfg(test)]
mod tests;
mod volumes;

/// `spec.nodeName` and the host name of the node for everybody who asks.
pub(crate) const NODE_NAME: &str = "lateen";
/// Kubernetes' default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: u64 = 30;
/// Longer than a pod lives.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The volume with `istio-token`.
pub(crate) const TOKEN_VOLUME: &str = "istio-token";
/// The volume with `root-cert.pem`.
pub(crate) const ROOT_VOLUME: &str = "istiod-ca-cert";
/// The volume of the proxy's own files, as injection names it.
pub(crate) const RUN_VOLUME: &str = "istio-envoy";
/// The volume at `/var/run/secrets/kubernetes.io/serviceaccount`.
const ACCOUNT_VOLUME: &str = "kube-api-access";

/// What a pod is resolved against.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) images: &'a Images,
    pub(crate) state: &'a StateDir,
    pub(crate) proxy: &'a CommandLine,
    pub(crate) credentials: &'a Credentials,
    pub(crate) trust_domain: &'a str,
    pub(crate) cluster_id: &'a str,
    pub(crate) hold: Option<Duration>,
    pub(crate) packet_filter: PacketFilter,
    /// `PATH` and `HOME` of the machine, since containers are its processes.
    pub(crate) path: &'a str,
    pub(crate) home: &'a str,
}

/// A resolved pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) spec: sandbox::Spec,
    /// By container.
    pub(crate) probes: BTreeMap<String, ContainerProbes>,
    pub(crate) grace: Duration,
    /// When to resolve it again for new credentials.
    pub(crate) refresh_after: Option<Duration>,
    /// What is wrong with the manifest and what follows from it.
    pub(crate) problems: Vec<String>,
}

/// Resolves a pod.
pub(crate) fn resolve(plan: &PodPlan, around: &Surroundings<'_>) -> Resolved {
    let mut problems = Vec::new();
    let redirection = redirection(plan, &mut problems);
    let mut spec = sandbox::Spec {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
        host_name: host_name(plan),
        files: files(plan),
        ipv4: Some(plan.ipv4),
        ipv6: plan.ipv6,
        redirection,
        packet_filter: around.packet_filter,
        logs: around.state.pod_logs(&plan.namespace, &plan.name),
        vault: around.state.vault(),
        volumes: mesh_volumes(plan, around),
        init: Vec::new(),
        containers: Vec::new(),
        hold_ms: hold(plan, around).map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
    };
    volumes::add(&mut spec.volumes, plan, around, &mut problems);
    let mut probes = BTreeMap::new();
    if plan.role == PodRole::Sidecar {
        let mut proxy = proxy::container(plan, &spec.volumes, around);
        proxy.sidecar = true;
        probes.insert(PROXY_CONTAINER.to_owned(), proxy::probes(plan));
        spec.init.push(proxy);
    }
    let own = |c: &&kube::Container| c.name != PROXY_CONTAINER;
    for container in plan.spec.init_containers.iter().filter(own) {
        let resolved = container_of(plan, container, true, &spec.volumes, around);
        if resolved.sidecar {
            probes.insert(container.name.clone(), probes::of(plan, container));
        }
        spec.init.push(resolved);
    }
    for container in plan.spec.containers.iter().filter(own) {
        spec.containers
            .push(container_of(plan, container, false, &spec.volumes, around));
        probes.insert(container.name.clone(), probes::of(plan, container));
    }
    if plan.role == PodRole::Gateway {
        spec.containers
            .push(proxy::container(plan, &spec.volumes, around));
        probes.insert(PROXY_CONTAINER.to_owned(), proxy::probes(plan));
    }
    let grace = plan.spec.termination_grace_period_seconds;
    let grace = grace
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(DEFAULT_GRACE);
    let refresh_after = around.credentials.refresh_after;
    Resolved {
        spec,
        probes,
        grace: Duration::from_secs(grace),
        refresh_after,
        problems,
    }
}

fn redirection(plan: &PodPlan, problems: &mut Vec<String>) -> Option<Redirection> {
    if plan.role != PodRole::Sidecar {
        return None;
    }
    let mode = plan.interception_mode();
    let (redirection, unreadable) = Redirection::from_annotations(&mode, &plan.annotations);
    problems.extend(unreadable);
    redirection.map(|mut redirection| {
        redirection.outbound = plan.settings.outbound_port;
        redirection.inbound = plan.settings.inbound_port;
        // Whoever probes the agent must reach it without the proxy.
        redirection
            .excluded_inbound_ports
            .push(probes::status_port(plan));
        redirection
    })
}

/// Whether this pod's containers wait for the proxy, and how long at most.
///
/// Istio's sidecars are native ones, which containers wait for; here they wait for a while, so that a proxy that does not get ready
/// shows what the application does without. `holdApplicationUntilProxyStarts` decides it either way.
fn hold(plan: &PodPlan, around: &Surroundings<'_>) -> Option<Duration> {
    if plan.role != PodRole::Sidecar {
        return None;
    }
    let written = plan.settings.field("holdApplicationUntilProxyStarts");
    match written.as_ref().and_then(serde_json::Value::as_bool) {
        Some(true) => Some(AS_LONG_AS_IT_TAKES),
        Some(false) => None,
        None => around.hold,
    }
}

fn restart_policy(plan: &PodPlan) -> RestartPolicy {
    match plan.spec.restart_policy.as_str() {
        "OnFailure" => RestartPolicy::OnFailure,
        "Never" => RestartPolicy::Never,
        _ => RestartPolicy::Always,
    }
}

fn container_of(
    plan: &PodPlan,
    container: &kube::Container,
    init: bool,
    volumes: &BTreeMap<String, Volume>,
    around: &Surroundings<'_>,
) -> sandbox::Container {
    let sidecar = init && container.restart_policy == "Always";
    let restart = match (init, restart_policy(plan)) {
        _ if sidecar => RestartPolicy::Always,
        // An init container that succeeded is not run again.
        (true, RestartPolicy::Always) => RestartPolicy::OnFailure,
        (_, policy) => policy,
    };
    let (env, missing) = environment::of(plan, container, around);
    let mounts = volumes::mounts(container, &env);
    let missing = missing.or_else(|| volumes::missing(&mounts, volumes));
    let start = match missing {
        Some(message) => Start::Blocked {
            status: "CreateContainerConfigError".to_owned(),
            message,
        },
        None => command(container, &env, around.images),
    };
    let instead = match &start {
        Start::Command(argv) => around.images.instead_of(argv),
        Start::Blocked { .. } => None,
    };
    let mut resolved = sandbox::Container {
        name: container.name.clone(),
        start,
        instead,
        image: container.image.clone(),
        env: with_image_environment(env, container, around.images),
        working_dir: Some(container.working_dir.clone()).filter(|dir| !dir.is_empty()),
        mounts,
        restart,
        sidecar,
        pre_stop: probes::hook(plan, container, probes::Moment::PreStop),
        post_start: probes::hook(plan, container, probes::Moment::PostStart),
        ..sandbox::Container::default()
    };
    if plan.spec.automount_service_account_token != Some(false) {
        resolved.mounts.push(mount(
            ACCOUNT_VOLUME,
            "/var/run/secrets/kubernetes.io/serviceaccount",
        ));
    }
    security::apply(
        &mut resolved,
        plan.spec.security_context.as_ref(),
        container,
    );
    resolved
}

/// `command` as it stands, else what the image stands for.
fn command(container: &kube::Container, env: &[(String, String)], images: &Images) -> Start {
    let expand = |words: &[String]| -> Vec<String> {
        words
            .iter()
            .map(|word| environment::expand(word, env))
            .collect()
    };
    if !container.command.is_empty() {
        let mut argv = expand(&container.command);
        argv.extend(expand(&container.args));
        return Start::Command(argv);
    }
    let Some(rule) = images.find(&container.image) else {
        return Start::Blocked {
            status: "ErrImageNeverPull".to_owned(),
            message: format!(
                "there is no command for image {image}: lateen runs containers as local processes; give the container a \
                 `command`, or start with --image '{image}=COMMAND'",
                image = container.image
            ),
        };
    };
    let mut argv = rule.argv.clone();
    if container.args.is_empty() {
        argv.extend(rule.default_args.iter().cloned());
    } else {
        argv.extend(expand(&container.args));
    }
    Start::Command(argv)
}

fn with_image_environment(
    env: Vec<(String, String)>,
    container: &kube::Container,
    images: &Images,
) -> Vec<(String, String)> {
    let Some(rule) = images.find(&container.image) else {
        return env;
    };
    let given = |name: &str| env.iter().any(|(own, _)| own == name);
    let mut all: Vec<(String, String)> = rule
        .env
        .iter()
        .filter(|(name, _)| !given(name))
        .cloned()
        .collect();
    all.extend(env);
    all
}

fn mount(volume: &str, path: &str) -> Mount {
    Mount {
        volume: volume.to_owned(),
        path: path.to_owned(),
        sub_path: None,
        read_only: true,
    }
}

fn mesh_volumes(plan: &PodPlan, around: &Surroundings<'_>) -> BTreeMap<String, Volume> {
    let root = &around.credentials.root_cert_pem;
    let account = vec![
        file("namespace", &plan.namespace, 0o444),
        file("ca.crt", root, 0o444),
    ];
    let mut volumes = BTreeMap::from([(ACCOUNT_VOLUME.to_owned(), Volume::Files(account))]);
    if plan.role != PodRole::Plain {
        volumes.insert(
            TOKEN_VOLUME.to_owned(),
            Volume::Files(token_files(around.credentials)),
        );
        volumes.insert(
            ROOT_VOLUME.to_owned(),
            Volume::Files(root_files(around.credentials)),
        );
        volumes.insert(RUN_VOLUME.to_owned(), Volume::Empty);
    }
    volumes
}

/// The files of [`TOKEN_VOLUME`].
pub(crate) fn token_files(credentials: &Credentials) -> Vec<File> {
    vec![file("istio-token", &credentials.token, 0o400)]
}

/// The files of [`ROOT_VOLUME`].
pub(crate) fn root_files(credentials: &Credentials) -> Vec<File> {
    vec![file("root-cert.pem", &credentials.root_cert_pem, 0o444)]
}

fn file(path: &str, content: &str, mode: u32) -> File {
    File {
        path: path.to_owned(),
        content: content.as_bytes().to_vec(),
        mode,
    }
}

fn files(plan: &PodPlan) -> BTreeMap<String, String> {
    let host = host_name(plan);
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    hosts.push_str(&format!("{}\t{}\n", plan.ipv4, qualified(plan, &host)));
    if plan.role != PodRole::Plain {
        // The proxy finds its control plane without asking DNS, which it answers itself once it has been configured.
        let names = "istiod.istio-system.svc istiod.istio-system.svc.cluster.local";
        hosts.push_str(&format!("{ISTIOD_V4}\t{names}\n"));
    }
    for alias in &plan.spec.host_aliases {
        hosts.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    let resolver = match plan.spec.dns_policy.as_str() {
        // There is no other resolver to fall back on: the machine's network is out of reach.
        "Default" | "None" => format!("nameserver {DNS_V4}\n"),
        _ => format!(
            "search {ns}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {DNS_V4}\noptions ndots:5\n",
            ns = plan.namespace
        ),
    };
    BTreeMap::from([
        ("/etc/hosts".to_owned(), hosts),
        ("/etc/resolv.conf".to_owned(), resolver),
        ("/etc/hostname".to_owned(), format!("{host}\n")),
    ])
}

fn host_name(plan: &PodPlan) -> String {
    if plan.spec.hostname.is_empty() {
        plan.name.clone()
    } else {
        plan.spec.hostname.clone()
    }
}

/// With a `subdomain` a pod has a full name, which comes first.
fn qualified(plan: &PodPlan, host: &str) -> String {
    let subdomain = &plan.spec.subdomain;
    if subdomain.is_empty() {
        return host.to_owned();
    }
    format!(
        "{host}.{subdomain}.{}.svc.cluster.local\t{host}",
        plan.namespace
    )
}

/// `metadata.uid`: stable, and in the form of one.
fn uid(plan: &PodPlan) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &plan.namespace, &plan.name).hash(&mut hasher);
        hasher.finish()
    };
    let (a, b) = (half(0), half(1));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// The value of a downward-API field.
fn field(plan: &PodPlan, path: &str) -> Option<String> {
    let from_map = |map: &BTreeMap<String, String>, rest: &str| {
        let key = rest.strip_prefix("['")?.strip_suffix("']")?;
        Some(map.get(key).cloned().unwrap_or_default())
    };
    let value = match path {
        "metadata.name" => plan.name.clone(),
        "metadata.namespace" => plan.namespace.clone(),
        "metadata.uid" => uid(plan),
        "metadata.labels" => quoted_lines(&plan.labels),
        "metadata.annotations" => quoted_lines(&plan.annotations),
        "spec.nodeName" => NODE_NAME.to_owned(),
        "spec.serviceAccountName" => plan.service_account.clone(),
        "status.hostIP" | "status.hostIPs" => NODE_V4.to_string(),
        "status.podIP" => plan.ipv4.to_string(),
        "status.podIPs" => {
            let v6 = plan.ipv6.map(|ip| format!(",{ip}")).unwrap_or_default();
            format!("{}{v6}", plan.ipv4)
        }
        _ => {
            return path
                .strip_prefix("metadata.labels")
                .and_then(|rest| from_map(&plan.labels, rest))
                .or_else(|| {
                    from_map(
                        &plan.annotations,
                        path.strip_prefix("metadata.annotations")?,
                    )
                });
        }
    };
    Some(value)
}

/// A map as the downward API writes it to a file.
fn quoted_lines(map: &BTreeMap<String, String>) -> String {
    map.iter()
        .map(|(key, value)| format!("{key}={value:?}\n"))
        .collect()
}
