//! Every traffic and security example in the documents that people read before they come: it behaves as the document says, and one that holds
//! a mistake gets the right diagnostic.
//!
//! `seeds/DOCUMENT-SECTION.meshtest.yaml` are the scenarios. Their first lines say, in comments, what the manifest is and what stands around it:
//!
//! ```text
//! # seed: 000, Virtual Service              the YAML below that heading; `, 2` for its second block; may be given again
//! # edit: OLD => NEW                        a change that has to be made to it (`\n` is a line's end), may be given again
//! # from: TEXT                              the block from the line that begins with this on
//! # workloads: client web/v1 pay@payer.shop !job.plain
//! #                                         services with a deployment each: name, version, account, namespace; `!` without a sidecar
//! # subsets: web v1 v2                      a DestinationRule
//! # secret: name.namespace                  a certificate for a gateway
//! # finds: LAT3054 IST0133                  the codes of all errors and warnings that `lateen validate` has about the manifest
//! ```
//!
//! The manifests are read in place from `LATEEN_SEEDS`; the commands are those that users run.

#![expect(clippy::print_stderr, reason = "tests say loudly what they skip")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Blocks of Istio's traffic and security kinds that no scenario is about, and why.
const NOT_COVERED: &[(&str, &str, &str)] = &[
    (
        "000",
        "Distributed Tracing Setup",
        "traces: nothing of it routes or decides",
    ),
    (
        "002",
        "Plugins and Extensions",
        "a WasmPlugin: nothing follows from it (LAT0601)",
    ),
];

/// Scenarios that run at a time: each is two short processes.
const AT_ONCE: usize = 4;

/// Kinds that route, or decide who may do what.
const KINDS: [&str; 10] = [
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "ServiceEntry",
    "Sidecar",
    "EnvoyFilter",
    "PeerAuthentication",
    "RequestAuthentication",
    "AuthorizationPolicy",
    "WasmPlugin",
];

/// A fenced block of a document.
#[derive(Debug)]
struct Block {
    document: String,
    section: String,
    /// Among the blocks of its section, from 1.
    number: usize,
    text: String,
}

fn seeds() -> Option<Vec<Block>> {
    let Some(dir) = std::env::var_os("LATEEN_SEEDS").map(PathBuf::from) else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: LATEEN_SEEDS does not name the directory of seed documents"
        );
        return None;
    };
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    Some(files.iter().flat_map(|file| blocks(file)).collect())
}

/// The blocks of a document that hold manifests, be they fenced as YAML or as a shell's.
fn blocks(file: &Path) -> Vec<Block> {
    let document: String = file
        .file_name()
        .unwrap()
        .to_string_lossy()
        .chars()
        .take(3)
        .collect();
    let text = fs::read_to_string(file).unwrap();
    let mut out: Vec<Block> = Vec::new();
    let mut section = String::new();
    let mut open: Option<(usize, String)> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        match &mut open {
            None if line.starts_with('#') => section = heading(line),
            None if trimmed.starts_with("```") && trimmed.trim() != "```" => {
                open = Some((line.len() - trimmed.len(), String::new()));
            }
            None => {}
            Some((_, text)) if trimmed.starts_with("```") => {
                if text.contains("apiVersion:") {
                    let same = |b: &&Block| b.section == section && b.document == document;
                    out.push(Block {
                        number: out.iter().filter(same).count() + 1,
                        document: document.clone(),
                        section: section.clone(),
                        text: std::mem::take(text),
                    });
                }
                open = None;
            }
            Some((indent, text)) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
        }
    }
    out
}

/// A heading's words, without marks and anchors.
fn heading(line: &str) -> String {
    let words = line.trim_matches(['#', ' ', '*']);
    words
        .split("{#")
        .next()
        .unwrap_or(words)
        .trim()
        .trim_end_matches('*')
        .to_owned()
}

/// A scenario's file: what its comments say, and its text.
#[derive(Debug)]
struct Scenario {
    name: String,
    says: Vec<(String, String)>,
    text: String,
}

