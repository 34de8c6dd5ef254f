//! Which kind an `apiVersion` and a `kind` mean: known ones, removed versions, slips of the pen, and kinds of others.

use crate::diagnostic::{Severity, codes};
use crate::kind::Kind;
use crate::schema::suggest;

/// What `apiVersion` and `kind` mean.
pub(crate) enum Lookup {
    /// A kind this mesh reads, perhaps with something to say about it.
    Known {
        kind: Kind,
        finding: Option<Finding>,
    },
    /// A kind this mesh does not read.
    Other { finding: Finding },
    /// No kind at all.
    Wrong { finding: Finding },
}

/// What to say about the header.
pub(crate) struct Finding {
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    pub(crate) about: About,
    pub(crate) message: String,
    pub(crate) effect: &'static str,
    pub(crate) fix: Option<String>,
}

/// Which of the two it is about.
pub(crate) enum About {
    Kind,
    Version,
}

/// Versions that Kubernetes no longer serves: group, version, kind (or `*`), what to write, since when.
const REMOVED: &[(&str, &str, &str, &str, &str)] = &[
    (
        "extensions",
        "v1beta1",
        "Ingress",
        "networking.k8s.io/v1",
        "1.22",
    ),
    ("extensions", "v1beta1", "*", "apps/v1", "1.16"),
    ("apps", "v1beta1", "*", "apps/v1", "1.16"),
    ("apps", "v1beta2", "*", "apps/v1", "1.16"),
    (
        "networking.k8s.io",
        "v1beta1",
        "*",
        "networking.k8s.io/v1",
        "1.22",
    ),
    ("batch", "v1beta1", "CronJob", "batch/v1", "1.25"),
    ("batch", "v2alpha1", "CronJob", "batch/v1", "1.21"),
    (
        "discovery.k8s.io",
        "v1beta1",
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "1.25",
    ),
];

/// Istio's groups whose kinds are gone, and what came instead.
const REMOVED_GROUPS: &[(&str, &str)] = &[
    (
        "authentication.istio.io",
        "PeerAuthentication and RequestAuthentication (security.istio.io/v1)",
    ),
    (
        "rbac.istio.io",
        "AuthorizationPolicy (security.istio.io/v1)",
    ),
    (
        "config.istio.io",
        "Telemetry (telemetry.istio.io/v1), AuthorizationPolicy, WasmPlugin and EnvoyFilter",
    ),
    (
        "policy.istio.io",
        "AuthorizationPolicy (security.istio.io/v1)",
    ),
];

/// The group of which one kind is read, and its kinds that are not: they are no slips of the pen.
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const GATEWAY_API_KINDS: &[&str] = &[
    "BackendTLSPolicy",
    "Gateway",
    "GatewayClass",
    "GRPCRoute",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
];

const PASSED_OVER: &str = "it is kept and passed over";

/// Looks `kind` up.
pub(crate) fn lookup(api_version: &str, kind: &str) -> Lookup {
    let (group, version) = split(api_version);
    if let Some(removed) = removed_version(group, version, kind) {
        return removed;
    }
    if let Some(known) = Kind::find(group, kind) {
        return Lookup::Known {
            kind: known,
            finding: unknown_version(known, version),
        };
    }
    if let Some((_, instead)) = REMOVED_GROUPS.iter().find(|(removed, _)| *removed == group) {
        return Lookup::Other {
            finding: removed_group(group, kind, instead),
        };
    }
    match misspelt(group, kind) {
        Some(finding) => Lookup::Wrong { finding },
        None => Lookup::Other {
            finding: Finding {
                code: codes::UNKNOWN_KIND,
                severity: Severity::Info,
                about: About::Kind,
                message: format!("`{kind}` of `{api_version}` is not a kind the mesh reads"),
                effect: PASSED_OVER,
                fix: None,
            },
        },
    }
}

/// Whether objects of the kind live in namespaces; kinds that are not known count as if they did not.
pub(crate) fn is_namespaced(api_version: &str, kind: &str) -> bool {
    let (group, version) = split(api_version);
    let known = Kind::find(group, kind).or_else(|| {
        replacement(group, version, kind).and_then(|(to, _)| Kind::find(split(to).0, kind))
    });
    known.is_some_and(Kind::is_namespaced)
}

