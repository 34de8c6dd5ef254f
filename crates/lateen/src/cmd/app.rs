//! `lateen app`: a built-in stand-in for a sample's image.

use std::process::ExitCode;

pub(crate) fn run(argv: &[String]) -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (name, arguments) = argv
        .split_first()
        .map_or(("", argv), |(name, rest)| (name.as_str(), rest));
    ExitCode::from(lateen_apps::run(name, arguments, &environment))
}
