//! The YAML in the documents that users read before they come, read in place from the directory `$LATEEN_SEEDS`.
//!
//! Each block has to parse, or to get a diagnostic with a place; an error has to say what to do where that can be told.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lateen_api::diagnostic::{Style, render};
use lateen_api::{Diagnostic, SourceFile, parse_file, validate};

#[test]
fn every_manifest_parses_or_is_explained() {
    let Some(dir) = std::env::var_os("LATEEN_SEEDS") else {
        let _ = writeln!(io::stderr(), "SKIPPED seeds: LATEEN_SEEDS is not set");
        return;
    };
    let (mut blocks, mut clean) = (0, 0);
    for file in documents(Path::new(&dir)) {
        let text = std::fs::read_to_string(&file).expect("a document is text");
        for block in yaml_blocks(&file, &text) {
            let found = findings(&block);
            blocks += 1;
            clean += usize::from(!found.iter().any(Diagnostic::is_error));
            for diagnostic in &found {
                print!(
                    "{}",
                    render(diagnostic, Some(&block.text), Style::default())
                );
                check_explained(diagnostic, &block);
            }
        }
    }
    println!("seeds: {blocks} blocks, {clean} without errors");
    assert!(
        blocks > 0,
        "no YAML blocks in {}",
        Path::new(&dir).display()
    );
}

fn findings(block: &SourceFile) -> Vec<Diagnostic> {
    let parsed = parse_file(block, "default");
    let validated = parsed
        .resources
        .iter()
        .chain(&parsed.refused)
        .flat_map(validate);
    parsed
        .diagnostics
        .iter()
        .cloned()
        .chain(validated)
        .collect()
}

/// A finding has a place inside the block, an effect, and a message of one line.
fn check_explained(diagnostic: &Diagnostic, block: &SourceFile) {
    let span = diagnostic
        .span
        .as_ref()
        .unwrap_or_else(|| panic!("no place: {diagnostic:?}"));
    let end = (span.offset + span.len) as usize;
    assert!(
        end <= block.text.len() && span.line > 0,
        "outside: {diagnostic:?}"
    );
    assert!(!diagnostic.effect.is_empty(), "no effect: {diagnostic:?}");
    assert!(
        !diagnostic.message.contains('\n'),
        "several lines: {diagnostic:?}"
    );
}

fn documents(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ext| ext == "txt" || ext == "md")
        })
        .collect();
    files.sort();
    files
}

/// The fenced blocks of YAML and JSON, without their indentation.
fn yaml_blocks(path: &Path, text: &str) -> Vec<SourceFile> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match &mut open {
            None => {
                let language = trimmed
                    .strip_prefix("```")
                    .map(str::trim)
                    .unwrap_or_default();
                if matches!(language, "yaml" | "yml" | "json") {
                    open = Some((number + 1, line.len() - trimmed.len(), String::new()));
                }
            }
            Some((start, _, block)) if trimmed.starts_with("```") => {
                let name = format!("{}:{start}", path.display());
                blocks.push(SourceFile::new(&name, block));
                open = None;
            }
            Some((_, indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
        }
    }
    blocks
}
