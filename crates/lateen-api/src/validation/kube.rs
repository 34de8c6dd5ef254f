//! Kubernetes kinds: the few of the API server's rules whose breach would make a mesh of manifests do something else.

use super::{Report, common, forms};
use crate::kind::Spec;
use crate::kube::{Container, LabelSelector, PodSpec, PodTemplateSpec, ServiceSpec};
use crate::labels;
use crate::value::IntOrString;

pub(crate) fn check(spec: &Spec, report: &mut Report<'_>) {
    match spec {
        Spec::Service(service) => check_service(&service.spec, report),
        Spec::Pod(pod) => pod_spec(&pod.spec, report),
        Spec::Deployment(it) => controller(&it.spec.selector, &it.spec.template, report),
        Spec::StatefulSet(it) => controller(&it.spec.selector, &it.spec.template, report),
        Spec::DaemonSet(it) => controller(&it.spec.selector, &it.spec.template, report),
        Spec::ReplicaSet(it) => controller(&it.spec.selector, &it.spec.template, report),
        Spec::Job(job) => report.key("template", |report| template(&job.spec.template, report)),
        Spec::CronJob(cron) => report.key("jobTemplate", |report| {
            report.key("spec", |report| {
                report.key("template", |report| {
                    template(&cron.spec.job_template.spec.template, report)
                });
            });
        }),
        _ => {}
    }
}

fn check_service(spec: &ServiceSpec, report: &mut Report<'_>) {
    const TYPES: [&str; 5] = ["", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    if !TYPES.contains(&spec.r#type.as_str()) {
        let message = format!("`{}` is not a type of service", spec.r#type);
        report.key("type", |report| {
            report.error_with(message, format!("known are {}", TYPES[1..].join(", ")))
        });
    }
    if spec.r#type == "ExternalName" {
        if spec.external_name.is_empty() {
            report.error("a service of the type ExternalName needs `externalName`");
        }
    } else if spec.ports.is_empty() && spec.cluster_ip != "None" {
        report.error("a service needs at least one entry in `ports`");
    }
    common::labels("selector", &spec.selector, report);
    report.key("ports", |report| {
        for (index, port) in spec.ports.iter().enumerate() {
            let earlier = &spec.ports[..index];
            report.index(index, |report| {
                if spec.ports.len() > 1 && port.name.is_empty() {
                    report.error("each of several ports needs a `name`");
                }
                if !port.name.is_empty() && earlier.iter().any(|other| other.name == port.name) {
                    report.error_at("name", format!("the name `{}` is used twice", port.name));
                }
                if !port.name.is_empty() {
                    common::port_name(&port.name, report);
                }
                let same = |other: &&crate::kube::ServicePort| {
                    other.port == port.port
                        && transport(&other.protocol) == transport(&port.protocol)
                };
                if earlier.iter().any(|other| same(&other)) {
                    report.error_at("port", format!("the port {} is used twice", port.port));
                }
                if port.port == 0 {
                    report.error_at("port", forms::PORT);
                }
                check_transport(&port.protocol, report);
                target_port(port.target_port.as_ref(), report);
            });
        }
    });
}

fn transport(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

fn check_transport(protocol: &str, report: &mut Report<'_>) {
    if !matches!(protocol, "" | "TCP" | "UDP" | "SCTP") {
        report.key("protocol", |report| {
            report.error_with(
                format!("`{protocol}` is not a transport: TCP, UDP or SCTP"),
                "the application protocol goes into `appProtocol`, or in front of the name: http-web",
            );
        });
    }
}

fn target_port(port: Option<&IntOrString>, report: &mut Report<'_>) {
    if let Some(IntOrString::Int(number)) = port
        && !(1..=65535).contains(number)
    {
        report.error_at("targetPort", forms::PORT);
    }
}

fn controller(selector: &LabelSelector, pods: &PodTemplateSpec, report: &mut Report<'_>) {
    if *selector == LabelSelector::default() {
        report.error_with(
            "`selector` is required",
            "write `selector: {matchLabels: {…}}` with labels of the template",
        );
    } else if !labels::selects(selector, &pods.metadata.labels) {
        report.error_with(
            "the selector does not select the pods of its own template",
            "give `template.metadata.labels` the labels of `selector.matchLabels`",
        );
    }
    report.key("template", |report| template(pods, report));
}

fn template(pods: &PodTemplateSpec, report: &mut Report<'_>) {
    report.key("metadata", |report| {
        common::labels("labels", &pods.metadata.labels, report)
    });
    report.key("spec", |report| pod_spec(&pods.spec, report));
}

fn pod_spec(spec: &PodSpec, report: &mut Report<'_>) {
    if spec.containers.is_empty() {
        report.error("a pod needs at least one entry in `containers`");
    }
    for (key, containers) in [
        ("initContainers", &spec.init_containers),
        ("containers", &spec.containers),
    ] {
        report.each(key, containers, container);
    }
    let all: Vec<&str> = spec
        .init_containers
        .iter()
        .chain(&spec.containers)
        .map(|container| container.name.as_str())
        .collect();
    let double = all
        .iter()
        .enumerate()
        .find(|(at, name)| all[..*at].contains(name));
    if let Some((_, name)) = double.filter(|(_, name)| !name.is_empty()) {
        report.error_at("containers", format!("two containers are called `{name}`"));
    }
}

fn container(report: &mut Report<'_>, container: &Container) {
    if container.name.is_empty() {
        report.error("`name` is required");
    } else if !forms::is_dns_label(&container.name) {
        let message = format!(
            "`{}` is not a container's name: it has to be a DNS label",
            container.name
        );
        report.error_at("name", message);
    }
    report.each("ports", &container.ports, |report, port| {
        if port.container_port == 0 {
            report.error_at("containerPort", forms::PORT);
        }
        check_transport(&port.protocol, report);
    });
}
