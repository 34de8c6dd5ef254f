//! The API's rules.

use crate::diagnostic::Diagnostic;
use crate::resource::Resource;

/// Checks `resource` against the rules of its API.
pub fn validate(resource: &Resource) -> Vec<Diagnostic> {
    let _ = resource;
    Vec::new()
}
