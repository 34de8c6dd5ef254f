//! The hosts that a mesh knows, found by name, and the host that a wrong name was probably meant to be.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::{Kind, Resource};
use lateen_compile::{Registry, Service, Snapshot};

use super::Found;

/// Every service of a mesh.
pub(super) struct Hosts<'a> {
    domain: &'a str,
    by_name: BTreeMap<&'a str, Vec<&'a Service>>,
    /// Every host backwards, so that those with one ending stand together.
    backwards: BTreeSet<String>,
    /// Names of Kubernetes Services, by namespace.
    in_namespace: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// The namespaces that have a Service of this name.
    namespaces: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// The namespaces of which the user wrote Services.
    written: BTreeSet<&'a str>,
    /// Whether the user wrote any Service or ServiceEntry.
    any: bool,
}

/// The wildcards that a host is one of, the narrowest first: `*.b.c` and `*.c` of `a.b.c`, and `*`.
pub(super) fn wildcards_of(host: &str) -> impl Iterator<Item = String> {
    let dots = host.match_indices('.');
    dots.map(|(at, _)| format!("*{}", &host[at..]))
        .chain(std::iter::once("*".to_owned()))
}

/// What a host is.
pub(super) enum Host<'h, 'a> {
    /// These services, of which there is at least one.
    Services(&'h [&'a Service]),
    /// One of the names of a wildcard ServiceEntry.
    OfWildcard,
    /// Nobody.
    Unknown,
}

impl<'a> Hosts<'a> {
    pub(super) fn new(user: &'a [Resource], snapshot: &'a Snapshot) -> Self {
        let of = |kind: Kind| user.iter().filter(move |resource| resource.kind == kind);
        let mut hosts = Self {
            domain: &snapshot.settings().domain_suffix,
            by_name: BTreeMap::new(),
            backwards: BTreeSet::new(),
            in_namespace: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            written: of(Kind::Service).map(Resource::namespace).collect(),
            any: of(Kind::Service)
                .chain(of(Kind::ServiceEntry))
                .next()
                .is_some(),
        };
        for service in snapshot.services() {
            let service: &Service = service;
            hosts
                .backwards
                .insert(service.hostname.chars().rev().collect());
            hosts
                .by_name
                .entry(&service.hostname)
                .or_default()
                .push(service);
            if service.registry == Registry::Kubernetes {
                let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
                hosts
                    .in_namespace
                    .entry(namespace)
                    .or_default()
                    .insert(name);
                hosts.namespaces.entry(name).or_default().insert(namespace);
            }
        }
        hosts
    }

    /// What a complete host name is.
    pub(super) fn find(&self, host: &str) -> Host<'_, 'a> {
        if let Some(services) = self.by_name.get(host) {
            return Host::Services(services);
        }
        if wildcards_of(host).any(|wildcard| self.by_name.contains_key(wildcard.as_str())) {
            return Host::OfWildcard;
        }
        Host::Unknown
    }

    /// The services with a name.
    pub(super) fn named(&self, host: &str) -> &[&'a Service] {
        self.by_name.get(host).map_or(&[], Vec::as_slice)
    }

    /// Whether a wildcard has any host of this mesh among its names.
    pub(super) fn matches_any(&self, wildcard: &str) -> bool {
        let ending: String = wildcard.trim_start_matches('*').chars().rev().collect();
        let first = self.backwards.range(ending.clone()..).next();
        first.is_some_and(|host| host.starts_with(&ending))
    }

    /// Whether the files say enough to know that a complete host name means nobody.
    pub(super) fn is_known_territory(&self, host: &str) -> bool {
        match self.of_cluster(host) {
            Some((name, namespace)) => {
                // A Service of this name in another namespace makes a mistake likelier than a missing file.
                let elsewhere = self.namespaces.get(name).into_iter().flatten();
                let mut elsewhere = elsewhere.filter(|namespace| self.written.contains(*namespace));
                self.written.contains(namespace) || elsewhere.next().is_some()
            }
            None => self.any,
        }
    }

    /// Name and namespace of the Service that a host would be.
    fn of_cluster<'h>(&self, host: &'h str) -> Option<(&'h str, &'h str)> {
        let (service, domain) = host.split_once(".svc.")?;
        let (name, namespace) = service.split_once('.')?;
        (domain == self.domain && !namespace.contains('.')).then_some((name, namespace))
    }

    /// What to write instead of a host that means nobody. `written` stands in an object of `namespace` and means `complete`.
    pub(super) fn meant(
        &self,
        (written, complete): (&str, &str),
        namespace: &str,
        found: &mut Found,
    ) -> Option<String> {
        let full = |name: &str, namespace: &str| format!("{name}.{namespace}.svc.{}", self.domain);
        let Some((name, wanted)) = self.of_cluster(complete) else {
            return self.meant_outside(written, found);
        };
        let own: Vec<&str> = self
            .in_namespace
            .get(wanted)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        if let Some(close) = found.slip(name, &own) {
            let short = wanted == namespace && !written.contains('.');
            let text = if short {
                close.to_owned()
            } else {
                full(close, wanted)
            };
            return Some(format!("did you mean `{text}`?"));
        }
        let elsewhere: Vec<&str> = self
            .namespaces
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        match elsewhere.as_slice() {
            [] => None,
            [one] => Some(format!(
                "write `{}`: a short name is looked for in the namespace of the object that holds it",
                full(name, one)
            )),
            several => Some(format!(
                "write the complete name; there is a Service `{name}` in the namespaces {}",
                super::names_text(several.iter().copied())
            )),
        }
    }

    /// The same for a name that is none of the cluster's complete ones: half of one, or a host of a ServiceEntry.
    fn meant_outside(&self, written: &str, found: &mut Found) -> Option<String> {
        let mut labels = written.split('.');
        if let (Some(name), Some(namespace)) = (labels.next(), labels.next())
            && matches!(labels.next(), None | Some("svc"))
            && self
                .in_namespace
                .get(namespace)
                .is_some_and(|names| names.contains(name))
        {
            let full = format!("{name}.{namespace}.svc.{}", self.domain);
            return Some(format!(
                "write `{full}`: only names without a dot are completed"
            ));
        }
        let others: Vec<&str> = self.by_name.keys().copied().collect();
        if let Some(close) = found.slip(written, &others) {
            return Some(format!("did you mean `{close}`?"));
        }
        let outside = written.contains('.') && !written.ends_with(self.domain);
        outside.then(|| format!("declare `{written}` in a ServiceEntry"))
    }
}
