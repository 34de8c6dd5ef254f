//! A container's output, kept in files of bounded size.
//!
//! `CONTAINER.log` is the current run; when it grows over the limit it becomes `CONTAINER.log.1`. The run before is
//! `CONTAINER.previous.log`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Kubernetes' `containerLogMaxSize`. Two files of it are kept, and two of the run before.
const MAX_BYTES: u64 = 10 << 20;
/// As much as a pipe holds.
const CHUNK: usize = 64 << 10;

/// The log file of one run of a container.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    written: u64,
}

impl Log {
    /// Starts a new run's log; the run before becomes the previous one.
    pub(crate) fn start(directory: &Path, container: &str) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{container}.log"));
        let previous = directory.join(format!("{container}.previous.log"));
        for (from, to) in [(&path, &previous), (&rotated(&path), &rotated(&previous))] {
            match fs::rename(from, to) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let _ = fs::remove_file(to);
                }
                other => other?,
            }
        }
        let file = open(&path)?;
        Ok(Self {
            path,
            file,
            written: 0,
        })
    }

    /// Adds output, beginning a new file when this one is full.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + bytes.len() as u64 > MAX_BYTES {
            fs::rename(&self.path, rotated(&self.path))?;
            self.file = open(&self.path)?;
            self.written = 0;
        }
        self.written += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Copies a container's output to its log until the last writer closed the pipe.
///
/// A full disk does not stop the container: output that cannot be kept is read and lost.
pub(crate) async fn keep(output: PipeReader, mut log: Log) {
    let fd = OwnedFd::from(output);
    let Ok(mut output) = pipe::Receiver::from_owned_fd(fd) else {
        return;
    };
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = output.read(&mut chunk).await {
        let _ = log.write(&chunk[..read]);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)
}

fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_the_run_before_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::start(directory.path(), "app").unwrap();
        let mebibyte = vec![b'x'; 1 << 20];
        for _ in 0..25 {
            log.write(&mebibyte).unwrap();
        }
        let size = |name: &str| fs::metadata(directory.path().join(name)).map(|m| m.len());
        assert_eq!(size("app.log.1").unwrap(), MAX_BYTES);
        assert_eq!(size("app.log").unwrap(), 5 << 20);
        let mut log = Log::start(directory.path(), "app").unwrap();
        log.write(b"second").unwrap();
        assert_eq!(size("app.log").unwrap(), 6);
        assert_eq!(size("app.previous.log").unwrap(), 5 << 20);
        assert_eq!(size("app.previous.log.1").unwrap(), MAX_BYTES);
        assert!(size("app.log.1").is_err());
    }
}
