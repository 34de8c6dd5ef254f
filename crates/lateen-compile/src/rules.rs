//! Destination rules: merged per host, looked up as Istio looks them up.

use std::collections::BTreeMap;

use lateen_api::networking::DestinationRule;

use crate::host;
use crate::model::Visibility;
use crate::names::ObjectRef;
use crate::shared::Shared;

/// The destination rules of one host in one namespace, merged into one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MergedRule {
    /// The first rule, which gave the traffic policy unless it had none.
    pub(crate) object: ObjectRef,
    /// The merged rule; its host is complete.
    pub(crate) spec: DestinationRule,
    /// Where each subset came from: the rule and the field.
    sources: Vec<(ObjectRef, String)>,
    /// Who sees it.
    pub(crate) visibility: Visibility,
}

impl MergedRule {
    /// A rule by itself.
    pub(crate) fn new(object: ObjectRef, spec: DestinationRule, visibility: Visibility) -> Self {
        let sources = subset_sources(&object, &spec);
        Self {
            object,
            spec,
            sources,
            visibility,
        }
    }

    /// The rule and field a subset came from.
    pub(crate) fn subset_source(&self, index: usize) -> Option<(&ObjectRef, &str)> {
        self.sources
            .get(index)
            .map(|(object, path)| (object, path.as_str()))
    }

    /// Adds a later rule for the same host: its new subsets, and its traffic policy if there is none yet. Returns the names of
    /// subsets that existed already and were left out.
    fn absorb(&mut self, object: &ObjectRef, spec: &DestinationRule) -> Vec<String> {
        let mut duplicates = Vec::new();
        for (subset, source) in spec.subsets.iter().zip(subset_sources(object, spec)) {
            if self
                .spec
                .subsets
                .iter()
                .any(|known| known.name == subset.name)
            {
                duplicates.push(subset.name.clone());
            } else {
                self.spec.subsets.push(subset.clone());
                self.sources.push(source);
            }
        }
        if self.spec.traffic_policy.is_none() {
            self.spec.traffic_policy.clone_from(&spec.traffic_policy);
        }
        duplicates
    }

    /// Whether it may be merged with another rule: the same audience and the same workloads.
    fn merges_with(&self, spec: &DestinationRule, visibility: &Visibility) -> bool {
        let labels = |spec: &DestinationRule| {
            spec.workload_selector
                .as_ref()
                .map(|selector| selector.match_labels.clone())
        };
        self.visibility == *visibility && labels(&self.spec) == labels(spec)
    }
}

fn subset_sources(object: &ObjectRef, spec: &DestinationRule) -> Vec<(ObjectRef, String)> {
    (0..spec.subsets.len())
        .map(|i| (object.clone(), format!("spec.subsets[{i}]")))
        .collect()
}

/// A subset that two rules define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DuplicateSubset {
    /// The rule whose subset was left out.
    pub(crate) object: ObjectRef,
    /// The subset.
    pub(crate) subset: String,
    /// The rule whose subset is used.
    pub(crate) kept: ObjectRef,
}

/// Every destination rule, by namespace and host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleIndex {
    by_namespace: BTreeMap<String, BTreeMap<String, Vec<Shared<MergedRule>>>>,
}

impl RuleIndex {
    /// Merges rules, given in order of precedence, with hosts complete.
    pub(crate) fn new(
        rules: Vec<(ObjectRef, DestinationRule, Visibility)>,
    ) -> (Self, Vec<DuplicateSubset>) {
        let mut merged: BTreeMap<String, BTreeMap<String, Vec<MergedRule>>> = BTreeMap::new();
        let mut duplicates = Vec::new();
        for (object, spec, visibility) in rules {
            let hosts = merged.entry(object.namespace.clone()).or_default();
            let list = hosts.entry(spec.host.clone()).or_default();
            match list
                .iter_mut()
                .find(|rule| rule.merges_with(&spec, &visibility))
            {
                None => list.push(MergedRule::new(object, spec, visibility)),
                Some(rule) => {
                    let kept = rule.object.clone();
                    duplicates.extend(rule.absorb(&object, &spec).into_iter().map(|subset| {
                        DuplicateSubset {
                            object: object.clone(),
                            subset,
                            kept: kept.clone(),
                        }
                    }));
                }
            }
        }
        let share = |list: Vec<MergedRule>| list.into_iter().map(Shared::new).collect();
        let by_namespace = merged
            .into_iter()
            .map(|(ns, hosts)| {
                (
                    ns,
                    hosts
                        .into_iter()
                        .map(|(host, list)| (host, share(list)))
                        .collect(),
                )
            })
            .collect();
        (Self { by_namespace }, duplicates)
    }

