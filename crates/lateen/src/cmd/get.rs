//! `lateen get`: pods, services and every configured object, in kubectl's tables.

mod workloads;

use anyhow::{Context, Result, bail};
use lateen_api::kube::Service;
use lateen_api::meta::Kind;
use lateen_api::{Resource, Spec, nearest};
use lateen_sources::defaults;
use lateen_sources::files::Reader;
use lateen_sources::plan::{ContainerState, PodState, plan};
use serde_json::{Value, json};

use crate::cli::{GetArgs, GetOutput};
use crate::output::{self, now, print_json, print_yaml};
use crate::selector::Selector;
use crate::state::StateDir;
use crate::table::{Table, age};

pub(crate) fn run(state: &StateDir, namespace: Option<&str>, args: &GetArgs) -> Result<()> {
    let view = View::open(state, namespace, args)?;
    let kinds = kinds(&args.kinds)?;
    let mut texts = Vec::new();
    let mut objects = Vec::new();
    for kind in &kinds {
        let found = view.select(*kind);
        if found.is_empty() && args.name.is_none() {
            continue;
        }
        match args.output {
            GetOutput::Table | GetOutput::Wide => texts.push(view.table(*kind, &found).render()),
            GetOutput::Name => texts.push(found.iter().map(|o| o.slashed(*kind)).collect()),
            GetOutput::Json | GetOutput::Yaml => objects.extend(found.iter().map(Object::json)),
        }
        if found.is_empty() {
            let name = args.name.as_deref().unwrap_or_default();
            bail!(
                "no {} `{name}` in namespace {}",
                kind.info().plural,
                view.namespace()
            );
        }
    }
    match args.output {
        GetOutput::Json => print_json(&list(objects, args.name.is_some())),
        GetOutput::Yaml => print_yaml(&list(objects, args.name.is_some())),
        _ if texts.is_empty() => {
            eprintln!("No resources found in {} namespace.", view.namespace());
            Ok(())
        }
        GetOutput::Name => output::print(&texts.concat()),
        GetOutput::Table | GetOutput::Wide => output::print(&texts.join("\n")),
    }
}

/// The kinds a user listed, by any of their names.
fn kinds(text: &str) -> Result<Vec<Kind>> {
    text.split(',')
        .map(|name| kind(name.trim()))
        .collect::<Result<Vec<_>>>()
        .map(|mut kinds| {
            if text == "all" {
                kinds = vec![
                    Kind::Pod,
                    Kind::Service,
                    Kind::Deployment,
                    Kind::StatefulSet,
                    Kind::DaemonSet,
                    Kind::CronJob,
                    Kind::Job,
                ];
            }
            kinds
        })
}

fn kind(name: &str) -> Result<Kind> {
    let lower = name.to_ascii_lowercase();
    if lower == "all" {
        return Ok(Kind::Pod);
    }
    let names = |kind: &Kind| {
        let info = kind.info();
        let singular = info.name.to_ascii_lowercase();
        let qualified = format!("{}.{}", info.plural, info.group);
        [
            vec![singular, qualified, info.plural.to_owned()],
            info.short_names.iter().map(|s| (*s).to_owned()).collect(),
        ]
        .concat()
    };
    if let Some(kind) = Kind::ALL.iter().find(|kind| names(kind).contains(&lower)) {
        return Ok(*kind);
    }
    let all: Vec<String> = Kind::ALL.iter().flat_map(names).collect();
    let known: Vec<&str> = all.iter().map(String::as_str).collect();
    match nearest(&lower, &known) {
        Some(near) => bail!("there is no kind `{name}`; did you mean `{near}`?"),
        None => bail!(
            "there is no kind `{name}`; try pods, services, virtualservices, destinationrules, gateways, …"
        ),
    }
}

/// An object: configured, or a pod that runs.
enum Object<'a> {
    Configured(&'a Resource),
    Running(&'a PodState),
}

impl Object<'_> {
    fn namespace(&self) -> &str {
        match self {
            Self::Configured(resource) => resource.namespace(),
            Self::Running(pod) => &pod.namespace,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Configured(resource) => resource.name(),
            Self::Running(pod) => &pod.name,
        }
    }

    fn slashed(&self, kind: Kind) -> String {
        let info = kind.info();
        let group = if info.group.is_empty() {
            String::new()
        } else {
            format!(".{}", info.group)
        };
        format!(
            "{}{group}/{}\n",
            info.name.to_ascii_lowercase(),
            self.name()
        )
    }

    fn json(&self) -> Value {
        match self {
            Self::Configured(resource) => resource.origin.root.to_value().to_json(),
            Self::Running(pod) => json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": pod.name,
                    "namespace": pod.namespace,
                    "labels": pod.labels,
                    "annotations": pod.annotations,
                    "ownerReferences": [{"kind": pod.owner.kind, "name": pod.owner.name}],
                },
                "spec": {
                    "serviceAccountName": pod.service_account,
                    "containers": pod.containers.iter().map(|c| json!({"name": c.name})).collect::<Vec<_>>(),
                },
                "status": {
                    "phase": format!("{:?}", pod.phase),
                    "podIP": pod.ipv4,
                    "podIPs": std::iter::once(pod.ipv4.to_string())
                        .chain(pod.ipv6.map(|ip| ip.to_string()))
                        .map(|ip| json!({"ip": ip}))
                        .collect::<Vec<_>>(),
                    "conditions": [{"type": "Ready", "status": if pod.ready { "True" } else { "False" }}],
                    "containerStatuses": pod.containers.iter().map(container_status).collect::<Vec<_>>(),
                },
            }),
        }
    }
}

