//! Repository tasks. `cargo xtask tidy` holds the rules that the compiler and clippy cannot: the direction of
//! dependencies, file headers, file sizes, inherited lints and messages that nobody explains. `cargo xtask fuzz` runs the fuzzer guided by coverage.

mod fuzz;
mod tidy;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        _ if fuzz::is_wrapping() => fuzz::wrap().map(|()| String::new()),
        Some((task, [])) if task == "tidy" => tidy::run(),
        Some((task, rest)) if task == "fuzz" => fuzz::run(rest).map(|()| String::new()),
        _ => Err(anyhow::anyhow!(
            "usage: cargo xtask tidy | cargo xtask fuzz TARGET [--seconds N] [--reached DIR] …"
        )),
    };
    match result {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
