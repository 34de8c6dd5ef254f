//! Label selection.

use std::collections::BTreeMap;

/// Whether every label of `selector` is among `labels`. An empty selector selects everything.
pub(crate) fn is_subset(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