fn container_status(container: &ContainerState) -> Value {
    let mut status = json!({
        "name": container.name, "ready": container.ready, "restartCount": container.restarts, "state": container.status,
    });
    if !container.message.is_empty() {
        status["message"] = container.message.clone().into();
    }
    status
}

fn list(mut objects: Vec<Value>, single: bool) -> Value {
    if single && objects.len() == 1 {
        return objects.remove(0);
    }
    json!({"apiVersion": "v1", "kind": "List", "items": objects})
}

/// What is looked at: the running mesh, or files.
struct View<'a> {
    args: &'a GetArgs,
    namespace: Option<String>,
    selector: Selector,
    resources: Vec<Resource>,
    pods: Vec<PodState>,
    cluster_ips: std::sync::Arc<lateen_sources::plan::ClusterIps>,
    age: u64,
}

impl<'a> View<'a> {
    fn open(state: &StateDir, namespace: Option<&str>, args: &'a GetArgs) -> Result<Self> {
        let running = if args.filename.is_empty() {
            Some(state.expect_running()?)
        } else {
            None
        };
        let (paths, default) = match &running {
            Some(up) => (up.paths.clone(), up.namespace.clone()),
            None => (args.filename.clone(), "default".to_owned()),
        };
        let loaded = Reader::new(paths, default.as_str())
            .read()
            .unwrap_or_default();
        let resources = defaults::with_defaults(&loaded.resources.to_vec());
        let (plan, _) = plan(&resources, false);
        let pods = if running.is_some() {
            state.read_pods()?
        } else {
            Vec::new()
        };
        let selector = args.selector.as_deref().unwrap_or_default().parse();
        Ok(Self {
            args,
            namespace: namespace
                .map(str::to_owned)
                .or_else(|| (!args.all_namespaces).then_some(default)),
            selector: selector.context("reading the selector")?,
            resources,
            pods,
            cluster_ips: plan.cluster_ips,
            age: running.map_or(0, |up| now().unsigned_abs().saturating_sub(up.started_at)),
        })
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("any")
    }

