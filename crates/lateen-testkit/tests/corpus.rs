//! Every parser that faces the network, over its corpus and over mutations of it: nothing breaks.
//!
//! `cargo run -p lateen-testkit --bin fuzz -- network --seconds N` goes on for as long as one likes.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use lateen_testkit::fuzz::network::parsers;

/// Mutations of each parser in a test run, and how long they may take: a few seconds in all.
const MUTATIONS: u64 = 20_000;
const TIME: Duration = Duration::from_millis(1500);

#[test]
fn no_parser_that_faces_the_network_breaks() {
    for parser in parsers().unwrap() {
        parser.exercise(MUTATIONS, TIME).unwrap();
    }
}
