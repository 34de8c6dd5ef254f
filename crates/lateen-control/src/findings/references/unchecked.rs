//! References that were not judged, because what they name may stand in files that are not at hand.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::{Diagnostic, Severity};

/// Some references lead out of the input.
const UNCHECKED: &str = "LAT3019";

/// What was passed over, by what it would have named.
#[derive(Default)]
pub(super) struct Unchecked(BTreeMap<&'static str, BTreeSet<String>>);

impl Unchecked {
    /// Notes a reference to a thing of a sort.
    pub(super) fn add(&mut self, sort: &'static str, name: impl Into<String>) {
        self.0.entry(sort).or_default().insert(name.into());
    }

    /// One note for all of them.
    pub(super) fn finding(self) -> Option<Diagnostic> {
        let parts = self.0.iter().map(|(sort, names)| {
            let names = super::names_text(names.iter().map(String::as_str));
            format!("{sort} {names}")
        });
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() {
            return None;
        }
        let message = format!(
            "not checked, because these files hold nothing of the kind there: {}",
            parts.join("; ")
        );
        let note = Diagnostic::new(UNCHECKED, Severity::Info, message)
            .effect("a name that is misspelt here is not told")
            .fix("give the files of the whole mesh, so that every name can be looked up");
        Some(note)
    }
}
