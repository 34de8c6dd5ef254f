//! The objects of Istio's default installation, which exist without being declared.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use lateen_api::{Kind, Resource, SourceFile};

/// Parsed once: they are asked for with every change of the mesh.
static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let file = SourceFile::new("<default installation>", include_str!("defaults.yaml"));
    lateen_api::parse_file(&file, "default").resources
});

/// The objects, parsed. They are part of the program: that they parse is held by a test.
pub fn resources() -> Vec<Resource> {
    RESOURCES.clone()
}

/// Whether an object is called as one of them is.
pub fn is_default(resource: &Resource) -> bool {
    let is_alike = |known: &Resource| {
        known.kind == resource.kind
            && (known.namespace(), known.name()) == (resource.namespace(), resource.name())
    };
    RESOURCES.iter().any(is_alike)
}

/// The user's objects, and those defaults that the user did not declare.
pub fn with_defaults(user: &[Resource]) -> Vec<Resource> {
    fn key(resource: &Resource) -> (Kind, &str, &str) {
        (resource.kind, resource.namespace(), resource.name())
    }
    let defaults: BTreeSet<_> = RESOURCES.iter().map(key).collect();
    let user_keys = user.iter().map(key);
    let declared: BTreeSet<_> = user_keys.filter(|key| defaults.contains(key)).collect();
    let missing = RESOURCES.iter().filter(|r| !declared.contains(&key(r)));
    missing.chain(user).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_installation_parses_without_a_remark() {
        let file = SourceFile::new("defaults.yaml", include_str!("defaults.yaml"));
        let parsed = lateen_api::parse_file(&file, "default");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let remarks: Vec<_> = parsed
            .resources
            .iter()
            .flat_map(lateen_api::validate)
            .collect();
        assert!(remarks.is_empty(), "{remarks:?}");
    }
}
