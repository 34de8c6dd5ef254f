//! Which mutual TLS mode holds where: PeerAuthentication, merged mesh, namespace and workload.

use std::collections::BTreeMap;

use lateen_api::security::{MutualTls, MutualTlsMode, PeerAuthentication};

use crate::labels;
use crate::names::ObjectRef;

/// An effective mutual TLS mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MtlsMode {
    /// Nobody said anything.
    #[default]
    Unset,
    /// Plain text only.
    Disable,
    /// Either.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl MtlsMode {
    fn of(mtls: Option<&MutualTls>) -> Option<Self> {
        match mtls?.mode {
            MutualTlsMode::Unset => None,
            MutualTlsMode::Disable => Some(Self::Disable),
            MutualTlsMode::Permissive => Some(Self::Permissive),
            MutualTlsMode::Strict => Some(Self::Strict),
        }
    }
}

/// What a workload accepts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EffectiveMtls {
    /// The mode of ports that have none of their own.
    pub(crate) mode: MtlsMode,
    /// The object that decided it.
    pub(crate) object: Option<ObjectRef>,
    /// Modes of single ports of the workload (not of services).
    pub(crate) ports: BTreeMap<u32, MtlsMode>,
    /// The object that set the ports' modes.
    pub(crate) ports_object: Option<ObjectRef>,
}

impl EffectiveMtls {
    /// The mode of a port.
    pub(crate) fn port(&self, port: u32) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// The object that decided the mode of a port.
    pub(crate) fn decided_by(&self, port: u32) -> Option<&ObjectRef> {
        if self.ports.contains_key(&port) {
            self.ports_object.as_ref()
        } else {
            self.object.as_ref()
        }
    }
}

/// Every PeerAuthentication, by namespace, in order of precedence (oldest first).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerAuthIndex {
    root: String,
    by_namespace: BTreeMap<String, Vec<(ObjectRef, PeerAuthentication)>>,
}

impl PeerAuthIndex {
    /// An index over policies given oldest first.
    pub(crate) fn new(root: &str, policies: Vec<(ObjectRef, PeerAuthentication)>) -> Self {
        let mut by_namespace: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (object, spec) in policies {
            by_namespace
                .entry(object.namespace.clone())
                .or_default()
                .push((object, spec));
        }
        Self {
            root: root.to_owned(),
            by_namespace,
        }
    }

    fn wide(&self, namespace: &str) -> Option<&(ObjectRef, PeerAuthentication)> {
        self.by_namespace
            .get(namespace)?
            .iter()
            .find(|(_, spec)| !selects(spec))
    }

    /// What a workload accepts. Only the oldest policy of each level counts, as in Istio.
    pub(crate) fn effective(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> EffectiveMtls {
        let mut out = EffectiveMtls {
            mode: MtlsMode::Permissive,
            object: None,
            ports: BTreeMap::new(),
            ports_object: None,
        };
        let own = if namespace == self.root {
            None
        } else {
            self.wide(namespace)
        };
        let workload = self.workload(namespace, labels);
        for (object, spec) in [self.wide(&self.root), own, workload].into_iter().flatten() {
            if let Some(mode) = MtlsMode::of(spec.mtls.as_ref()) {
                out.mode = mode;
                out.object = Some(object.clone());
            }
        }
        if let Some((object, spec)) = workload {
            for (port, mtls) in &spec.port_level_mtls {
                out.ports
                    .insert(*port, MtlsMode::of(Some(mtls)).unwrap_or(out.mode));
            }
            out.ports_object = Some(object.clone());
        }
        out
    }

    fn workload(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<&(ObjectRef, PeerAuthentication)> {
        if namespace == self.root {
            return None;
        }
        self.by_namespace.get(namespace)?.iter().find(|(_, spec)| {
            selects(spec)
                && spec
                    .selector
                    .as_ref()
                    .is_some_and(|selector| labels::is_subset(&selector.match_labels, labels))
        })
    }

    /// The mode of a namespace as a whole: what clients assume of services in it.
    pub(crate) fn namespace_mode(&self, namespace: &str) -> MtlsMode {
        let mode = |ns: &str| {
            self.wide(ns)
                .and_then(|(_, spec)| MtlsMode::of(spec.mtls.as_ref()))
        };
        mode(namespace)
            .or_else(|| mode(&self.root))
            .unwrap_or(MtlsMode::Permissive)
    }
}

fn selects(spec: &PeerAuthentication) -> bool {
    spec.selector
        .as_ref()
        .is_some_and(|selector| !selector.match_labels.is_empty())
}

#[cfg(test)]
mod tests {
    use lateen_api::selector::WorkloadSelector;

    use super::*;

    fn policy(
        ns: &str,
        app: Option<&str>,
        mode: MutualTlsMode,
        port: Option<(u32, MutualTlsMode)>,
    ) -> (ObjectRef, PeerAuthentication) {
        let selector = app.map(|app| WorkloadSelector {
            match_labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        });
        let port_level_mtls = port
            .map(|(port, mode)| (port, MutualTls { mode }))
            .into_iter()
            .collect();
        let spec = PeerAuthentication {
            selector,
            mtls: Some(MutualTls { mode }),
            port_level_mtls,
        };
        (
            ObjectRef::new("PeerAuthentication", ns, app.unwrap_or("default")),
            spec,
        )
    }

    fn app(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), name.to_owned())])
    }

    #[test]
    fn nothing_said_means_permissive() {
        let index = PeerAuthIndex::new("istio-system", vec![]);
        assert_eq!(index.effective("a", &app("x")).mode, MtlsMode::Permissive);
        assert_eq!(index.namespace_mode("a"), MtlsMode::Permissive);
    }

    #[test]
    fn the_narrower_policy_decides_and_unset_inherits() {
        let index = PeerAuthIndex::new(
            "istio-system",
            vec![
                policy("istio-system", None, MutualTlsMode::Strict, None),
                policy("a", None, MutualTlsMode::Disable, None),
                policy(
                    "a",
                    Some("x"),
                    MutualTlsMode::Unset,
                    Some((80, MutualTlsMode::Permissive)),
                ),
            ],
        );
        assert_eq!(index.effective("b", &app("x")).mode, MtlsMode::Strict);
        let x = index.effective("a", &app("x"));
        assert_eq!(
            (x.mode, x.port(80), x.port(81)),
            (MtlsMode::Disable, MtlsMode::Permissive, MtlsMode::Disable)
        );
        assert_eq!(x.decided_by(80).unwrap().name, "x");
    }
}
