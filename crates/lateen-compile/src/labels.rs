//! Label selection.

use std::collections::BTreeMap;

/// Whether every label of `selector` is among `labels`. An empty selector selects everything.
pub(crate) fn is_subset(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    #[cfg(test)]
    COMPARED.set(COMPARED.get() + 1);
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
thread_local! {
    /// How many selectors this thread has compared with labels.
    pub(crate) static COMPARED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
