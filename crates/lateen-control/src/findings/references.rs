//! References between objects: names of hosts, subsets, ports, gateways and labels that nothing has, and objects that take each other's place.
//!
//! What Istio's analyzers find has Istio's code and severity. Unlike theirs, a finding says what the mesh does, and one that would not be
//! true of this mesh is not made. The compiler finds what it has to decide itself (`LAT30nn` of `lateen_compile`); nothing here is told twice.
//!
//! Each pass reads the objects once and looks up the rest, so that all of them together are cheap beside one compilation.

mod destination_rules;
mod destinations;
mod gateways;
mod hosts;
mod injection;
mod selectors;
mod services;
mod several;
mod unchecked;
mod virtual_services;
mod workloads;

use std::collections::BTreeMap;

use lateen_api::{Diagnostic, Kind, Resource, Severity, host, nearest};
use lateen_compile::{Settings, Snapshot};
use lateen_sources::plan::Plan;

use hosts::Hosts;
use unchecked::Unchecked;
use workloads::Workloads;

/// How much of a mesh is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: what is not there does not exist.
    Whole,
    /// Some files. What they do not hold may stand elsewhere: a reference into a namespace of which they hold nothing that it could mean is
    /// not judged, and that is said once.
    Part,
}

/// What the passes look things up in.
pub(super) struct Known<'a> {
    /// What the user wrote, in order of precedence.
    user: Vec<&'a Resource>,
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    extent: Extent,
    objects: BTreeMap<(Kind, &'a str, &'a str), &'a Resource>,
    hosts: Hosts<'a>,
    workloads: Workloads<'a>,
}

/// What the passes have found.
#[derive(Default)]
struct Found {
    diagnostics: Vec<Diagnostic>,
    unchecked: Unchecked,
    /// How many names were compared with all others.
    compared: usize,
}

/// Comparing a name with all others takes time in proportion to the mesh; a mesh with more mistakes than this has help with the first ones.
const MAX_COMPARED: usize = 200;

impl<'a> Known<'a> {
    /// Indexes `user`, what was written, and `all`, which is that with the default installation.
    pub(super) fn new(
        user: &'a [Resource],
        all: &'a [Resource],
        snapshot: &'a Snapshot,
        plan: &'a Plan,
        extent: Extent,
    ) -> Self {
        let mut sorted: Vec<&Resource> = user.iter().collect();
        sorted.sort_by(|a, b| precedence(a).cmp(&precedence(b)));
        let key = |resource: &'a Resource| (resource.kind, resource.namespace(), resource.name());
        Self {
            snapshot,
            settings: snapshot.settings(),
            extent,
            objects: all
                .iter()
                .map(|resource| (key(resource), resource))
                .collect(),
            hosts: Hosts::new(user, snapshot),
            workloads: Workloads::new(user, all, plan),
            user: sorted,
        }
    }

    /// The user's objects of one kind, in order of precedence.
    fn of_kind<T: lateen_api::KindSpec>(&self) -> impl Iterator<Item = (&'a Resource, &'a T)> {
        self.user
            .iter()
            .filter_map(|resource| Some((*resource, resource.spec_as::<T>()?)))
    }

    fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Resource> {
        self.objects.get(&(kind, namespace, name)).copied()
    }

    /// The complete name of a host that an object of a namespace writes.
    fn complete(&self, host: &str, namespace: &str) -> String {
        host::resolve_host(
            &host.to_lowercase(),
            namespace,
            &self.settings.domain_suffix,
        )
    }

    fn is_whole(&self) -> bool {
        self.extent == Extent::Whole
    }
}

/// Of two objects that say different things of one, the older counts; files have no age, so there it is the name.
fn precedence(resource: &Resource) -> (&str, &str, &str) {
    (
        &resource.meta.creation_timestamp,
        &resource.meta.name,
        &resource.meta.namespace,
    )
}

impl Found {
    fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// The name that was probably meant.
    fn slip<'n>(&mut self, written: &str, names: &[&'n str]) -> Option<&'n str> {
        self.compared += 1;
        let close = || nearest(written, names).filter(|name| is_slip(written, name));
        (self.compared <= MAX_COMPARED).then(close).flatten()
    }
}

/// Whether a name differs from another in one place alone, and in more than a number: who writes `v2` does not mean `v1`.
fn is_slip(written: &str, name: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (written.chars().collect(), name.chars().collect());
    let shorter = a.len().min(b.len());
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let tail = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let other = a.len().max(b.len()) - head - tail.min(shorter - head);
    let letters =
        |name: &[char]| -> String { name.iter().filter(|c| !c.is_ascii_digit()).collect() };
    let added = name.starts_with(written) || name.ends_with(written);
    (added || other <= (a.len().max(b.len()) / 4).max(2)) && letters(&a) != letters(&b)
}

/// A finding about a field of an object.
fn on(
    resource: &Resource,
    (code, severity): (&'static str, Severity),
    field: &str,
    message: String,
) -> Diagnostic {
    Diagnostic::new(code, severity, message)
        .on(resource.reference())
        .at(field)
        .spanned(Some(resource.file_span(field)))
}

/// `key=value,key=value`.
fn labels_text(labels: &lateen_api::labels::Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

/// `` `a`, `b` and `c` ``, and how many more there are.
fn names_text<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 6;
    let all: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match all.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] if all.len() <= SHOWN => format!("{} and {last}", first.join(", ")),
        more => format!(
            "{} and {} more",
            more[..SHOWN].join(", "),
            more.len() - SHOWN
        ),
    }
}

/// Everything found about references, in the order of the passes.
pub(super) fn findings(known: &Known<'_>) -> Vec<Diagnostic> {
    let mut found = Found::default();
    virtual_services::findings(known, &mut found);
    several::findings(known, &mut found);
    destination_rules::findings(known, &mut found);
    gateways::findings(known, &mut found);
    selectors::findings(known, &mut found);
    services::findings(known, &mut found);
    injection::findings(known, &mut found);
    let Found {
        mut diagnostics,
        unchecked,
        ..
    } = found;
    diagnostics.retain(|diagnostic| !is_suppressed(known, diagnostic));
    diagnostics.extend(unchecked.finding());
    diagnostics
}

/// The annotation by which an object says that a code (`*`: any) is not to be told of it.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

fn is_suppressed(known: &Known<'_>, diagnostic: &Diagnostic) -> bool {
    let object = diagnostic.resource.as_ref().and_then(|reference| {
        let kind = Kind::from_user(&reference.kind)?;
        known.object(kind, &reference.namespace, &reference.name)
    });
    let codes = object.and_then(|object| object.meta.annotations.get(SUPPRESS));
    codes.is_some_and(|codes| {
        codes
            .split(',')
            .map(str::trim)
            .any(|code| code == "*" || code == diagnostic.code)
    })
}

#[cfg(test)]
mod tests;
