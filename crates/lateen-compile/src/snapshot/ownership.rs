//! Strict host ownership: a namespace says how its own clients reach others' hosts, never how others do.
//!
//! In Istio whoever may write a VirtualService or a ServiceEntry in some namespace can route any host for the whole mesh, since both are
//! exported to everybody unless they say otherwise (ISTIO-SECURITY-2026-002). With [`ANNOTATION`] on the mesh's ConfigMap `istio`, what
//! a namespace writes for a host that it does not own is exported to that namespace alone:
//! - `NAME.NAMESPACE.svc.DOMAIN` belongs to its namespace, whether there is a service of that name or not;
//! - another host belongs to the namespace whose ServiceEntry was the first to declare it, or a wildcard over it;
//! - a host that nobody declared, and a wildcard over somebody else's, belong to nobody;
//! - the root namespace speaks for all.
//!
//! DestinationRules need no rule: they are looked for in the client's, the service's and the root namespace only. Gateways say
//! themselves which namespaces' hosts they take.

use std::collections::BTreeMap;

use lateen_api::networking::ServiceEntry;
use lateen_api::{Diagnostic, Kind, Resource};

use crate::diagnostics::{HOST_OWNER, on_resource};
use crate::host;
use crate::model::Visibility;

use super::{Inputs, sorted};

/// The annotation that turns it on, with the value `true`.
const ANNOTATION: &str = "lateen/strict-host-ownership";
/// Where the mesh's own configuration is.
const MESH_CONFIG: (&str, &str) = ("istio-system", "istio");

/// Who owns which host. Everybody owns everything unless ownership is strict.
#[derive(Debug)]
pub(super) struct Owners {
    strict: bool,
    root: String,
    /// `svc.DOMAIN`.
    services: String,
    /// Namespaces of hosts that ServiceEntries declare.
    declared: BTreeMap<String, String>,
}

impl Owners {
    /// The owners in a mesh.
    pub(super) fn new(inputs: &Inputs) -> Self {
        let mut owners = Self {
            strict: inputs.resources.of_kind(Kind::ConfigMap).any(is_strict),
            root: inputs.settings.root_namespace.clone(),
            services: format!("svc.{}", inputs.settings.domain_suffix),
            declared: BTreeMap::new(),
        };
        if owners.strict {
            for (resource, entry) in sorted::<ServiceEntry>(&inputs.resources) {
                for name in &entry.hosts {
                    let name = name.to_lowercase();
                    if owners.owner(&name).is_none()
                        && !owners.covers_others(&name, resource.namespace())
                    {
                        owners
                            .declared
                            .insert(name, resource.namespace().to_owned());
                    }
                }
            }
        }
        owners
    }

    /// Whether they are told apart at all.
    pub(super) fn are_strict(&self) -> bool {
        self.strict
    }

    /// Whom an object that names hosts is exported to, when it is written to be exported to `visibility`. `hosts` are full names.
    pub(super) fn visibility(
        &self,
        resource: &Resource,
        hosts: &[String],
        visibility: Visibility,
        found: &mut Vec<Diagnostic>,
    ) -> Visibility {
        let own = resource.namespace();
        if !self.strict || own == self.root {
            return visibility;
        }
        let foreign = |name: &String| !self.owns(own, name);
        let Some(index) = hosts.iter().position(foreign) else {
            return visibility;
        };
        let narrowed = visibility.within(own);
        if narrowed != visibility {
            found.push(self.finding(resource, index, &hosts[index]));
        }
        narrowed
    }

    fn owns(&self, namespace: &str, name: &str) -> bool {
        self.owner(name) == Some(namespace) && !self.covers_others(name, namespace)
    }

    /// The namespace of a host, or of a wildcard within one namespace.
    fn owner<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let within = name.strip_suffix(self.services.as_str());
        if let Some(within) = within.and_then(|within| within.strip_suffix('.')) {
            // `*.svc.DOMAIN`, and whatever else cuts a namespace's name, is every namespace's.
            let namespace = within.rsplit('.').next();
            return namespace.filter(|namespace| !namespace.contains('*'));
        }
        if let Some(owner) = self.declared.get(name) {
            return Some(owner);
        }
        let over = self
            .declared
            .iter()
            .filter(|(wildcard, _)| host::is_wildcard(wildcard) && host::is_subset(name, wildcard));
        // The longest wildcard is the most specific one.
        over.max_by_key(|(wildcard, _)| wildcard.len())
            .map(|(_, owner)| owner.as_str())
    }

    /// Whether a wildcard is over a host that another namespace owns.
    fn covers_others(&self, name: &str, namespace: &str) -> bool {
        let over_services = || {
            let example = format!("*.{}", self.services);
            host::is_subset(&example, name)
        };
        host::is_wildcard(name)
            && (over_services()
                || self
                    .declared
                    .iter()
                    .any(|(other, owner)| owner != namespace && host::is_subset(other, name)))
    }

    fn finding(&self, resource: &Resource, index: usize, name: &str) -> Diagnostic {
        let own = resource.namespace();
        let message = match self.owner(name) {
            Some(owner) if owner != own => {
                format!("`{name}` is a host of namespace `{owner}`, and host ownership is strict")
            }
            _ => format!("`{name}` is no host of namespace `{own}`, and host ownership is strict"),
        };
        let root = &self.root;
        on_resource(HOST_OWNER, resource, &format!("spec.hosts[{index}]"), message)
            .effect(format!("it holds for clients in namespace `{own}` alone"))
            .fix(format!(
                "write it in the namespace that owns the host, or in `{root}`; or say so: `exportTo: [\".\"]`"
            ))
    }
}

fn is_strict(resource: &Resource) -> bool {
    resource.kind == Kind::ConfigMap
        && (resource.namespace(), resource.name()) == MESH_CONFIG
        && resource
            .meta
            .annotations
            .get(ANNOTATION)
            .is_some_and(|value| value == "true")
}
