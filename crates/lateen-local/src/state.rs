//! Paths of the state directory this crate uses, and how files there are replaced.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The state directory (`--state`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The paths in a directory, which is neither looked at nor made.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Opens the directory, making it and the parts this crate needs.
    ///
    /// `root` is made absolute: pods do not share the caller's working directory.
    ///
    /// # Errors
    /// Whatever making a directory can fail with; the path is in [`StateError`].
    pub fn open(root: &Path) -> Result<Self, StateError> {
        let root = std::path::absolute(root).map_err(|e| StateError::new(root, e))?;
        let state = Self { root };
        for dir in [state.run(), state.logs(), state.vault()] {
            fs::create_dir_all(&dir).map_err(|e| StateError::new(&dir, e))?;
        }
        let run = state.run();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))
            .map_err(|e| StateError::new(&run, e))?;
        Ok(state)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `run/`: files of the running mesh, owner-only.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// `run/pods.json`: a list of `PodState`.
    pub fn pods_json(&self) -> PathBuf {
        self.run().join("pods.json")
    }

    /// `run/containers.json`: a list of [`crate::exec::PodProcesses`].
    pub fn containers_json(&self) -> PathBuf {
        self.run().join("containers.json")
    }

    /// `logs/`.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// `logs/NAMESPACE/POD`.
    pub fn pod_logs(&self, namespace: &str, pod: &str) -> PathBuf {
        self.logs().join(namespace).join(pod)
    }

    /// An empty directory on which each pod mounts its private memory; on the machine it stays empty.
    pub(crate) fn vault(&self) -> PathBuf {
        self.run().join("vault")
    }
}

/// Replaces a file so that a reader sees the old content or the new, never a part. Mode 0600.
///
/// # Errors
/// Names the file that could not be written.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    write_file(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| StateError::new(path, e))
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(content)
}

/// A file or directory of the state directory could not be made or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{path}`", path = path.display())]
pub struct StateError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl StateError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}
