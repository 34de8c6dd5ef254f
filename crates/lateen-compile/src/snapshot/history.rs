//! Whom a change concerns: what differs from one configuration to the next, and what a proxy's configuration was made of.
//!
//! A snapshot knows the last steps that led to it. Whoever was compiled for at one of those asks whether any step since then touched
//! what was read; nobody has to look at what the others have. Pods are not in it: what follows from them is compared by itself.
//!
//! Every step errs towards telling: what is not known to concern somebody in particular concerns everyone.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_api::mesh::ExtensionProvider;
use lateen_api::{Kind, Resource};

use crate::mesh::Mesh;
use crate::shared::Shared;

use super::base::Base;
use super::reuse::Reuse;
use super::{Config, Inputs, VirtualServiceConfig};

/// Steps that are remembered. Who is further behind is compiled for.
const STEPS: usize = 64;

/// What is seen from somewhere: what a proxy's configuration depends on besides the policies for its own workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Whether objects of any namespace may be seen.
    pub(crate) everything: bool,
    /// The namespaces whose objects may be seen.
    pub(crate) namespaces: BTreeSet<String>,
    /// The names that traffic is led to, whatever namespace knows them; also those that nobody knows yet.
    pub(crate) hosts: BTreeSet<String>,
}

/// A proxy, as far as it matters to what it reads.
pub(crate) struct Reader<'a> {
    /// What it sees.
    pub(crate) reads: &'a Reads,
    /// Its own namespace, whose policies are for it.
    pub(crate) namespace: &'a str,
    /// The namespaces of the services that it is behind.
    pub(crate) behind: &'a [&'a str],
    /// Whether its own settings name services, which are found by name.
    pub(crate) names_services: bool,
}

/// What differs from one configuration to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Namespaces in which something that others see is not the same: services, virtual services, rules.
    seen: BTreeSet<String>,
    /// The names of services that are not the same.
    hosts: BTreeSet<String>,
    /// Namespaces in which something that is for their own workloads is not the same: policies, Telemetry, Sidecars.
    own: BTreeSet<String>,
}

impl Touched {
    fn concerns(&self, reader: &Reader<'_>) -> bool {
        let reads = reader.reads;
        let sees = |namespace: &String| {
            namespace == reader.namespace
                || reads.namespaces.contains(namespace)
                || reader.behind.contains(&namespace.as_str())
        };
        self.own.contains(reader.namespace)
            || (reads.everything && !self.seen.is_empty())
            || self.seen.iter().any(sees)
            || (reader.names_services && !self.hosts.is_empty())
            || self.hosts.iter().any(|host| reads.hosts.contains(host))
    }
}

/// From a configuration to the one after it.
#[derive(Debug)]
struct Step {
    /// The identity of the one before.
    from: Arc<()>,
    touched: Touched,
}

/// The last steps that led to a configuration. One from nothing, or one after a change that may concern anyone, has none.
#[derive(Debug, Default)]
pub(super) struct History {
    /// What tells this configuration from all others.
    identity: Arc<()>,
    /// In their order.
    steps: Vec<Arc<Step>>,
}

impl History {
    /// After a configuration from which this one differs in what is said; in anything, if nothing is.
    pub(super) fn after(last: &Self, touched: Option<Touched>) -> Self {
        let Some(touched) = touched else {
            return Self::default();
        };
        let step = Step {
            from: Arc::clone(&last.identity),
            touched,
        };
        let kept = last.steps.len().saturating_sub(STEPS - 1);
        let known = last.steps.iter().skip(kept).cloned();
        Self {
            identity: Arc::default(),
            steps: known.chain([Arc::new(step)]).collect(),
        }
    }

    /// Whether a reader may find anything else than it found in the configuration of `earlier`.
    pub(super) fn concerns_since(&self, earlier: &Self, reader: &Reader<'_>) -> bool {
        let is_next = |step: &Arc<Step>| Arc::ptr_eq(&step.from, &earlier.identity);
        let since = self.steps.iter().rposition(is_next);
        let since = since.and_then(|at| self.steps.get(at..));
        since.is_none_or(|steps| steps.iter().any(|step| step.touched.concerns(reader)))
    }
}

