//! `lateen validate`: every problem in files, with its place and its fix. Exit status 1 when there are errors.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use lateen_api::SourceFile;
use lateen_api::diagnostic::{Diagnostic, Severity, Style, render};
use lateen_control::findings::{Extent, findings, settings};
use lateen_sources::files::{Loaded, Reader};
use serde_json::json;

use crate::cli::{DataPlane, ReportOutput, ValidateArgs};
use crate::output::{self, print_json};

pub(crate) fn run(namespace: Option<&str>, args: &ValidateArgs) -> Result<ExitCode> {
    let namespace = namespace.unwrap_or("default");
    let paths: Vec<PathBuf> = args.filename.iter().chain(&args.paths).cloned().collect();
    let mut loaded = if paths == [Path::new("-")] {
        standard_input(namespace)?
    } else {
        Reader::new(paths, namespace).read().unwrap_or_default()
    };
    let resources = loaded.resources.to_vec();
    let settings = settings(&resources, true);
    let native = args.data_plane == DataPlane::Lateen;
    let between = findings(&resources, &settings, native, Extent::Part);
    loaded.diagnostics.extend(between);
    loaded
        .diagnostics
        .sort_by(|a, b| (&a.span, a.severity, a.code).cmp(&(&b.span, b.severity, b.code)));
    loaded.diagnostics.dedup();
    match args.output {
        ReportOutput::Text => output::print(&report(&loaded, output::colour()))?,
        ReportOutput::Json => print_json(&json!({
            "objects": loaded.resources.len(),
            "passedOver": loaded.others.len(),
            "diagnostics": loaded.diagnostics,
        }))?,
    }
    Ok(if loaded.has_errors() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The objects that come by standard input.
pub(crate) fn standard_input(namespace: &str) -> Result<Loaded> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .context("reading standard input")?;
    Ok(Reader::parse_text(
        SourceFile::new("<stdin>", &text),
        namespace,
    ))
}

/// The findings with their snippets, and a last line that counts them.
pub(crate) fn report(loaded: &Loaded, color: bool) -> String {
    let mut text = String::new();
    for diagnostic in &loaded.diagnostics {
        text.push_str(&rendered(diagnostic, loaded, color));
        text.push('\n');
    }
    let count = |severity| {
        loaded
            .diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    };
    let objects = loaded.resources.len() + loaded.others.len();
    let files = loaded.files.len();
    text.push_str(&format!(
        "{} in {}: {}, {}, {}\n",
        plural(objects, "object"),
        plural(files, "file"),
        plural(count(Severity::Error), "error"),
        plural(count(Severity::Warning), "warning"),
        plural(count(Severity::Info), "note"),
    ));
    text
}

/// One finding with its snippet.
pub(crate) fn rendered(diagnostic: &Diagnostic, loaded: &Loaded, color: bool) -> String {
    let path = diagnostic.span.as_ref().map(|span| &span.path);
    let source = path.and_then(|path| loaded.files.iter().find(|file| file.path == *path));
    let source = source.map(|file| &*file.text);
    render(diagnostic, source, Style { color })
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
