//! Reading command lines: `--name value`, `--name=value`, and what is left.

use std::collections::BTreeMap;

use crate::RunError;

/// The options and remaining arguments of a command line.
#[derive(Debug, Default)]
pub(crate) struct Options {
    values: BTreeMap<String, Vec<String>>,
    pub(crate) rest: Vec<String>,
}

impl Options {
    /// Reads `arguments`. `known` names options that take a value, `flags` those that do not; any other option is
    /// an error.
    pub(crate) fn parse(
        arguments: &[String],
        known: &[&str],
        flags: &[&str],
    ) -> Result<Options, RunError> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix("--") else {
                options.rest.push(argument.clone());
                continue;
            };
            let (name, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let value = if flags.contains(&name) {
                inline.unwrap_or_else(|| "true".to_owned())
            } else if known.contains(&name) {
                let next = || arguments.next().cloned();
                inline
                    .or_else(next)
                    .ok_or_else(|| RunError::Usage(format!("--{name} needs a value")))?
            } else {
                return Err(RunError::Usage(format!("unknown option `--{name}`")));
            };
            options
                .values
                .entry(name.to_owned())
                .or_default()
                .push(value);
        }
        Ok(options)
    }

    /// The last value of an option.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last().map(String::as_str)
    }

    /// Every value of an option.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value of an option as a number or the like.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, RunError> {
        let Some(text) = self.last(name) else {
            return Ok(None);
        };
        let wrong = || RunError::Usage(format!("--{name}: `{text}` is not a number in range"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}

/// A port given as text.
pub(crate) fn port(text: &str) -> Result<u16, RunError> {
    text.parse()
        .map_err(|_| RunError::Usage(format!("`{text}` is not a port")))
}