/// What differs, if only kinds have changed of which it is known who reads them. `routes` are the virtual services of both.
pub(super) fn touched(
    reuse: &Reuse<'_>,
    inputs: &Inputs,
    mesh: &Mesh,
    routes: [&[Shared<VirtualServiceConfig>]; 2],
) -> Option<Touched> {
    let last = reuse.base();
    if !Arc::ptr_eq(&last.jwks, &inputs.jwks) || *last.mesh != *mesh {
        return None;
    }
    let mut out = Touched::default();
    let root = inputs.settings.root_namespace.as_str();
    for (kind, changes) in reuse.kinds() {
        let resources = changes.iter().flat_map(|change| change.either());
        for resource in resources {
            out.add(kind, resource, root)?;
        }
    }
    let suffix = &mesh.domain_suffix;
    let host = |service: &Resource| {
        let (name, namespace) = (service.name(), service.namespace());
        format!("{name}.{namespace}.svc.{suffix}")
    };
    let services = reuse.changes(Kind::Service).iter();
    out.hosts = services
        .flat_map(|change| change.either())
        .map(host)
        .collect();
    if !out.hosts.is_disjoint(&named_services(mesh)) {
        return None;
    }
    for config in differing(routes) {
        if !out.seen.contains(&config.object.namespace) {
            out.seen.insert(config.object.namespace.clone());
        }
    }
    Some(out)
}

impl Touched {
    /// Adds an object that is not the same; `None` if it may concern anyone.
    fn add(&mut self, kind: Kind, resource: &Resource, root: &str) -> Option<()> {
        let namespace = resource.namespace();
        let list = match kind {
            // No proxy's configuration is made of them. What a list of endpoints leads to is compared by itself, and virtual services as
            // they are once delegates are merged.
            Kind::Namespace | Kind::Endpoints | Kind::EndpointSlice | Kind::VirtualService => {
                return Some(());
            }
            Kind::Service => &mut self.seen,
            Kind::DestinationRule if namespace != root => &mut self.seen,
            Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::Sidecar
            | Kind::Telemetry
                if namespace != root =>
            {
                &mut self.own
            }
            _ => return None,
        };
        list.insert(namespace.to_owned());
        Some(())
    }
}

/// The virtual services that are in one list alone. Those at the ends of both lists are passed over by pointer.
fn differing(
    [mut old, mut new]: [&[Shared<VirtualServiceConfig>]; 2],
) -> Vec<&VirtualServiceConfig> {
    while let ([a, rest_old @ ..], [b, rest_new @ ..]) = (old, new)
        && a.is_same(b)
    {
        (old, new) = (rest_old, rest_new);
    }
    while let ([rest_old @ .., a], [rest_new @ .., b]) = (old, new)
        && a.is_same(b)
    {
        (old, new) = (rest_old, rest_new);
    }
    let addresses = |list: &[Shared<VirtualServiceConfig>]| -> BTreeSet<usize> {
        list.iter().map(Shared::address).collect()
    };
    let (before, after) = (addresses(old), addresses(new));
    let gone = old
        .iter()
        .filter(|config| !after.contains(&config.address()));
    let come = new
        .iter()
        .filter(|config| !before.contains(&config.address()));
    let mut out: Vec<&VirtualServiceConfig> = gone.chain(come).map(|config| &**config).collect();
    if out.is_empty() {
        // The same ones in another order, or twice.
        out = old.iter().chain(new).map(|config| &**config).collect();
    }
    out
}

/// The host names of the services that the mesh's settings name.
fn named_services(mesh: &Mesh) -> BTreeSet<String> {
    let written = mesh.extension_providers.iter().flat_map(services_of);
    let host = |written: &str| {
        let host = written.split_once('/').map_or(written, |(_, host)| host);
        host.to_owned()
    };
    let mut out: BTreeSet<String> = written.map(host).collect();
    let legacy = mesh.legacy_tracing.as_ref();
    out.extend(legacy.and_then(crate::telemetry::legacy_tracer));
    out
}

