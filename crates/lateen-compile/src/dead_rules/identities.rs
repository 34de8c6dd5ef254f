//! Rules that ask for identities: those that no workload has, those that cannot be told, and tokens nobody issues here.

use std::collections::BTreeSet;

use lateen_api::security::{Action, RequestAuthentication, Rule, Source};
use lateen_api::{Diagnostic, Kind, Resource};

use super::{Policy, effect_of_none, on_rule};
use crate::diagnostics::{NO_IDENTITY, PLAIN_TEXT_ESCAPES, UNKNOWN_IDENTITY, UNKNOWN_ISSUER};
use crate::pod::{Pod, PodRole};
use crate::security::MtlsMode;
use crate::snapshot::Snapshot;

/// Namespaces and identities of a mesh.
pub(crate) struct Known {
    namespaces: BTreeSet<String>,
    accounts: BTreeSet<(String, String)>,
    /// Namespaces with pods.
    inhabited: BTreeSet<String>,
    trust_domains: Vec<String>,
}

impl Known {
    pub(super) fn new(snapshot: &Snapshot, resources: &[Resource]) -> Self {
        let mut known = Self {
            namespaces: BTreeSet::new(),
            accounts: BTreeSet::new(),
            inhabited: BTreeSet::new(),
            trust_domains: vec!["cluster.local".to_owned()],
        };
        let mesh = snapshot.mesh();
        known.trust_domains.push(mesh.trust_domain.clone());
        known
            .trust_domains
            .extend(mesh.trust_domain_aliases.iter().cloned());
        for resource in resources {
            let namespace = resource.namespace().to_owned();
            match resource.kind {
                Kind::Namespace => known.namespaces.insert(resource.name().to_owned()),
                Kind::ServiceAccount => {
                    let name = resource.name().to_owned();
                    known.accounts.insert((namespace.clone(), name));
                    known.namespaces.insert(namespace)
                }
                Kind::Service => known.namespaces.insert(namespace),
                _ => false,
            };
        }
        for pod in snapshot.pods() {
            let account = match pod.service_account.as_str() {
                "" => "default",
                name => name,
            };
            known
                .accounts
                .insert((pod.namespace.clone(), account.to_owned()));
            known.namespaces.insert(pod.namespace.clone());
            if pod.role == PodRole::Sidecar {
                known.inhabited.insert(pod.namespace.clone());
            }
        }
        known
    }

    /// Whether any workload is known in a namespace.
    pub(super) fn has_workloads_in(&self, namespace: &str) -> bool {
        self.inhabited.contains(namespace)
    }

    /// Why nobody is a principal; `None` if somebody is, or that is not known here.
    fn nobody(&self, principal: &str) -> Option<String> {
        let mut parts = principal.split('/');
        let (domain, ns, namespace) = (parts.next()?, parts.next()?, parts.next()?);
        let (sa, account) = (parts.next()?, parts.next()?);
        let exact = ns == "ns" && sa == "sa" && parts.next().is_none() && !principal.contains('*');
        if !exact || !self.trust_domains.iter().any(|own| own == domain) {
            return None;
        }
        self.no_namespace(namespace).or_else(|| {
            let key = (namespace.to_owned(), account.to_owned());
            (account != "default" && !self.accounts.contains(&key))
                .then(|| format!("there is no service account `{account}` in {namespace}, and no workload runs as it"))
        })
    }

    fn no_namespace(&self, namespace: &str) -> Option<String> {
        let known = namespace.contains('*') || self.namespaces.contains(namespace);
        (!known).then(|| format!("there is no namespace `{namespace}`"))
    }
}

/// What is wrong with the identities a rule asks for.
pub(super) fn findings(
    snapshot: &Snapshot,
    known: &Known,
    policy: &Policy<'_>,
    index: usize,
    rule: &Rule,
) -> Vec<Diagnostic> {
    if policy.pods.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (number, from) in rule.from.iter().enumerate() {
        let Some(source) = &from.source else { continue };
        let base = format!("from[{number}].source");
        out.extend(unknown(known, policy, index, &base, source));
        out.extend(unknown_issuers(snapshot, policy, index, &base, source));
    }
    out.extend(without_certificates(snapshot, policy, index, rule));
    out
}

fn unknown(
    known: &Known,
    policy: &Policy<'_>,
    index: usize,
    base: &str,
    source: &Source,
) -> Vec<Diagnostic> {
    let own = policy.resource.namespace();
    let principals = source
        .principals
        .iter()
        .map(|value| ("principals", value, known.nobody(value)));
    let namespaces = source
        .namespaces
        .iter()
        .map(|value| ("namespaces", value, known.no_namespace(value)));
    let accounts = source.service_accounts.iter().map(|value| {
        let (namespace, name) = value.split_once('/').unwrap_or((own, value));
        let principal = format!("cluster.local/ns/{namespace}/sa/{name}");
        ("serviceAccounts", value, known.nobody(&principal))
    });
    let all = principals.chain(namespaces).chain(accounts);
    let tell = |(field, value, why): (&str, &String, Option<String>)| {
        let message = format!("nobody is `{value}`: {}", why?);
        let part = format!("{base}.{field}");
        Some(
            on_rule(UNKNOWN_IDENTITY, policy, index, &part, message)
                .effect("the value matches no client of this mesh")
                .fix("write the namespace and service account that the client's pods run as (spec.serviceAccountName)"),
        )
    };
    all.filter_map(tell).collect()
}