/// Group and version; the core group has no name.
fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn replacement(group: &str, version: &str, kind: &str) -> Option<(&'static str, &'static str)> {
    let row = REMOVED
        .iter()
        .find(|row| row.0 == group && row.1 == version && (row.2 == kind || row.2 == "*"))?;
    Some((row.3, row.4))
}

fn removed_version(group: &str, version: &str, kind: &str) -> Option<Lookup> {
    let (to, since) = replacement(group, version, kind)?;
    let finding = Finding {
        code: codes::REMOVED_VERSION,
        severity: Severity::Error,
        about: About::Version,
        message: format!("Kubernetes {since} removed `{group}/{version}` of `{kind}`"),
        effect: codes::EFFECT_REFUSED,
        fix: Some(format!(
            "write `apiVersion: {to}`, and check the fields that changed with it"
        )),
    };
    Some(match Kind::find(split(to).0, kind) {
        Some(kind) => Lookup::Known {
            kind,
            finding: Some(finding),
        },
        None => Lookup::Other {
            finding: Finding {
                severity: Severity::Info,
                effect: PASSED_OVER,
                ..finding
            },
        },
    })
}

fn removed_group(group: &str, kind: &str, instead: &str) -> Finding {
    Finding {
        code: codes::REMOVED_VERSION,
        severity: Severity::Warning,
        about: About::Version,
        message: format!("Istio 1.6 removed `{kind}` with the whole of `{group}`"),
        effect: "it is passed over: what it asked for is not in force",
        fix: Some(format!("write {instead}")),
    }
}

fn unknown_version(kind: Kind, version: &str) -> Option<Finding> {
    let info = kind.info();
    if info.versions.contains(&version) {
        return None;
    }
    let known: Vec<String> = info
        .versions
        .iter()
        .map(|version| match info.group {
            "" => (*version).to_owned(),
            group => format!("{group}/{version}"),
        })
        .collect();
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    Some(Finding {
        code: codes::UNKNOWN_VERSION,
        severity: Severity::Error,
        about: About::Version,
        message: format!("`{kind}` has no version `{version}`"),
        effect: codes::EFFECT_REFUSED,
        fix: Some(format!(
            "write `apiVersion: {}` (known: {})",
            kind.api_version(),
            suggest::list(&names)
        )),
    })
}

/// A slip of the pen in the kind or the group, as far as that can be told from a kind of somebody else's.
fn misspelt(group: &str, kind: &str) -> Option<Finding> {
    if group == GATEWAY_API && GATEWAY_API_KINDS.contains(&kind) {
        return None;
    }
    let groups: Vec<&str> = Kind::ALL.iter().map(|kind| kind.info().group).collect();
    let of_group: Vec<&str> = Kind::ALL
        .iter()
        .map(|kind| kind.info())
        .filter(|info| info.group == group)
        .map(|info| info.name)
        .collect();
    let elsewhere = Kind::ALL
        .iter()
        .find(|known| known.as_str() == kind)
        .copied();
    if of_group.is_empty() {
        // The group is not one of ours: only a slip in it makes the kind ours.
        let meant = suggest::nearest(group, &groups).filter(|meant| !meant.is_empty())?;
        let kind_meant = elsewhere.filter(|known| known.info().group == meant)?;
        let fix = format!("did you mean `apiVersion: {}`?", kind_meant.api_version());
        return Some(wrong(
            About::Version,
            format!("there is no API group `{group}`"),
            Some(fix),
        ));
    }
    if let Some(known) = elsewhere {
        let message = format!("`{kind}` is not of the API group `{group}`");
        let fix = format!("write `apiVersion: {}`", known.api_version());
        return Some(wrong(About::Version, message, Some(fix)));
    }
    let meant = suggest::nearest(kind, &of_group).map(|name| format!("did you mean `{name}`?"));
    // Istio's groups hold nothing else; Kubernetes' hold many kinds this mesh does not read.
    let closed = group.ends_with(".istio.io");
    if meant.is_none() && !closed {
        return None;
    }
    let fix = meant.or_else(|| Some(format!("known are {}", suggest::list(&of_group))));
    Some(wrong(
        About::Kind,
        format!("there is no kind `{kind}` in `{group}`"),
        fix,
    ))
}

fn wrong(about: About, message: String, fix: Option<String>) -> Finding {
    Finding {
        code: codes::MISSPELT_KIND,
        severity: Severity::Error,
        about,
        message,
        effect: "the object is not read",
        fix,
    }
}