/// The services that a provider names. Every field is looked at, so that a new kind of provider is not forgotten here.
fn services_of(provider: &ExtensionProvider) -> impl Iterator<Item = &str> {
    let ExtensionProvider {
        name: _,
        envoy_ext_authz_http,
        envoy_ext_authz_grpc,
        zipkin,
        lightstep,
        datadog,
        stackdriver: _,
        opencensus,
        skywalking,
        opentelemetry,
        prometheus: _,
        envoy_file_access_log: _,
        envoy_http_als,
        envoy_tcp_als,
        envoy_otel_als,
        sds,
    } = provider;
    let dynatrace = opentelemetry
        .as_ref()
        .and_then(|otel| otel.dynatrace_sampler.as_ref())
        .and_then(|sampler| sampler.http_service.as_ref());
    let all = [
        envoy_ext_authz_http.as_ref().map(|p| &p.service),
        envoy_ext_authz_grpc.as_ref().map(|p| &p.service),
        zipkin.as_ref().map(|p| &p.service),
        lightstep.as_ref().map(|p| &p.service),
        datadog.as_ref().map(|p| &p.service),
        opencensus.as_ref().map(|p| &p.service),
        skywalking.as_ref().map(|p| &p.service),
        opentelemetry.as_ref().map(|p| &p.service),
        dynatrace.map(|p| &p.service),
        envoy_http_als.as_ref().map(|p| &p.service),
        envoy_tcp_als.as_ref().map(|p| &p.service),
        envoy_otel_als.as_ref().map(|p| &p.service),
        sds.as_ref().map(|p| &p.service),
    ];
    all.into_iter().flatten().map(String::as_str)
}

/// The steps to a configuration, of which some is made already. It follows from the last one by what has changed, or else anything may be
/// different.
pub(super) fn of(
    last: Option<&Config>,
    followed: Option<&Reuse<'_>>,
    inputs: &Inputs,
    mesh: &Mesh,
    (base, routes): (&Base, &[Shared<VirtualServiceConfig>]),
) -> History {
    let Some(last) = last else {
        return History::default();
    };
    let followed = followed.filter(|_| Arc::ptr_eq(&last.base.derived, &base.derived));
    let routes = [&last.virtual_services, routes];
    let touched = followed.and_then(|reuse| touched(reuse, inputs, mesh, routes));
    History::after(&last.history, touched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn seen(namespace: &str) -> Option<Touched> {
        Some(Touched {
            seen: set(&[namespace]),
            ..Touched::default()
        })
    }

    fn concerns(now: &History, then: &History, reads: &Reads) -> bool {
        let reader = Reader {
            reads,
            namespace: "own",
            behind: &["beside"],
            names_services: false,
        };
        now.concerns_since(then, &reader)
    }

    #[test]
    fn steps_concern_those_alone_who_see_what_they_touched() {
        let reads = Reads {
            namespaces: set(&["a"]),
            hosts: set(&["x.far.svc.cluster.local"]),
            everything: false,
        };
        let first = History::default();
        let second = History::after(&first, seen("b"));
        let third = History::after(&second, seen("a"));
        assert!(!concerns(&second, &first, &reads));
        assert!(concerns(&third, &second, &reads));
        assert!(concerns(&third, &first, &reads), "nothing is skipped");
        for namespace in ["own", "beside"] {
            assert!(concerns(
                &History::after(&third, seen(namespace)),
                &third,
                &reads
            ));
        }
        let everywhere = Reads {
            everything: true,
            ..Reads::default()
        };
        assert!(concerns(&second, &first, &everywhere));
        let far = Touched {
            hosts: set(&["x.far.svc.cluster.local"]),
            ..Touched::default()
        };
        assert!(concerns(&History::after(&third, Some(far)), &third, &reads));
        let policies = |namespace| Touched {
            own: set(&[namespace]),
            ..Touched::default()
        };
        let (own, other) = (policies("own"), policies("a"));
        assert!(concerns(&History::after(&third, Some(own)), &third, &reads));
        assert!(!concerns(
            &History::after(&third, Some(other)),
            &third,
            &reads
        ));
    }

    #[test]
    fn what_is_not_known_concerns_everyone() {
        let reads = Reads::default();
        let first = History::default();
        assert!(concerns(&History::after(&first, None), &first, &reads));
        assert!(
            concerns(&History::default(), &first, &reads),
            "another mesh"
        );
        let branch = History::after(&first, seen("b"));
        let other = History::after(&first, seen("c"));
        assert!(concerns(&branch, &other, &reads), "not on the way");
        let mut now = History::after(&first, seen("b"));
        for _ in 0..STEPS {
            assert!(now.steps.len() <= STEPS);
            now = History::after(&now, seen("b"));
        }
        assert!(concerns(&now, &first, &reads), "too far behind");
    }
}
