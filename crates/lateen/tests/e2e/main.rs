//! Whole meshes: real processes, network namespaces, certificates and traffic, on both data planes.

#![expect(clippy::print_stderr, reason = "tests say loudly what they skip")]

mod mesh;
mod scenario;

use std::fs;
use std::sync::{Mutex, PoisonError};

use mesh::{DataPlane, available, repository};
use scenario::Scenario;

/// Meshes are started one at a time: each is a dozen processes, and the tests' timing is part of what they check.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn run_scenario(file: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = repository().join("crates/lateen/tests/scenarios").join(file);
    let scenario = Scenario::parse(&fs::read_to_string(path).expect("the scenario"));
    let mut failures = Vec::new();
    for data_plane in DataPlane::BOTH.into_iter().filter(|d| available(*d)) {
        failures.extend(scenario.run(data_plane));
    }
    assert!(failures.is_empty(), "{}:\n{}", scenario.title, failures.join("\n"));
}
