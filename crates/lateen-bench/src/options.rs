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

/// What a command line asks for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// To be told what there is to ask for.
    Help,
    /// The names of the cases of these experiments; of all, if none is named.
    List(Vec<String>),
    /// Measurements.
    Run(Options),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            runs: 5,
            time: Duration::from_secs(5),
            case: None,
            subjects: None,
            out: PathBuf::from("bench/results"),
        }
    }
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// An option is unknown or has no usable value.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Asked> {
        let (mut options, mut list) = (Self::default(), false);
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
                "--subjects" => options.subjects = Some(subjects(&value()?)?),
                "--out" => options.out = PathBuf::from(value()?),
                "--help" | "-h" | "help" => return Ok(Asked::Help),
                "--list" => list = true,
                // `cargo bench` and `cargo run --` habits.
                "--bench" | "--" => {}
                name if !name.starts_with('-') => options.names.push(name.to_owned()),
                unknown => {
                    bail!("unknown option {unknown}; `lateen-bench --help` lists those there are")
                }
            }
        }
        if options.runs == 0 {
            bail!("--runs has to be at least 1");
        }
        Ok(if list {
            Asked::List(options.names)
        } else {
            Asked::Run(options)
        })
    }

    /// Whether a case is to be run: its name holds the text, in whichever case.
    pub(crate) fn wants_case(&self, case: &str) -> bool {
        let case = case.to_lowercase();
        let part = self.case.as_deref().map(str::to_lowercase);
        part.is_none_or(|part| case.contains(&part))
    }

    /// Whether a subject is to be measured.
    pub(crate) fn wants_subject(&self, subject: &str) -> bool {
        self.subjects
            .as_ref()
            .is_none_or(|list| list.iter().any(|s| s == subject))
    }
}

/// The subjects of a list.
fn subjects(list: &str) -> Result<Vec<String>> {
    let known: Vec<&str> = crate::experiment::subjects()
        .map(|(name, _)| name)
        .collect();
    let named: Vec<String> = list.split(',').map(str::to_owned).collect();
    for name in &named {
        if !known.contains(&name.as_str()) {
            bail!(
                "--subjects: no subject is called `{name}`; there are {}",
                known.join(", ")
            );
        }
    }
    Ok(named)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_case_is_selected_by_a_part_of_its_name_in_whichever_case() {
        let Asked::Run(options) = parse("hop --case HTTP1 --runs 2").unwrap() else {
            panic!("it is to run");
        };
        assert_eq!((options.names, options.runs), (vec!["hop".to_owned()], 2));
        let options = Options {
            case: Some("HTTP1".to_owned()),
            ..Options::default()
        };
        assert!(options.wants_case("http1 1 KiB, 64 connections"));
        assert!(!options.wants_case("http2 1 KiB"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_there_is() {
        let error = parse("--subjects lateen,apache").unwrap_err().to_string();
        assert!(
            error.contains("`apache`") && error.contains("haproxy"),
            "{error}"
        );
        assert!(parse("--runs 0").is_err());
        assert!(
            parse("--frobnicate")
                .unwrap_err()
                .to_string()
                .contains("--help")
        );
        assert!(matches!(parse("--help"), Ok(Asked::Help)));
    }
}
