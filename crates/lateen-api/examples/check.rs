//! Reads manifests, or the YAML blocks of Markdown, and prints what is wrong with them: `check FILE…`.

use std::process::ExitCode;

use lateen_api::diagnostic::{Style, render};
use lateen_api::{SourceFile, parse_file, validate};

fn main() -> ExitCode {
    let mut errors = 0;
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::from(2);
            }
        };
        let file = SourceFile::new(&path, &text);
        let parsed = parse_file(&file, "default");
        let mut found = parsed.diagnostics;
        found.extend(parsed.resources.iter().flat_map(validate));
        for diagnostic in &found {
            print!("{}", render(diagnostic, Some(&text), Style::default()));
        }
        errors += found
            .iter()
            .filter(|diagnostic| diagnostic.is_error())
            .count();
        println!(
            "{path}: {} resources, {} others",
            parsed.resources.len(),
            parsed.others.len()
        );
    }
    ExitCode::from(u8::from(errors > 0))
}
