//! Feeds changed inputs to what reads them, and keeps the ones that break something: manifests to the front end and to the compiler,
//! bytes to the parsers that face the network.
//!
//! An input breaks something if a step panics, takes longer than a second, or makes the traffic engine refuse what the compiler
//! made of it: a proxy must be able to use everything that validation lets through.

mod compile;
mod coverage;
mod guide;
mod jwt;
mod messages;
mod mutate;
pub mod network;
mod yaml;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use mutate::Random;

/// Longer than this is a finding: a control plane compiles for everybody.
const SLOW: Duration = Duration::from_secs(1);

/// How to fuzz.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What gets the inputs: `yaml` (parsing, validating and rendering what is found), `compile` (the same, then compiling for a
    /// sidecar and a gateway, then the traffic engine), a parser of the network by its name, or `network` for each of these.
    pub target: String,
    /// The directory of files that inputs are made of; parsers of the network have their own in `corpus`.
    pub corpus: Option<PathBuf>,
    /// For how long, over all targets.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// The same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where inputs that break something are kept.
    #[arg(long, default_value = "fuzz-found")]
    pub found: PathBuf,
    /// Where inputs of a parser that reached something new are kept, and taken from: what one run learned serves the next. Those that
    /// shorter ones make needless are removed. Only a build by `cargo xtask fuzz` sees what an input reaches.
    #[arg(long)]
    pub reached: Option<PathBuf>,
}

/// What gets manifests.
#[derive(Clone, Copy, Debug)]
enum Target {
    Yaml,
    Compile,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What got the inputs.
    pub target: String,
    /// How many inputs there were.
    pub inputs: u64,
    /// How many broke something.
    pub broken: u64,
    /// The longest that one took.
    pub slowest: Duration,
    /// Every code of a diagnostic that was seen: how far the inputs reach.
    pub codes: BTreeSet<&'static str>,
    /// How many edges of the program were taken, and by how many inputs that each took one first; if they are counted.
    pub reached: Option<(usize, usize)>,
}

/// What one input led to.
#[derive(Debug, Default)]
struct Seen {
    codes: Vec<&'static str>,
    /// What it broke.
    broken: Option<String>,
}

/// Feeds inputs until the time is over, to one target after the other.
///
/// # Errors
/// There is no such target, its corpus cannot be read, or a finding cannot be kept.
pub fn run(options: &Options) -> Result<Vec<Outcome>> {
    match options.target.as_str() {
        "yaml" => Ok(vec![manifests(options, Target::Yaml)?]),
        "compile" => Ok(vec![manifests(options, Target::Compile)?]),
        name => network::run(options, name),
    }
}

fn manifests(options: &Options, target: Target) -> Result<Outcome> {
    let directory = options.corpus.as_deref();
    let corpus = read_corpus(directory.context("name the directory of a corpus of manifests")?)?;
    let mut random = Random::new(options.seed);
    let mut outcome = Outcome {
        target: options.target.clone(),
        ..Outcome::default()
    };
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let input = match target {
            Target::Compile if random.below(8) > 0 => mutate::lines(&corpus, &mut random),
            _ => mutate::manifest(&corpus, &mut random),
        };
        let text = String::from_utf8_lossy(&input).into_owned();
        let name = format!("{}-{}", options.seed, outcome.inputs);
        if let Some(why) = one(target, &text, &mut outcome) {
            outcome.broken += 1;
            println!("{name}: {why}");
            keep(&options.found, &format!("{name}.yaml"), &text)?;
        }
        outcome.inputs += 1;
    }
    Ok(outcome)
}

/// Feeds one input; says what it broke.
fn one(target: Target, text: &str, outcome: &mut Outcome) -> Option<String> {
    let before = Instant::now();
    let seen = catch_unwind(|| match target {
        Target::Yaml => yaml::check(text),
        Target::Compile => compile::check(text),
    });
    let took = before.elapsed();
    outcome.slowest = outcome.slowest.max(took);
    let Ok(seen) = seen else {
        return Some("a panic".to_owned());
    };
    outcome.codes.extend(seen.codes);
    seen.broken
        .or_else(|| (took > SLOW).then(|| format!("took {took:?}")))
}

fn read_corpus(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    if paths.is_empty() {
        bail!("{} has no files", dir.display());
    }
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    paths.iter().map(read).collect()
}

fn keep(dir: &Path, name: &str, text: &str) -> Result<()> {
    let file = dir.join(name);
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&file, text))
        .with_context(|| format!("writing {}", file.display()))
}
