//! The traffic engine, loaded with what was compiled.

use std::sync::Arc;

use lateen_compile::Compiled;
use lateen_traffic::{Change, Program, Rejection};

/// The program of what was compiled.
pub(crate) fn load(compiled: &Compiled) -> (Program, Vec<Rejection>) {
    let changes: Vec<Change> = compiled
        .resources
        .iter()
        .flat_map(|(ty, resources)| {
            let resources = Arc::clone(resources);
            resources
                .values()
                .map(|resource| Change::Upsert(ty, resource.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    Program::new().update(&changes)
}
