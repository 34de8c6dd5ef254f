//! The command line of an experiment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What to run and how long.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Experiments; empty means all.
    pub(crate) names: Vec<String>,
    /// Runs of each subject in each case; they take turns.
    pub(crate) runs: usize,
    /// Length of a run.
    pub(crate) time: Duration,
    /// Only cases whose name holds this.
    pub(crate) case: Option<String>,
    /// Only these subjects.
    pub(crate) subjects: Option<Vec<String>>,
    /// Where results go.
    pub(crate) out: PathBuf,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// An option is unknown or has no usable value.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            names: Vec::new(),
            runs: 5,
            time: Duration::from_secs(5),
            case: None,
            subjects: None,
            out: PathBuf::from("bench/results"),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} takes a value"))
            };
            match argument.as_str() {
                "--runs" => options.runs = value()?.parse().context("--runs")?,
                "--seconds" => {
                    let seconds: f64 = value()?.parse().context("--seconds")?;
                    options.time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
                }
                "--case" => options.case = Some(value()?),
                "--subjects" => {
                    options.subjects = Some(value()?.split(',').map(str::to_owned).collect());
                }
                "--out" => options.out = PathBuf::from(value()?),
                // `cargo bench` and `cargo run --` habits.
                "--bench" | "--" => {}
                name if !name.starts_with('-') => options.names.push(name.to_owned()),
                unknown => bail!(
                    "unknown option {unknown}; usage: lateen-bench [NAME…] [--runs N] [--seconds S] [--case TEXT] \
                     [--subjects A,B] [--out DIR]"
                ),
            }
        }
        if options.runs == 0 {
            bail!("--runs has to be at least 1");
        }
        Ok(options)
    }

    /// Whether a case is to be run.
    pub(crate) fn wants_case(&self, case: &str) -> bool {
        self.case.as_deref().is_none_or(|part| case.contains(part))
    }

    /// Whether a subject is to be measured.
    pub(crate) fn wants_subject(&self, subject: &str) -> bool {
        self.subjects
            .as_ref()
            .is_none_or(|list| list.iter().any(|s| s == subject))
    }
}

/// The value of `--NAME` among the arguments of a role, as a number or the default.
///
/// # Errors
/// It is there and no number.
pub(crate) fn number<T>(arguments: &[String], name: &str, default: T) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match text(arguments, name) {
        Some(value) => value.parse().with_context(|| format!("--{name}")),
        None => Ok(default),
    }
}

/// The value of `--NAME` among the arguments of a role.
pub(crate) fn text<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments
        .iter()
        .position(|a| a.strip_prefix("--") == Some(name))?;
    arguments.get(at + 1).map(String::as_str)
}
