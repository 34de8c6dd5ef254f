//! Telemetry objects: access logs, metrics and traces of a workload, merged mesh, namespace and workload.
//!
//! Source: Istio, `model/telemetry.go` (`applicableTelemetries`, `mergeLogs`).

mod metrics;
mod tracing;

pub(crate) use tracing::legacy_tracer;

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::mesh::{EnvoyFileAccessLogProvider, ExtensionProvider};
use lateen_api::telemetry::{AccessLogging, Telemetry, WorkloadMode};
use lateen_api::value::Value;

use crate::attachment::{Attachment, Workload};
use crate::mesh::{
    AccessLog, ClassLogs, ClassStats, ClassTracing, Collector, LogFormat, LogSink, Mesh,
};
use crate::names;
use crate::shared::Shared;
use crate::snapshot::Named;

/// The provider every mesh has: Envoy's log on standard output.
const BUILT_IN: &str = "envoy";
const STDOUT: &str = "/dev/stdout";

/// What the objects that concern a workload say, the mesh's first.
type Levels<'a> = Vec<&'a [AccessLogging]>;

/// What Telemetry objects and MeshConfig's providers make of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Workloads {
    /// None if no Telemetry and no default provider says anything, so that MeshConfig's own logs hold.
    pub(crate) logs: Option<ClassLogs>,
    pub(crate) stats: ClassStats,
    pub(crate) tracing: ClassTracing,
}

/// What they make of a workload; none if that is what every workload has. `lookup` finds the host name of a service as a provider names it.
pub(crate) fn of_workload(
    by_namespace: &BTreeMap<String, Vec<Shared<Named<Telemetry>>>>,
    mesh: &Mesh,
    workload: &Workload<'_>,
    lookup: Lookup<'_>,
) -> Option<Workloads> {
    let objects = applicable(by_namespace, &mesh.root_namespace, workload);
    let found = Workloads {
        logs: logs(&objects, mesh, lookup),
        stats: metrics::stats(&objects, mesh),
        tracing: tracing::tracing(&objects, mesh, workload, lookup),
    };
    (found != Workloads::default()).then_some(found)
}

/// The provider of a name, which is found without regard to case. Source: Istio, `fetchProvider`.
fn provider<'a>(mesh: &'a Mesh, name: &str) -> Option<&'a ExtensionProvider> {
    let mut providers = mesh.extension_providers.iter();
    providers.find(|provider| provider.name.eq_ignore_ascii_case(name))
}

fn logs(objects: &[&Telemetry], mesh: &Mesh, lookup: Lookup<'_>) -> Option<ClassLogs> {
    let levels: Levels<'_> = objects
        .iter()
        .map(|spec| spec.access_logging.as_slice())
        .filter(|logging| !logging.is_empty())
        .collect();
    if levels.is_empty() && mesh.default_log_providers.is_empty() {
        return None;
    }
    let of = |mode| {
        merge(&levels, &mesh.default_log_providers, mode)
            .into_iter()
            .filter_map(|(name, filter)| log(mesh, name, filter, lookup))
            .collect()
    };
    Some(ClassLogs {
        client: of(WorkloadMode::Client),
        server: of(WorkloadMode::Server),
    })
}

/// The objects that concern a workload: the mesh's, its namespace's, and those that select it, in the order in which they count.
fn applicable<'a>(
    by_namespace: &'a BTreeMap<String, Vec<Shared<Named<Telemetry>>>>,
    root: &str,
    workload: &Workload<'_>,
) -> Vec<&'a Telemetry> {
    let of = |namespace: &str| by_namespace.get(namespace).map_or(&[][..], Vec::as_slice);
    let wide = |namespace: &str| of(namespace).iter().find(|object| !selects(&object.spec));
    let own = (workload.namespace != root)
        .then(|| wide(workload.namespace))
        .flatten();
    let selected = of(workload.namespace).iter().filter(|object| {
        let attachment = Attachment {
            namespace: &object.object.namespace,
            selector: object.spec.selector.as_ref(),
            target_ref: object.spec.target_ref.as_ref(),
            target_refs: &object.spec.target_refs,
        };
        selects(&object.spec) && attachment.includes(workload)
    });
    wide(root)
        .into_iter()
        .chain(own)
        .chain(selected)
        .map(|object| &object.spec)
        .collect()
}

/// Whether an object is for some workloads of its namespace only.
fn selects(spec: &Telemetry) -> bool {
    let labels = spec
        .selector
        .as_ref()
        .map(|selector| &selector.match_labels);
    labels.is_some_and(|labels| !labels.is_empty())
        || spec.target_ref.is_some()
        || !spec.target_refs.is_empty()
}