    fn select(&self, kind: Kind) -> Vec<Object<'_>> {
        let labels = |object: &Object<'_>| match object {
            Object::Configured(resource) => self.selector.matches(&resource.meta.labels),
            Object::Running(pod) => self.selector.matches(&pod.labels),
        };
        let running = self
            .pods
            .iter()
            .filter(|_| kind == Kind::Pod)
            .map(Object::Running);
        let files_only = !self.args.filename.is_empty();
        let configured = self
            .resources
            .iter()
            .filter(|r| r.kind == kind && (kind != Kind::Pod || files_only))
            .map(Object::Configured);
        let mut found: Vec<Object<'_>> = running
            .chain(configured)
            .filter(|o| {
                o.namespace().is_empty()
                    || self.namespace.as_deref().is_none_or(|n| n == o.namespace())
            })
            .filter(|o| self.args.name.as_deref().is_none_or(|n| n == o.name()))
            .filter(labels)
            .collect();
        found.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
        found
    }

    fn table(&self, kind: Kind, objects: &[Object<'_>]) -> Table {
        let wide = self.args.output == GetOutput::Wide;
        let all = self.namespace.is_none() && kind.info().scope == lateen_api::Scope::Namespaced;
        let mut header = columns(kind, wide);
        if all {
            header.insert(0, "NAMESPACE");
        }
        let rows = objects.iter().map(|object| {
            let mut cells = match object {
                Object::Running(pod) => pod_cells(pod, wide),
                Object::Configured(resource) => self.cells(resource, wide),
            };
            if all {
                cells.insert(0, object.namespace().to_owned());
            }
            cells
        });
        Table::from_parts(&header, rows.collect())
    }

    fn cells(&self, resource: &Resource, wide: bool) -> Vec<String> {
        let join = |list: &[String]| list.join(",");
        let mut cells = vec![resource.meta.name.clone()];
        match &*resource.spec {
            Spec::Service(service) => cells.extend(self.service_cells(resource, service)),
            Spec::VirtualService(vs) => cells.extend([join(&vs.gateways), join(&vs.hosts)]),
            Spec::DestinationRule(dr) => cells.push(dr.host.clone()),
            Spec::ServiceEntry(se) => cells.extend([
                join(&se.hosts),
                format!("{:?}", se.location),
                format!("{:?}", se.resolution),
            ]),
            Spec::Namespace(_) => cells.push("Active".to_owned()),
            _ => cells.extend(workloads::cells(resource, &self.pods)),
        }
        cells.push(age(self.age));
        if wide && let Spec::Service(service) = &*resource.spec {
            let pairs: Vec<String> = service
                .spec
                .selector
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            cells.push(if pairs.is_empty() {
                "<none>".to_owned()
            } else {
                pairs.join(",")
            });
        }
        cells
    }

    fn service_cells(&self, resource: &Resource, service: &Service) -> [String; 4] {
        let spec = &service.spec;
        let kind = if spec.r#type.is_empty() {
            "ClusterIP"
        } else {
            spec.r#type.as_str()
        };
        let key = (resource.meta.namespace.clone(), resource.meta.name.clone());
        let ip = match self.cluster_ips.get(&key).and_then(|ips| ips.first()) {
            Some(ip) => ip.to_string(),
            None if kind == "ExternalName" => "<none>".to_owned(),
            None => "None".to_owned(),
        };
        let external = if kind == "ExternalName" {
            spec.external_name.clone()
        } else {
            "<none>".to_owned()
        };
        let ports: Vec<String> = spec
            .ports
            .iter()
            .map(|p| {
                let protocol = if p.protocol.is_empty() {
                    "TCP"
                } else {
                    p.protocol.as_str()
                };
                format!("{}/{protocol}", p.port)
            })
            .collect();
        [kind.to_owned(), ip, external, ports.join(",")]
    }
}

fn columns(kind: Kind, wide: bool) -> Vec<&'static str> {
    let mut columns = vec!["NAME"];
    columns.extend(match kind {
        Kind::Pod => &["READY", "STATUS", "RESTARTS"] as &[&str],
        Kind::Service => &["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)"],
        Kind::VirtualService => &["GATEWAYS", "HOSTS"],
        Kind::DestinationRule => &["HOST"],
        Kind::ServiceEntry => &["HOSTS", "LOCATION", "RESOLUTION"],
        Kind::Namespace => &["STATUS"],
        workload => workloads::columns(workload),
    });
    columns.push("AGE");
    match kind {
        Kind::Pod if wide => columns.extend(["IP", "SERVICE ACCOUNT"]),
        Kind::Service if wide => columns.push("SELECTOR"),
        _ => {}
    }
    columns
}

fn pod_cells(pod: &PodState, wide: bool) -> Vec<String> {
    let ready = pod.containers.iter().filter(|c| c.ready).count();
    let restarts: u32 = pod.containers.iter().map(|c| c.restarts).sum();
    let started = i64::try_from(pod.started_at_ms / 1000).unwrap_or(0);
    let mut cells = vec![
        pod.name.clone(),
        format!("{ready}/{}", pod.containers.len()),
        status(pod),
        restarts.to_string(),
        age(now().saturating_sub(started).unsigned_abs()),
    ];
    if wide {
        cells.extend([pod.ipv4.to_string(), pod.service_account.clone()]);
    }
    cells
}

/// kubectl's STATUS: the phase, unless a container says more.
fn status(pod: &PodState) -> String {
    if pod.terminating {
        return "Terminating".to_owned();
    }
    let telling = pod
        .containers
        .iter()
        .map(|c| c.status.as_str())
        .find(|s| !matches!(*s, "" | "Running" | "Waiting" | "Completed"));
    match (pod.phase, telling) {
        (lateen_sources::plan::Phase::Succeeded, _) => "Completed".to_owned(),
        (_, Some(status)) => status.to_owned(),
        (phase, None) => format!("{phase:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_every_name_kubectl_knows() {
        for name in [
            "vs",
            "VirtualService",
            "virtualservices",
            "virtualservices.networking.istio.io",
        ] {
            assert_eq!(kind(name).expect(name), Kind::VirtualService);
        }
        assert_eq!(kinds("po,svc").expect("known"), [Kind::Pod, Kind::Service]);
        assert!(kinds("all").expect("known").contains(&Kind::Deployment));
    }

    #[test]
    fn a_misspelt_kind_is_answered_with_the_nearest() {
        let error = kind("virtualservcies").expect_err("unknown").to_string();
        assert!(error.contains("virtualservices"), "{error}");
    }
}
