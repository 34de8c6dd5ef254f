//! Mutates manifests and feeds them to the parser and the validator: `fuzz_yaml CORPUS SECONDS [SEED] [FOUND]`.
//!
//! The same seed gives the same inputs. An input that panics is written to the directory `FOUND` (else `fuzz-found`).
//! Every finding's place has to be inside the file, and rendering it has to work; a breach counts as a panic.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lateen_api::diagnostic::{Style, render};
use lateen_api::{SourceFile, parse_file, validate};

/// Inputs grow no larger than this, in bytes: small ones find more per second.
const MAX_INPUT: usize = 16 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [corpus, seconds, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: fuzz_yaml CORPUS SECONDS [SEED] [FOUND]");
        return ExitCode::from(2);
    };
    let seed = rest.first().and_then(|text| text.parse().ok()).unwrap_or(1);
    let found = PathBuf::from(rest.get(1).map_or("fuzz-found", String::as_str));
    let Ok(seconds) = seconds.parse() else {
        eprintln!("`{seconds}` is not a number of seconds");
        return ExitCode::from(2);
    };
    let corpus = match read_corpus(Path::new(corpus)) {
        Ok(corpus) if !corpus.is_empty() => corpus,
        Ok(_) => {
            eprintln!("{corpus}: no files");
            return ExitCode::from(2);
        }
        Err(error) => {
            eprintln!("{corpus}: {error}");
            return ExitCode::from(2);
        }
    };
    run(&corpus, Duration::from_secs(seconds), seed, &found)
}

fn run(corpus: &[Vec<u8>], time: Duration, seed: u64, found: &Path) -> ExitCode {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let started = Instant::now();
    let (mut inputs, mut panics, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    let mut codes = BTreeSet::new();
    while started.elapsed() < time {
        let input = mutate(corpus, &mut random);
        let text = String::from_utf8_lossy(&input).into_owned();
        let before = Instant::now();
        match std::panic::catch_unwind(|| check(&text)) {
            Ok(seen) => codes.extend(seen),
            Err(_) => {
                panics += 1;
                save(found, &format!("panic-{seed}-{inputs}.yaml"), &text);
            }
        }
        if before.elapsed() > slowest {
            slowest = before.elapsed();
            if slowest > Duration::from_secs(1) {
                save(found, &format!("slow-{seed}-{inputs}.yaml"), &text);
            }
        }
        inputs += 1;
    }
    println!("fuzz-yaml: {inputs} inputs, {panics} panics, slowest {slowest:?}, codes {codes:?}");
    ExitCode::from(u8::from(panics > 0))
}

/// Parses, validates and renders; returns the codes that were seen.
fn check(text: &str) -> Vec<&'static str> {
    let file = SourceFile::new("fuzz.yaml", text);
    let parsed = parse_file(&file, "default");
    let validated = parsed
        .resources
        .iter()
        .chain(&parsed.refused)
        .flat_map(validate);
    let all: Vec<_> = parsed
        .diagnostics
        .iter()
        .cloned()
        .chain(validated)
        .collect();
    for diagnostic in &all {
        let rendered = render(diagnostic, Some(text), Style::default());
        assert!(
            !rendered.contains('\u{1b}'),
            "control characters in {rendered:?}"
        );
        if let Some(span) = &diagnostic.span {
            let (start, end) = (span.offset as usize, (span.offset + span.len) as usize);
            assert!(
                text.is_char_boundary(start) && text.is_char_boundary(end),
                "{diagnostic:?}"
            );
        }
    }
    all.iter().map(|diagnostic| diagnostic.code).collect()
}

fn read_corpus(dir: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter(|path| path.is_file())
        .map(std::fs::read)
        .collect()
}

fn save(dir: &Path, name: &str, text: &str) {
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(name), text));
    if let Err(error) = written {
        eprintln!("{}: {error}", dir.join(name).display());
    }
}

/// What YAML, templates and limits are sensitive to.
const TOKENS: &[&str] = &[
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "---\n",
    "...\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!str ",
    "!!int ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "? ",
    "null",
    "~",
    "yes",
    "0755",
    "1e999",
    ".nan",
    "-0",
    "{{ .x }}",
    "%",
    "\u{feff}",
    "\u{202e}",
    "\r\n",
    "\\u0000",
    "99999999999999999999",
    "é",
    "spec:\n",
    "kind: List\nitems:\n",
    "*",
    "1h30m",
    "-5s",
    "(((",
    "x{1000}{1000}",
    "10.0.0.0/33",
    "unix://",
    "@",
    "`",
    "regex: \"(\"",
    "outbound_.80_._.a.b",
];

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    for _ in 0..random.below(8) + 1 {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(64) + 1);
        match random.below(7) {
            0 => {
                input.drain(at..end);
            }
            1 => {
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            2 => {
                input.splice(at..end, random.pick(TOKENS).bytes());
            }
            3 => {
                input.splice(at..at, random.pick(TOKENS).bytes());
            }
            4 if at < input.len() => input[at] = random.next() as u8,
            5 => {
                let other = random.pick(corpus);
                let from = random.below(other.len() + 1);
                let to = from + random.below((other.len() - from).min(256) + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let times = random.below(40);
                let piece = random.pick(TOKENS).repeat(times);
                input.splice(at..at, piece.bytes());
            }
        }
        input.truncate(MAX_INPUT);
    }
    input
}

/// xorshift64*: repeatable, and good enough to choose with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