/// The providers that log, each with its filter.
fn merge<'a>(
    levels: &Levels<'a>,
    defaults: &'a [String],
    mode: WorkloadMode,
) -> BTreeMap<&'a str, Option<&'a str>> {
    let defaults: Vec<&str> = defaults.iter().map(String::as_str).collect();
    if levels.is_empty() {
        return defaults.into_iter().map(|name| (name, None)).collect();
    }
    let (in_scope, filters) = in_scope(levels, &defaults, mode);
    let mut out = BTreeMap::new();
    let mut parent = defaults;
    for entry in levels.iter().flat_map(|level| level.iter()) {
        let named = names(entry);
        if !named.is_empty() {
            parent = named;
        }
        if !applies(entry, mode) {
            continue;
        }
        for name in parent
            .iter()
            .copied()
            .filter(|name| in_scope.contains(name))
        {
            if entry.disabled == Some(true) {
                out.remove(name);
            } else {
                out.insert(name, filters.get(name).copied().flatten());
            }
        }
    }
    out
}

/// The providers of the last level that names any, and the filter each was last given.
fn in_scope<'a>(
    levels: &Levels<'a>,
    defaults: &[&'a str],
    mode: WorkloadMode,
) -> (BTreeSet<&'a str>, BTreeMap<&'a str, Option<&'a str>>) {
    let mut scope: BTreeSet<&str> = defaults.iter().copied().collect();
    let mut filters = BTreeMap::new();
    for level in levels {
        let mut named: BTreeSet<&str> = BTreeSet::new();
        for entry in level.iter().filter(|entry| applies(entry, mode)) {
            let filter = entry
                .filter
                .as_ref()
                .map(|filter| filter.expression.as_str());
            for name in names(entry) {
                named.insert(name);
                filters.insert(name, filter.filter(|text| !text.is_empty()));
            }
        }
        if !named.is_empty() {
            scope = named;
        }
    }
    (scope, filters)
}

fn names(entry: &AccessLogging) -> Vec<&str> {
    let providers = entry.providers.iter();
    providers.map(|provider| provider.name.as_str()).collect()
}

fn applies(entry: &AccessLogging, mode: WorkloadMode) -> bool {
    let wanted = entry.r#match.as_ref().map(|selector| selector.mode);
    wanted.is_none_or(|wanted| wanted == WorkloadMode::ClientAndServer || wanted == mode)
}

/// The log of a provider; none if it is none of logs, or nobody knows where its service is.
fn log(mesh: &Mesh, name: &str, filter: Option<&str>, lookup: Lookup<'_>) -> Option<AccessLog> {
    let file = |settings: &EnvoyFileAccessLogProvider| LogSink::File {
        path: match settings.path.as_str() {
            "" => STDOUT.to_owned(),
            path => path.to_owned(),
        },
        format: format(mesh, name, settings),
        omit_empty: settings.omit_empty_values,
    };
    let found = provider(mesh, name);
    let sink = match found {
        None if name == BUILT_IN => file(&EnvoyFileAccessLogProvider::default()),
        None => return None,
        Some(found) => {
            if let Some(settings) = &found.envoy_file_access_log {
                file(settings)
            } else if let Some(settings) = &found.envoy_http_als {
                let to = collector(&settings.service, settings.port, lookup)?;
                LogSink::Http(to, settings.clone())
            } else if let Some(settings) = &found.envoy_tcp_als {
                let to = collector(&settings.service, settings.port, lookup)?;
                LogSink::Tcp(to, settings.clone())
            } else {
                let settings = found.envoy_otel_als.as_ref()?;
                let to = collector(&settings.service, settings.port, lookup)?;
                LogSink::OpenTelemetry(to, settings.clone())
            }
        }
    };
    Some(AccessLog {
        sink,
        filter: filter.map(str::to_owned),
    })
}

/// Finds the host name of a service as a provider names it.
type Lookup<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// Where something is sent; nowhere if there is no such service.
fn collector(service: &str, port: u32, lookup: Lookup<'_>) -> Option<Collector> {
    let hostname = lookup(service).ok()?;
    Some(Collector {
        cluster: names::outbound_cluster("", &hostname, port),
        hostname,
    })
}

/// The provider's own format; for the built-in one without a format, MeshConfig's.
fn format(mesh: &Mesh, name: &str, settings: &EnvoyFileAccessLogProvider) -> LogFormat {
    let default = || LogFormat::Text(crate::accesslog::DEFAULT_TEXT.to_owned());
    match &settings.log_format {
        None if name == BUILT_IN => mesh.log_format.clone(),
        None => default(),
        Some(format) => match &format.labels {
            Some(labels) => LogFormat::Json(fields(labels)),
            None => match format.text.as_deref().unwrap_or_default() {
                "" => default(),
                // Istio ends a format that does not end a line.
                text => LogFormat::Text(format!("{}\n", text.strip_suffix('\n').unwrap_or(text))),
            },
        },
    }
}

/// The fields of a JSON line: texts, at the first level.
fn fields(labels: &Value) -> BTreeMap<String, String> {
    let Value::Object(labels) = labels else {
        return BTreeMap::new();
    };
    let text = |(key, value): (&String, &Value)| match value {
        Value::String(text) => Some((key.clone(), text.clone())),
        _ => None,
    };
    labels.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests;