/// Tokens of issuers that no RequestAuthentication of the workloads takes.
fn unknown_issuers(
    snapshot: &Snapshot,
    policy: &Policy<'_>,
    index: usize,
    base: &str,
    source: &Source,
) -> Vec<Diagnostic> {
    if source.request_principals.is_empty() {
        return Vec::new();
    }
    let issuers = issuers(snapshot, &policy.pods);
    if issuers.is_empty() {
        return Vec::new(); // LAT3042 says so
    }
    let values = source.request_principals.iter().filter_map(|value| {
        let (issuer, _) = value.rsplit_once('/')?;
        (!issuer.contains('*') && !issuers.contains(issuer)).then_some((value, issuer))
    });
    let tell = |(value, issuer): (&String, &str)| {
        let taken: Vec<&str> = issuers.iter().map(String::as_str).collect();
        let message = format!(
            "`{value}` is a token of {issuer}, and the RequestAuthentication takes those of {}",
            taken.join(", ")
        );
        on_rule(UNKNOWN_ISSUER, policy, index, &format!("{base}.requestPrincipals"), message)
            .effect("the value matches no request")
            .fix("write the issuer as in `jwtRules`, letter by letter, and `/` with the subject or `*` behind it")
    };
    values.map(tell).collect()
}

fn issuers(snapshot: &Snapshot, pods: &[&Pod]) -> BTreeSet<String> {
    let policies = pods
        .iter()
        .flat_map(|pod| snapshot.request_authentication(&pod.workload()));
    policies
        .flat_map(|policy| issuers_of(&policy.spec))
        .collect()
}

fn issuers_of(spec: &RequestAuthentication) -> Vec<String> {
    spec.jwt_rules
        .iter()
        .map(|rule| rule.issuer.clone())
        .collect()
}

/// A rule that knows clients by their certificates, on a workload that takes clients without.
fn without_certificates(
    snapshot: &Snapshot,
    policy: &Policy<'_>,
    index: usize,
    rule: &Rule,
) -> Option<Diagnostic> {
    let part = certified(rule)?;
    let sidecars = || {
        policy
            .pods
            .iter()
            .filter(|pod| pod.role == PodRole::Sidecar)
    };
    let mode = |pod: &Pod| snapshot.mtls(&pod.namespace, &pod.labels);
    let pod = |wanted: MtlsMode| sidecars().find(|pod| mode(pod).mode == wanted);
    let field = super::text::leaf(&part).to_owned();
    if let Some(pod) = pod(MtlsMode::Disable) {
        let message = format!(
            "`{field}` is in the client's certificate, and pod {}.{} takes plain text only",
            pod.name, pod.namespace
        );
        return Some(
            on_rule(NO_IDENTITY, policy, index, &part, message)
                .effect(effect_of_none(policy.spec.action))
                .fix("set the PeerAuthentication's mode to STRICT or PERMISSIVE"),
        );
    }
    // Who is not known is not denied; an ALLOW errs on the safe side.
    let open = pod(MtlsMode::Permissive).filter(|_| policy.spec.action == Action::Deny)?;
    let message = format!(
        "`{field}` is in the client's certificate, and pod {}.{} takes plain text, too",
        open.name, open.namespace
    );
    Some(
        on_rule(PLAIN_TEXT_ESCAPES, policy, index, &part, message)
            .effect("whoever comes without a certificate is not denied by this rule")
            .fix("set the PeerAuthentication's mode to STRICT, or allow by identity instead of denying"),
    )
}

/// The field of a rule that only a certificate satisfies, if every alternative has one.
fn certified(rule: &Rule) -> Option<String> {
    let of = |source: &Source| {
        let fields = [
            ("principals", &source.principals),
            ("namespaces", &source.namespaces),
            ("serviceAccounts", &source.service_accounts),
            ("trustDomains", &source.trust_domains),
        ];
        let found = fields.into_iter().find(|(_, values)| !values.is_empty());
        found.map(|(name, _)| name)
    };
    let when = rule.when.iter().position(|condition| {
        let keys = [
            "source.principal",
            "source.namespace",
            "source.serviceAccount",
            "source.trustDomain",
        ];
        keys.contains(&condition.key.as_str()) && !condition.values.is_empty()
    });
    if let Some(number) = when {
        return Some(format!("when[{number}].key"));
    }
    let mut parts = rule.from.iter().enumerate().map(|(number, from)| {
        let name = of(from.source.as_ref()?)?;
        Some(format!("from[{number}].source.{name}"))
    });
    let first = parts.next()??;
    parts.all(|part| part.is_some()).then_some(first)
}
