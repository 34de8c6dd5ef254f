//! The one system call of this crate that Rust has no safe form of.

use rustix::thread::UnshareFlags;

/// Namespaces the calling thread can leave its parent's for.
///
/// A closed set: none of them is `CLONE_FILES`, which alone makes `unshare` unsound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unshare {
    /// A new user namespace, nothing else.
    User,
    /// The node's: network and mounts.
    Node,
    /// A pod's: network, mounts, processes, host name, System V IPC.
    Pod,
    /// A container's: mounts.
    Mounts,
}

impl Unshare {
    fn flags(self) -> UnshareFlags {
        match self {
            Self::User => UnshareFlags::NEWUSER,
            Self::Node => UnshareFlags::NEWNET | UnshareFlags::NEWNS,
            Self::Pod => {
                UnshareFlags::NEWNET
                    | UnshareFlags::NEWNS
                    | UnshareFlags::NEWPID
                    | UnshareFlags::NEWUTS
                    | UnshareFlags::NEWIPC
            }
            Self::Mounts => UnshareFlags::NEWNS,
        }
    }
}

/// Moves the calling thread into new namespaces (for [`Unshare::Pod`], its next child becomes process 1).
#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of CLONE_FILES"
)]
pub(crate) fn unshare(what: Unshare) -> rustix::io::Result<()> {
    // SAFETY: rustix's only condition concerns `UnshareFlags::FILES`, which no variant of `Unshare` contains.
    unsafe { rustix::thread::unshare_unsafe(what.flags()) }
}

/// How many threads this process has.
///
/// A user namespace can only be entered by a process with one thread.
pub(crate) fn thread_count() -> std::io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
