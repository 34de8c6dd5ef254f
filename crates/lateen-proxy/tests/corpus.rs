//! Every parser that faces the network, over its corpus and over mutations of it: none may panic.
//!
//! `cargo run -p lateen-proxy --example fuzz_network -- SECONDS [TARGET]` goes on for as long as one likes, and prints what it finds as a file
//! for the corpus. Files are hexadecimal, so that they can be read and reviewed; what follows a `#` is a remark.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/mutate.rs"]
mod mutate;

use mutate::{Mutator, corpus};

/// Mutations of each target in a test run: a second or two in all.
const MUTATIONS: usize = 20_000;

#[test]
fn no_parser_that_faces_the_network_panics() {
    for (name, target) in lateen_proxy::fuzzing::TARGETS {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name} has no corpus");
        for seed in &seeds {
            target(seed);
            for end in 0..seed.len().min(2048) {
                target(&seed[..end]);
            }
        }
        let mut mutator = Mutator::new(1, seeds);
        for _ in 0..MUTATIONS {
            target(mutator.mutated());
        }
    }
}
