//! What Telemetry objects and MeshConfig's default providers name that there is not: nothing is logged, counted or traced for it, which
//! nobody would see.

use lateen_api::mesh::ExtensionProvider;
use lateen_api::telemetry::{ProviderRef, Telemetry};
use lateen_api::{Diagnostic, KindSpec};

use super::Snapshot;
use super::objects::Objects;
use crate::diagnostics::{TELEMETRY_PROVIDER, on_resource};

/// What a provider is named for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Logs,
    Metrics,
    Traces,
}

/// Providers that cannot be used.
pub(super) fn findings(snapshot: &Snapshot, resources: &Objects) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for resource in resources.of_kind(Telemetry::KIND) {
        let Some(spec) = resource.spec_as::<Telemetry>() else {
            continue;
        };
        let mut check = |field: String, named: &[ProviderRef], usage: Use| {
            for (index, provider) in named.iter().enumerate() {
                let Err(why) = usable(snapshot, &provider.name, usage) else {
                    continue;
                };
                let field = format!("{field}.providers[{index}].name");
                let found = on_resource(TELEMETRY_PROVIDER, resource, &field, why);
                out.push(found.effect(usage.effect()).fix(usage.fix()));
            }
        };
        for (index, entry) in spec.access_logging.iter().enumerate() {
            let field = format!("spec.accessLogging[{index}]");
            check(field, &entry.providers, Use::Logs);
        }
        for (index, entry) in spec.metrics.iter().enumerate() {
            check(
                format!("spec.metrics[{index}]"),
                &entry.providers,
                Use::Metrics,
            );
        }
        for (index, entry) in spec.tracing.iter().enumerate() {
            check(
                format!("spec.tracing[{index}]"),
                &entry.providers,
                Use::Traces,
            );
        }
    }
    out
}

impl Use {
    const fn effect(self) -> &'static str {
        match self {
            Self::Logs => "it logs nothing",
            Self::Metrics => "it reports no metrics",
            Self::Traces => "no spans are made",
        }
    }

    const fn fix(self) -> &'static str {
        match self {
            Self::Logs => {
                "declare it in MeshConfig's `extensionProviders`, or name the built-in `envoy`"
            }
            Self::Metrics => {
                "declare it in MeshConfig's `extensionProviders`, or name the built-in `prometheus`"
            }
            Self::Traces => {
                "declare it in MeshConfig's `extensionProviders`, with a service of the mesh"
            }
        }
    }

    /// The name that needs no declaration.
    const fn built_in(self) -> Option<&'static str> {
        match self {
            Self::Logs => Some("envoy"),
            Self::Metrics => Some("prometheus"),
            Self::Traces => None,
        }
    }
}

/// Whether a provider can be used for something, or why not.
fn usable(snapshot: &Snapshot, name: &str, usage: Use) -> Result<(), String> {
    let providers = &snapshot.mesh().extension_providers;
    let found = providers
        .iter()
        .find(|provider| provider.name.eq_ignore_ascii_case(name));
    let Some(provider) = found else {
        if usage.built_in() == Some(name) {
            return Ok(());
        }
        let known: Vec<&str> = providers.iter().map(|known| known.name.as_str()).collect();
        return Err(match known.as_slice() {
            [] => format!("MeshConfig has no provider `{name}`, and no provider at all"),
            _ => format!(
                "MeshConfig has no provider `{name}`; it has {}",
                known.join(", ")
            ),
        });
    };
    match service(provider, usage) {
        None => Err(format!(
            "the provider `{name}` is not one of {}",
            match usage {
                Use::Logs => "access logs",
                Use::Metrics => "metrics",
                Use::Traces => "traces",
            }
        )),
        Some(None) => Ok(()),
        Some(Some(service)) => snapshot
            .provider_service(service)
            .map(|_| ())
            .map_err(|why| format!("the provider `{name}` cannot be reached: {why}")),
    }
}

/// The service of a provider, if it is one for this use and has one.
fn service(provider: &ExtensionProvider, usage: Use) -> Option<Option<&str>> {
    match usage {
        Use::Metrics => provider.prometheus.as_ref().map(|_| None),
        Use::Logs => {
            let file = provider.envoy_file_access_log.as_ref().map(|_| None);
            let http = || Some(Some(provider.envoy_http_als.as_ref()?.service.as_str()));
            let tcp = || Some(Some(provider.envoy_tcp_als.as_ref()?.service.as_str()));
            let otel = || Some(Some(provider.envoy_otel_als.as_ref()?.service.as_str()));
            file.or_else(http).or_else(tcp).or_else(otel)
        }
        Use::Traces => {
            let zipkin = || Some(Some(provider.zipkin.as_ref()?.service.as_str()));
            let otel = || Some(Some(provider.opentelemetry.as_ref()?.service.as_str()));
            let datadog = || Some(Some(provider.datadog.as_ref()?.service.as_str()));
            let skywalking = || Some(Some(provider.skywalking.as_ref()?.service.as_str()));
            zipkin().or_else(otel).or_else(datadog).or_else(skywalking)
        }
    }
}
