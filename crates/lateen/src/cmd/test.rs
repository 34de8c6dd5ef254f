//! `lateen test`: users' assertions about a mesh, in milliseconds and without a socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lateen_api::SourceFile;
use lateen_api::diagnostic::{Diagnostic, Style, render};
use lateen_explain::meshtest::{CaseResult, Coverage, TestFile, junit};
use lateen_explain::{Look, Mesh, Options};
use lateen_sources::files::MESH_TEST;
use serde_json::json;

use crate::cli::{ReportOutput, TestArgs};
use crate::output::{self, print_json};
use crate::world;

/// Deepest directory that is searched for tests.
const DEEPEST: usize = 16;

pub(crate) fn run(namespace: Option<&str>, args: &TestArgs) -> Result<ExitCode> {
    let files = find(&args.paths)?;
    let mut meshes = Meshes::new(namespace);
    let mut ran = Vec::new();
    let mut broken = 0;
    for path in &files {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        let source = SourceFile::new(&shown, &text);
        match run_file(path, &source, &mut meshes)? {
            Ok(results) => ran.push((shown, results)),
            Err(found) => {
                broken += 1;
                report_mistakes(&source, &found);
            }
        }
    }
    if let Some(path) = &args.junit {
        fs::write(path, junit(&ran)).with_context(|| format!("writing {}", path.display()))?;
    }
    let coverage = meshes.coverage(&ran);
    match args.output {
        ReportOutput::Text => output::print(&text(&ran, &coverage, args.verbose))?,
        ReportOutput::Json => print_json(&json!({
            "files": ran.iter().map(|(file, results)| json!({"file": file, "results": results})).collect::<Vec<_>>(),
            "coverage": coverage,
        }))?,
    }
    let passed = ran
        .iter()
        .all(|(_, results)| results.iter().all(CaseResult::passed));
    Ok(if passed && broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_file(
    path: &Path,
    source: &SourceFile,
    meshes: &mut Meshes<'_>,
) -> Result<Result<Vec<CaseResult>, Vec<Diagnostic>>> {
    let (file, found) = TestFile::parse(source);
    if found.iter().any(Diagnostic::is_error) {
        return Ok(Err(found));
    }
    let mesh = meshes.of(path, &file)?;
    let options = Options {
        now: output::now().unsigned_abs(),
        ..Options::default()
    };
    Ok(file.run(mesh, options))
}

fn report_mistakes(source: &SourceFile, found: &[Diagnostic]) {
    for diagnostic in found {
        eprintln!(
            "{}",
            render(diagnostic, Some(&source.text), Style { color: false })
        );
    }
}

/// The meshes that tests are about, each read once.
struct Meshes<'a> {
    namespace: Option<&'a str>,
    known: BTreeMap<Vec<PathBuf>, Mesh>,
    of_file: BTreeMap<String, Vec<PathBuf>>,
}

impl<'a> Meshes<'a> {
    fn new(namespace: Option<&'a str>) -> Self {
        Self {
            namespace,
            known: BTreeMap::new(),
            of_file: BTreeMap::new(),
        }
    }

    /// The mesh of a file of tests: what it names, from its directory.
    fn of(&mut self, path: &Path, file: &TestFile) -> Result<&Mesh> {
        let home = match path.parent() {
            Some(home) if home != Path::new("") => home,
            _ => Path::new("."),
        };
        let paths: Vec<PathBuf> = match &file.test.mesh[..] {
            [] => vec![home.to_owned()],
            given => given.iter().map(|given| home.join(given)).collect(),
        };
        self.of_file
            .insert(path.display().to_string(), paths.clone());
        if !self.known.contains_key(&paths) {
            let namespace = match file.test.namespace.as_str() {
                "" => self.namespace.unwrap_or("default"),
                namespace => namespace,
            };
            let loaded = world::read(paths.clone(), namespace)
                .with_context(|| format!("the mesh of {}", path.display()))?;
            let inputs = world::inputs_of_files(&loaded, None).taking_described_tokens();
            self.known.insert(paths.clone(), Mesh::new(inputs));
        }
        self.known.get(&paths).context("a mesh that was just read")
    }

    /// What all tests together exercise of each mesh.
    fn coverage(&self, ran: &[(String, Vec<CaseResult>)]) -> Coverage {
        let mut all = Coverage::default();
        for (paths, mesh) in &self.known {
            let results: Vec<CaseResult> = ran
                .iter()
                .filter(|(file, _)| self.of_file.get(file) == Some(paths))
                .flat_map(|(_, results)| results.clone())
                .collect();
            all.rules.extend(Coverage::of(mesh, &results).rules);
        }
        all
    }
}

fn text(ran: &[(String, Vec<CaseResult>)], coverage: &Coverage, verbose: bool) -> String {
    let colour = output::colour();
    let paint = |code: &str, text: &str| {
        if colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = String::new();
    let (mut passed, mut failed) = (0, 0);
    for (file, results) in ran {
        out.push_str(&format!("{file}\n"));
        for result in results {
            let ok = result.passed();
            *(if ok { &mut passed } else { &mut failed }) += 1;
            let mark = if ok {
                paint("32", "✓")
            } else {
                paint("31", "✗")
            };
            out.push_str(&format!("  {mark} {}\n", result.name));
            for failure in &result.failures {
                let at = paint("2", &failure.source.to_string());
                let field = match failure.field.as_str() {
                    "" => String::new(),
                    field => format!("{field}: "),
                };
                out.push_str(&format!("      {field}{}   {at}\n", failure.message));
            }
            let explained = result.explanation.as_ref().filter(|_| verbose && !ok);
            if let Some(explanation) = explained {
                let look = Look {
                    colour,
                    verbose: false,
                };
                for line in lateen_explain::render(explanation, look).lines() {
                    out.push_str(format!("      {line}").trim_end());
                    out.push('\n');
                }
            }
        }
    }
    let total = coverage.rules.len();
    out.push_str(&format!(
        "\n{passed} passed, {failed} failed; {} of {total} rules exercised\n",
        coverage.exercised()
    ));
    for place in coverage.missing() {
        let field = place.field.trim_start_matches("spec.");
        let source = place
            .source
            .as_ref()
            .map_or_else(String::new, |s| format!("{s} "));
        let line = format!("  not exercised: {source}{} {field}", place.object);
        out.push_str(&format!("{}\n", paint("2", &line)));
    }
    out
}

/// The files of tests among these paths and below them.
fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let meta = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        if meta.is_dir() {
            walk(path, 0, &mut found)?;
        } else {
            found.push(path.clone());
        }
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "there are no *{MESH_TEST} files in {}; docs/reference/meshtest.md says how to write one",
            paths.join(", ")
        );
    }
    Ok(found)
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEEPEST {
        return Ok(());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", dir.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if name.ends_with(MESH_TEST) {
            found.push(path);
        }
    }
    Ok(())
}