impl Scenario {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let says = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once(": "))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
        Self {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            says: says.collect(),
            text: text.clone(),
        }
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.says.iter().filter(move |(own, _)| own == key);
        own.map(|(_, value)| value.as_str())
    }

    /// The blocks it is about.
    fn blocks<'b>(&self, seeds: &'b [Block]) -> Vec<&'b Block> {
        let mut out = Vec::new();
        for wanted in self.all("seed") {
            let (document, rest) = wanted.split_once(", ").unwrap();
            let (section, number) = match rest.rsplit_once(", ") {
                Some((section, number)) if number.parse::<usize>().is_ok() => {
                    (section, number.parse::<usize>().ok())
                }
                _ => (rest, None),
            };
            let before = out.len();
            out.extend(seeds.iter().filter(|block| {
                block.document == document
                    && block.section == section
                    && number.is_none_or(|number| block.number == number)
            }));
            assert!(out.len() > before, "{}: no block {wanted}", self.name);
        }
        assert!(
            !out.is_empty(),
            "{} does not say which manifest it is about",
            self.name
        );
        out
    }

    /// The manifest, with the changes that have to be made.
    fn manifest(&self, seeds: &[Block]) -> String {
        let texts = self.blocks(seeds).into_iter().map(|block| {
            let begin = self.all("from").find_map(|from| block.text.find(from));
            block.text[begin.unwrap_or(0)..].to_owned()
        });
        let mut text = texts.collect::<Vec<_>>().join("---\n");
        for edit in self.all("edit") {
            let (old, new) = edit.split_once(" => ").unwrap();
            let (old, new) = (old.replace("\\n", "\n"), new.replace("\\n", "\n"));
            assert!(text.contains(&old), "{}: no {old:?} in:\n{text}", self.name);
            text = text.replacen(&old, &new, 1);
        }
        text
    }

    /// What stands around the manifest.
    fn surroundings(&self) -> String {
        let mut out = String::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut add = |key: String, text: String| {
            if known.insert(key) {
                out.push_str(&format!("---\n{text}\n"));
            }
        };
        for word in self.all("workloads").flat_map(str::split_whitespace) {
            let workload = Workload::parse(word);
            for (key, text) in workload.objects() {
                add(key, text);
            }
        }
        for line in self.all("subsets") {
            let mut words = line.split_whitespace();
            let host = words.next().unwrap();
            let subsets: Vec<String> = words
                .map(|name| format!("{{name: {name}, labels: {{version: {name}}}}}"))
                .collect();
            let (name, namespace) = host.split_once('.').unwrap_or((host, "default"));
            add(
                format!("subsets {host}"),
                format!(
                    "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: zz-{name}, namespace: {namespace}}}, \
                     spec: {{host: {name}, subsets: [{}]}}}}",
                    subsets.join(", ")
                ),
            );
        }
        for name in self.all("secret") {
            add(format!("secret {name}"), secret(name));
        }
        out
    }
}

/// A service with a deployment: `[!]NAME[/VERSION][@ACCOUNT][.NAMESPACE]`.
struct Workload<'a> {
    name: &'a str,
    version: &'a str,
    account: &'a str,
    namespace: &'a str,
    injected: bool,
}

impl<'a> Workload<'a> {
    fn parse(word: &'a str) -> Self {
        let (word, namespace) = word.split_once('.').unwrap_or((word, "default"));
        let (word, account) = word.split_once('@').unwrap_or((word, "default"));
        let (name, version) = word.split_once('/').unwrap_or((word, ""));
        Self {
            name: name.trim_start_matches('!'),
            version,
            account,
            namespace,
            injected: !word.starts_with('!'),
        }
    }

    fn objects(&self) -> Vec<(String, String)> {
        let Self {
            name,
            version,
            account,
            namespace,
            injected,
        } = self;
        let label = if version.is_empty() {
            String::new()
        } else {
            format!(", version: {version}")
        };
        let deployment = [*name, version].join("-");
        let deployment = deployment.trim_end_matches('-');
        let injection = if *injected { "enabled" } else { "disabled" };
        vec![
            (
                format!("namespace {namespace}"),
                format!(
                    "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{istio-injection: {injection}}}}}}}"
                ),
            ),
            (
                format!("account {namespace}/{account}"),
                format!(
                    "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: {namespace}}}}}"
                ),
            ),
            (
                format!("service {namespace}/{name}"),
                format!(
                    "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{selector: {{app: {name}}}, \
                     ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: http-alt, port: 8080}}]}}}}"
                ),
            ),
            (
                format!("deployment {namespace}/{deployment}"),
                format!(
                    "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {deployment}, namespace: {namespace}}}, \
                     spec: {{selector: {{matchLabels: {{app: {name}{label}}}}}, template: {{metadata: {{labels: {{app: {name}{label}}}}}, \
                     spec: {{serviceAccountName: {account}, containers: [{{name: c, image: {name}, ports: [{{containerPort: 8080}}]}}]}}}}}}}}"
                ),
            ),
        ]
    }
}