    /// Every rule.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shared<MergedRule>> {
        self.by_namespace
            .values()
            .flat_map(BTreeMap::values)
            .flatten()
    }

    /// The rules for a service as seen from a namespace: the client's own first, then the service's, then the root's.
    ///
    /// Source: Istio, `PushContext.destinationRule`. In the root namespace only rules that it keeps to itself count as the
    /// client's own, so that a mesh-wide default never hides what a service says about itself.
    pub(crate) fn lookup(
        &self,
        client: &str,
        hostname: &str,
        service_namespace: &str,
        root: &str,
    ) -> Vec<Shared<MergedRule>> {
        let own = self.most_specific(client, hostname, |rule| {
            client != root || !visible_elsewhere(&rule.visibility, root)
        });
        if !own.is_empty() {
            return own;
        }
        for namespace in [service_namespace, root] {
            let found = self.most_specific(namespace, hostname, |rule| {
                rule.visibility.includes(client)
                    && (rule.spec.workload_selector.is_none() || namespace == client)
            });
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    fn most_specific(
        &self,
        namespace: &str,
        hostname: &str,
        eligible: impl Fn(&MergedRule) -> bool,
    ) -> Vec<Shared<MergedRule>> {
        let Some(hosts) = self.by_namespace.get(namespace) else {
            return Vec::new();
        };
        let matching = |list: &Vec<Shared<MergedRule>>| -> Vec<Shared<MergedRule>> {
            list.iter().filter(|rule| eligible(rule)).cloned().collect()
        };
        if let Some(list) = hosts.get(hostname) {
            let found = matching(list);
            if !found.is_empty() {
                return found;
            }
        }
        let mut wildcards: Vec<(&String, Vec<Shared<MergedRule>>)> = hosts
            .iter()
            .filter(|(host, _)| host::is_wildcard(host) && host::is_subset(hostname, host))
            .map(|(host, list)| (host, matching(list)))
            .filter(|(_, list)| !list.is_empty())
            .collect();
        wildcards.sort_by(|(a, _), (b, _)| host::specificity(a, b));
        wildcards
            .into_iter()
            .next()
            .map(|(_, list)| list)
            .unwrap_or_default()
    }
}

fn visible_elsewhere(visibility: &Visibility, own: &str) -> bool {
    match visibility {
        Visibility::Public => true,
        Visibility::Namespaces(list) => list.iter().any(|ns| ns != own),
        Visibility::None => false,
    }
}

/// The rule for a workload among those found: one that selects it, else the last that selects none.
pub(crate) fn for_workload<'a>(
    rules: &'a [Shared<MergedRule>],
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Option<&'a Shared<MergedRule>> {
    let selected = rules.iter().find(|rule| {
        rule.object.namespace == namespace
            && rule
                .spec
                .workload_selector
                .as_ref()
                .is_some_and(|selector| crate::labels::is_subset(&selector.match_labels, labels))
    });
    selected.or_else(|| {
        rules
            .iter()
            .rfind(|rule| rule.spec.workload_selector.is_none())
    })
}

#[cfg(test)]
mod tests {
    use lateen_api::networking::Subset;

    use super::*;

    fn rule(
        ns: &str,
        name: &str,
        host: &str,
        subsets: &[&str],
    ) -> (ObjectRef, DestinationRule, Visibility) {
        let subsets = subsets
            .iter()
            .map(|&name| Subset {
                name: name.to_owned(),
                ..Subset::default()
            })
            .collect();
        let spec = DestinationRule {
            host: host.to_owned(),
            subsets,
            ..Default::default()
        };
        (
            ObjectRef::new("DestinationRule", ns, name),
            spec,
            Visibility::Public,
        )
    }

    fn names(index: &RuleIndex, client: &str, host: &str, service: &str) -> Vec<String> {
        index
            .lookup(client, host, service, "istio-system")
            .iter()
            .map(|rule| rule.object.name.clone())
            .collect()
    }

    #[test]
    fn rules_for_one_host_are_merged_and_the_first_subset_of_a_name_stays() {
        let (index, duplicates) = RuleIndex::new(vec![
            rule("a", "one", "h", &["v1", "v2"]),
            rule("a", "two", "h", &["v2", "v3"]),
        ]);
        let found = index.lookup("a", "h", "a", "istio-system");
        let subsets: Vec<_> = found[0]
            .spec
            .subsets
            .iter()
            .map(|s| s.name.as_str())
            .collect();
        assert_eq!(subsets, ["v1", "v2", "v3"]);
        assert_eq!(found[0].subset_source(2).unwrap().1, "spec.subsets[1]");
        assert_eq!(duplicates[0].subset, "v2");
    }

    #[test]
    fn the_clients_own_rules_come_before_the_services_and_the_roots() {
        let host = "x.svc.svc.cluster.local";
        let (index, _) = RuleIndex::new(vec![
            rule("client", "own", host, &[]),
            rule("svc", "theirs", host, &[]),
            rule("istio-system", "default", "*.local", &[]),
        ]);
        assert_eq!(names(&index, "client", host, "svc"), ["own"]);
        assert_eq!(names(&index, "third", host, "svc"), ["theirs"]);
        assert_eq!(
            names(&index, "third", "y.b.svc.cluster.local", "b"),
            ["default"]
        );
        assert_eq!(names(&index, "istio-system", host, "svc"), ["theirs"]);
    }
}
