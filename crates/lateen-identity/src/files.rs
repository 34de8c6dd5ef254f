//! Secrets on disk: directories and files that only their owner can read, written so that a crash never leaves half a file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Largest file read, in bytes. Keys, certificates and lists of roots are far smaller.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why a file of the state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Others can read or change it.
    #[error(
        "`{path}` holds a secret but has mode {mode:03o}, so others on this machine could read it; \
         run `chmod {wanted:03o} {path}` (and replace the secret if others may have read it)"
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they have to be.
        wanted: u32,
    },
    /// It belongs to another user.
    #[error("`{path}` belongs to user {owner}, not to user {user} who runs this process")]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this process.
        user: u32,
    },
    /// Larger than any file it could be.
    #[error("`{path}` is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    /// Whether the file simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_owned();
    move |source| FileError::Io {
        action,
        path,
        source,
    }
}

/// Makes `path` with mode 0700, or checks that it is the user's own and closed to others.
pub(crate) fn private_dir(path: &Path) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::metadata(path).map_err(io_error("inspect", path))?;
            check_private(path, &metadata, 0o700)
        }
        Err(error) => Err(io_error("create", path)(error)),
    }
}

/// Reads a file that only its owner may read.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    check_private(path, &metadata, 0o600)?;
    read_limited(path, file)
}

/// Reads a file that anyone may read.
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    read_limited(path, File::open(path).map_err(io_error("open", path))?)
}

/// Replaces `path` in one step: readers see the old or the new content, also after a crash.
pub(crate) fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = write_new(&temporary, content, mode).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(io_error("replace", path))?;
        let dir_file = File::open(dir).map_err(io_error("open", dir))?;
        dir_file.sync_all().map_err(io_error("sync", dir))
    });
    if written.is_err() {
        // The write failed already; what is left of it is worth no second error.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io_error("create", path))?;
    file.write_all(content).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

fn read_limited(path: &Path, file: File) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(io_error("read", path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(content)
}

fn check_private(path: &Path, metadata: &std::fs::Metadata, wanted: u32) -> Result<(), FileError> {
    let user = rustix::process::geteuid().as_raw();
    // Root reads every file anyway; a state directory given to a service user is still that user's own.
    if metadata.uid() != user && user != 0 {
        return Err(FileError::Foreign {
            path: path.to_owned(),
            owner: metadata.uid(),
            user,
        });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed {
            path: path.to_owned(),
            mode,
            wanted,
        });
    }
    Ok(())
}

/// An exclusive lock on a directory, by a file in it, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirLock {
    pub(crate) fn acquire(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).map_err(io_error("open", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn new_directories_and_files_are_closed_to_others() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/ca");
        private_dir(&dir).unwrap();
        let file = dir.join("key");
        write_atomic(&file, b"secret", 0o600).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_private(&file).unwrap(), b"secret");
    }

    #[test]
    fn a_readable_secret_is_refused_with_the_command_that_mends_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("key");
        write_atomic(&file, b"secret", 0o600).unwrap();
        set_mode(&file, 0o640);
        let error = read_private(&file).unwrap_err();
        assert!(matches!(error, FileError::Exposed { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn an_open_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ca");
        std::fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o755);
        assert!(
            private_dir(&dir)
                .unwrap_err()
                .to_string()
                .contains("chmod 700")
        );
    }

    #[test]
    fn replacing_leaves_no_temporary_file() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("key");
        write_atomic(&file, b"one", 0o600).unwrap();
        write_atomic(&file, b"two", 0o600).unwrap();
        assert_eq!(read_private(&file).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
