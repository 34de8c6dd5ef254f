//! `exec`: images without an entry point of their own (`busybox`, `alpine`, `curlimages/curl`), whose arguments name the
//! program to run.
//!
//! The machine's own program takes this process's place. Where there is none, as in an image made from scratch, a
//! stand-in for it runs. With `--default NAME` arguments that name no program go to that application.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::{Environment, RunError, images, try_run};

pub(crate) fn run(arguments: &[String], environment: &Environment) -> Result<u8, RunError> {
    let (default, line) = match arguments {
        [option, default, line @ ..] if option == "--default" => (Some(default.as_str()), line),
        line => (None, line),
    };
    let Some((program, rest)) = line
        .split_first()
        .filter(|(program, _)| !program.starts_with('-'))
    else {
        let default = default.filter(|name| *name != "exec");
        let default = default.ok_or_else(|| RunError::Usage("exec: no program".to_owned()))?;
        return try_run(default, line, environment);
    };
    // Returns only if the program cannot be run.
    let source = Command::new(program)
        .args(rest)
        .env_clear()
        .envs(environment)
        .exec();
    if source.kind() == ErrorKind::NotFound {
        if let Some(stand_in) = images::find_program(program) {
            return try_run(stand_in.application, rest, environment);
        }
        if let Some(default) = default.filter(|name| *name != "exec") {
            return try_run(default, line, environment);
        }
    }
    Err(RunError::Exec {
        program: program.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &[&str]) -> u8 {
        let line: Vec<String> = line.iter().map(|&text| text.to_owned()).collect();
        crate::run("exec", &line, &Environment::new())
    }

    #[test]
    fn a_program_that_is_nowhere_has_a_stand_in_or_is_not_found() {
        assert_eq!(code(&["/nonexistent/sleep", "0.01"]), 0);
        assert_eq!(code(&["/nonexistent/program"]), 127);
        assert_eq!(code(&["--default", "sleep", "0.01s-is-no-program"]), 2);
        assert_eq!(code(&["--default", "http-get", "-s"]), 2, "no URL");
        assert_eq!(code(&[]), 2);
    }
}