/// A Secret with a certificate that signs itself.
fn secret(name: &str) -> String {
    let (name, namespace) = name.split_once('.').unwrap();
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    let indented = |pem: &str| pem.trim().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n    {}\n  tls.key: |\n    {}",
        indented(&made.cert.pem()),
        indented(&made.signing_key.serialize_pem())
    )
}

fn lateen(dir: &Path, args: &[&str]) -> (Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lateen"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        said,
    )
}

/// What is not as the scenario says.
fn run(scenario: &Scenario, seeds: &[Block]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("seed.yaml", &scenario.manifest(seeds));
    write("zz-around.yaml", &scenario.surroundings());
    write("own.meshtest.yaml", &scenario.text);
    let mut wrong = Vec::new();

    let (found, _) = lateen(dir.path(), &["validate", "-o", "json", "."]);
    let about_seed = |found: &&Value| {
        let path = found["span"]["path"].as_str().unwrap_or_default();
        path.ends_with("seed.yaml") && found["severity"] != "info"
    };
    let found = found["diagnostics"].as_array().cloned().unwrap_or_default();
    let found: Vec<&Value> = found.iter().filter(about_seed).collect();
    let codes: BTreeSet<&str> = found.iter().filter_map(|d| d["code"].as_str()).collect();
    let wanted: BTreeSet<&str> = scenario
        .all("finds")
        .flat_map(str::split_whitespace)
        .collect();
    if codes != wanted {
        wrong.push(format!("found {codes:?}, not {wanted:?}:"));
        wrong.extend(found.iter().map(|d| {
            format!(
                "  {} {} {}: {}",
                d["code"], d["span"]["line"], d["field"], d["message"]
            )
        }));
    }

    let (report, said) = lateen(dir.path(), &["test", "-o", "json", "own.meshtest.yaml"]);
    let results = report["files"][0]["results"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if results.is_empty() {
        wrong.push(format!("nothing was tested: {said}"));
    }
    for result in &results {
        for failure in result["failures"].as_array().into_iter().flatten() {
            wrong.push(format!(
                "{}: {}: {}",
                result["name"], failure["field"], failure["message"]
            ));
        }
    }
    wrong
}

fn scenarios() -> Vec<Scenario> {
    let mut files: Vec<PathBuf> = fs::read_dir("tests/seeds")
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|path| Scenario::read(path)).collect()
}

#[test]
fn every_example_behaves_as_its_document_says() {
    let Some(seeds) = seeds() else { return };
    let scenarios = scenarios();
    let share = scenarios.len().div_ceil(AT_ONCE).max(1);
    let wrong: BTreeMap<String, Vec<String>> = std::thread::scope(|scope| {
        let of = |scenario: &Scenario| (scenario.name.clone(), run(scenario, &seeds));
        let threads: Vec<_> = scenarios
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(of).collect::<Vec<_>>()))
            .collect();
        let all = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        all.filter(|(_, wrong)| !wrong.is_empty()).collect()
    });
    eprintln!(
        "seeds: {} scenarios, {} wrong",
        scenarios.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_example_has_a_scenario() {
    let Some(seeds) = seeds() else { return };
    let scenarios = scenarios();
    let covered: Vec<&Block> = scenarios.iter().flat_map(|s| s.blocks(&seeds)).collect();
    let is_ours = |block: &&Block| {
        let mut lines = block.text.lines().map(str::trim);
        lines.any(|line| KINDS.iter().any(|kind| line == format!("kind: {kind}")))
    };
    let missing: Vec<String> = seeds
        .iter()
        .filter(is_ours)
        .filter(|block| !covered.iter().any(|own| std::ptr::eq(*own, *block)))
        .filter(|block| {
            let known = |(document, section, _): &(&str, &str, &str)| {
                *document == block.document && *section == block.section
            };
            !NOT_COVERED.iter().any(known)
        })
        .map(|block| format!("{}, {}, {}", block.document, block.section, block.number))
        .collect();
    assert!(
        missing.is_empty(),
        "no scenario for:\n{}",
        missing.join("\n")
    );
}
