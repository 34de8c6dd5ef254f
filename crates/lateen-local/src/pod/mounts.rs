//! Mounts of a pod and of its containers, on top of the machine's file system and without changing it.
//!
//! Where a mount point is missing, its directory is *grafted*: memory is mounted over it and everything that was there
//! is bound back in. The machine's directory itself is never written to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    self, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

/// Memory for volumes of a pod may take half of the machine's: the kernel's default for tmpfs.
const TMPFS_OPTIONS: &std::ffi::CStr = c"mode=0755";

/// Something to bind, taken while it can still be found: later mounts, and a new root, may hide the place where it is.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// A copy of the mount that is attached nowhere yet.
    copy: OwnedFd,
}

impl Source {
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let copy = with_path("open", path, mount::open_tree(CWD, path, flags))?;
        Ok(Self {
            path: path.to_owned(),
            copy,
        })
    }

    fn is_directory(&self) -> io::Result<bool> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&self.copy)?.st_mode);
        Ok(kind == FileType::Directory)
    }

    fn attach(&self, target: &Path) -> rustix::io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        mount::move_mount(&self.copy, "", CWD, target, flags)
    }
}

/// Removes a mount from this namespace; what was bound from it stays.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let result = mount::unmount(target, UnmountFlags::DETACH);
    with_path("unmount", target, result)
}

/// Mounts something in the current mount namespace.
#[derive(Debug)]
pub(super) struct Mounts {
    /// An empty directory of ours, used to build a new root on.
    staging: PathBuf,
    /// Directories that exist in memory only.
    own: BTreeSet<PathBuf>,
}

/// Makes mounts of this namespace invisible elsewhere.
pub(super) fn make_private() -> io::Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount::mount_change("/", flags)?)
}

/// Mounts memory.
pub(super) fn mount_memory(target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    with_path(
        "mount memory on",
        target,
        mount::mount("tmpfs", target, "tmpfs", flags, TMPFS_OPTIONS),
    )
}

/// Mounts the pod's own `/proc`; where that is forbidden (masked in a container) the machine's stays.
pub(super) fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount::mount("proc", "/proc", "proc", flags, None) {
        Err(Errno::PERM) => Ok(()),
        other => with_path("mount", Path::new("/proc"), other),
    }
}

impl Mounts {
    pub(super) fn new(staging: &Path) -> Self {
        Self {
            staging: staging.to_owned(),
            own: BTreeSet::new(),
        }
    }

    /// Makes `source`, a file or directory, appear at `target`.
    pub(super) fn bind(
        &mut self,
        source: &Source,
        target: &Path,
        read_only: bool,
    ) -> io::Result<()> {
        let directory = source.is_directory()?;
        let target = self.mount_point(target, directory)?;
        with_path("bind", &target, source.attach(&target))?;
        if read_only {
            make_read_only(&target)?;
        }
        if directory && source.path.starts_with(&self.staging) {
            self.own.insert(target);
        }
        Ok(())
    }

    /// The path without symbolic links, made to exist.
    fn mount_point(&mut self, target: &Path, directory: bool) -> io::Result<PathBuf> {
        if let Ok(existing) = fs::canonicalize(target) {
            return Ok(existing);
        }
        let (ancestor, missing) = nearest_ancestor(target)?;
        if !self.is_own(&ancestor) {
            self.graft(&ancestor)?;
        }
        let mut path = ancestor;
        let last = missing.len().saturating_sub(1);
        for (at, name) in missing.iter().enumerate() {
            path.push(name);
            // A dangling symbolic link is in the way; on a graft it is a copy of ours.
            if path.symlink_metadata().is_ok() {
                let _ = fs::remove_file(&path);
            }
            if at < last || directory {
                with_io("make", &path, fs::create_dir(&path))?;
                self.own.insert(path.clone());
            } else {
                with_io("make", &path, fs::write(&path, ""))?;
            }
        }
        Ok(path)
    }

    fn is_own(&self, directory: &Path) -> bool {
        self.own.contains(directory)
    }

    fn graft(&mut self, directory: &Path) -> io::Result<()> {
        if directory == Path::new("/") {
            self.graft_root()?;
        } else {
            let old = open_directory(directory)?;
            let mode = fs::metadata(directory)?.permissions().mode();
            mount_memory(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(mode))?;
            copy_view(&fd_path(&old), directory)?;
        }
        self.own.insert(directory.to_owned());
        Ok(())
    }

    /// Replaces the root by memory with everything bound in.
    fn graft_root(&self) -> io::Result<()> {
        let root = self.staging.as_path();
        mount_memory(root)?;
        copy_view(Path::new("/"), root)?;
        rustix::process::chdir(root)?;
        // With both arguments the same, the old root ends on top of the new one, from where it is taken off.
        with_path("pivot to", root, rustix::process::pivot_root(".", "."))?;
        mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        // The view contains the place where it was built.
        unmount(root)
    }
}

/// Fills `new` with what is in `old`: directories and files bound, symbolic links copied.
fn copy_view(old: &Path, new: &Path) -> io::Result<()> {
    for entry in fs::read_dir(old)? {
        let entry = entry?;
        let (from, to) = (old.join(entry.file_name()), new.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        // What this user may not see stays away; a missing entry harms less than a pod that does not start.
        if kind.is_symlink() {
            let _ = fs::read_link(&from).and_then(|link| symlink(link, &to));
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            let _ = mount::mount_bind_recursive(&from, &to);
        } else {
            fs::write(&to, "")?;
            let _ = mount::mount_bind(&from, &to);
        }
    }
    Ok(())
}

/// The deepest part of a path that exists, without symbolic links, and the names that are missing.
fn nearest_ancestor(target: &Path) -> io::Result<(PathBuf, Vec<std::ffi::OsString>)> {
    let mut missing = Vec::new();
    let mut path = target;
    loop {
        if let Ok(existing) = fs::canonicalize(path) {
            if !existing.is_dir() {
                let message = format!("{} is not a directory", existing.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
            }
            missing.reverse();
            return Ok((existing, missing));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            let message = format!("`{}` is not an absolute path", target.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        missing.push(name.to_owned());
        path = parent;
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    with_path("open", path, rustix::fs::open(path, flags, Mode::empty()))
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A mount of the machine may carry flags that a user namespace must keep; they are tried in turn.
fn make_read_only(target: &Path) -> io::Result<()> {
    let base = MountFlags::BIND | MountFlags::RDONLY;
    let kept = [
        MountFlags::empty(),
        MountFlags::NOSUID | MountFlags::NODEV,
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
    ];
    let mut result = Err(Errno::PERM);
    for flags in kept {
        result = mount::mount_remount(target, base | flags, "");
        if result != Err(Errno::PERM) {
            break;
        }
    }
    with_path("make read-only", target, result)
}

fn with_path<T>(what: &str, path: &Path, result: rustix::io::Result<T>) -> io::Result<T> {
    with_io(what, path, result.map_err(io::Error::from))
}

fn with_io<T>(what: &str, path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display())))
}
