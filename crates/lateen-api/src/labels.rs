//! Which objects a selector selects, by their labels.

use std::collections::BTreeMap;

use crate::kube::{LabelSelector, LabelSelectorRequirement};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether `labels` hold every pair of `wanted`. Nothing wanted is held by all.
pub fn is_superset(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether `selector` selects an object with `labels`. An empty selector selects everything.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    is_superset(labels, &selector.match_labels)
        && selector
            .match_expressions
            .iter()
            .all(|requirement| holds(requirement, labels))
}

/// An operator that is not known holds for nothing: a selector must never be wider than it was written.
fn holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| requirement.values.contains(value)),
        "NotIn" => value.is_none_or(|value| !requirement.values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn requirement(operator: &str, values: &[&str]) -> LabelSelector {
        let requirement = LabelSelectorRequirement {
            key: "app".to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        LabelSelector {
            match_expressions: vec![requirement],
            ..LabelSelector::default()
        }
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(selects(&LabelSelector::default(), &labels(&[])));
    }

    #[test]
    fn not_in_holds_for_objects_without_the_label() {
        assert!(selects(&requirement("NotIn", &["a"]), &labels(&[])));
        assert!(!selects(&requirement("In", &["a"]), &labels(&[])));
        assert!(selects(
            &requirement("In", &["a"]),
            &labels(&[("app", "a")])
        ));
        assert!(selects(
            &requirement("Exists", &[]),
            &labels(&[("app", "")])
        ));
    }

    #[test]
    fn an_unknown_operator_selects_nothing() {
        assert!(!selects(
            &requirement("Gt", &["1"]),
            &labels(&[("app", "2")])
        ));
    }
}
