//! Which rules of a mesh no test exercises: routes, their matches and destinations, and access rules.

use std::collections::BTreeSet;

use lateen_api::{Resource, Spec};
use serde::Serialize;

use super::CaseResult;
use crate::mesh::Mesh;
use crate::place::{Place, Places};

/// A rule, and whether a test took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The rule.
    pub place: Place,
    /// Whether a test took it.
    pub exercised: bool,
}

/// The rules of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Every rule, by object and field.
    pub rules: Vec<Rule>,
}

impl Coverage {
    /// What these results exercise of a mesh.
    pub fn of(mesh: &Mesh, results: &[CaseResult]) -> Self {
        let taken: BTreeSet<(String, String)> = results
            .iter()
            .filter_map(|result| result.explanation.as_ref())
            .flat_map(|explanation| &explanation.branches)
            .flat_map(|branch| branch.facts.touched.iter().cloned())
            .collect();
        let places = mesh.places();
        let rules = places
            .objects()
            .flat_map(|(object, resource)| rules(places, object, resource))
            .map(|place| Rule {
                exercised: is_taken(&taken, &place),
                place,
            });
        Self {
            rules: rules.collect(),
        }
    }

    /// How many rules a test took.
    pub fn exercised(&self) -> usize {
        self.rules.iter().filter(|rule| rule.exercised).count()
    }

    /// The rules no test took.
    pub fn missing(&self) -> impl Iterator<Item = &Place> {
        let missing = self.rules.iter().filter(|rule| !rule.exercised);
        missing.map(|rule| &rule.place)
    }
}

/// A rule is taken if itself or a part of it decided.
fn is_taken(taken: &BTreeSet<(String, String)>, place: &Place) -> bool {
    taken.iter().any(|(object, field)| {
        *object == place.object
            && field
                .strip_prefix(&place.field)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

fn rules(places: &Places, object: &str, resource: &Resource) -> Vec<Place> {
    let mut fields = Vec::new();
    match &*resource.spec {
        Spec::VirtualService(spec) => {
            for (index, route) in spec.http.iter().enumerate() {
                let base = format!("spec.http[{index}]");
                parts(&mut fields, &base, "match", route.r#match.len());
                parts(&mut fields, &base, "route", route.route.len());
                if route.r#match.len() < 2 && route.route.len() < 2 {
                    fields.push(base);
                }
            }
            fields.extend((0..spec.tls.len()).map(|index| format!("spec.tls[{index}]")));
            fields.extend((0..spec.tcp.len()).map(|index| format!("spec.tcp[{index}]")));
        }
        Spec::AuthorizationPolicy(spec) => {
            fields.extend((0..spec.rules.len()).map(|index| format!("spec.rules[{index}]")));
        }
        _ => {}
    }
    fields
        .into_iter()
        .map(|field| places.of(object, &field))
        .collect()
}

/// The parts of a route, where it has several.
fn parts(fields: &mut Vec<String>, base: &str, name: &str, count: usize) {
    if count > 1 {
        fields.extend((0..count).map(|index| format!("{base}.{name}[{index}]")));
    }
}
