//! Fuzzes the parsers that face the network: `fuzz_network SECONDS [TARGET]`.
//!
//! Inputs are mutations of `tests/corpus`. A panic ends the run with the input as a file for the corpus; without one, it says how many inputs
//! each parser took. No instrumentation guides it: the parsers are small, and millions of inputs a minute reach them well.

#![allow(
    clippy::unwrap_used,
    reason = "a tool for developers: a failure is told and ends it"
)]

#[path = "../tests/support/mutate.rs"]
mod mutate;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mutate::{Mutator, corpus};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let only = arguments.next();
    let targets: Vec<_> = lateen_proxy::fuzzing::TARGETS
        .into_iter()
        .filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
        .collect();
    let each = Duration::from_secs(seconds) / u32::try_from(targets.len().max(1)).unwrap();
    let mut out = std::io::stdout();
    for (name, target) in targets {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut mutator = Mutator::new(u64::from(now.subsec_nanos()), corpus(name));
        let end = Instant::now() + each;
        let mut inputs = 0_u64;
        while Instant::now() < end {
            for _ in 0..1000 {
                let input = mutator.mutated();
                if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
                    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                    let _ = writeln!(out, "{name} panics at:\n{hex}");
                    return ExitCode::FAILURE;
                }
            }
            inputs += 1000;
        }
        let _ = writeln!(out, "{name}: {inputs} inputs");
    }
    ExitCode::SUCCESS
}
