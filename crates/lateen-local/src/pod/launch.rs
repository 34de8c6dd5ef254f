//! The last stage before a container's command: its mounts, its identity, then `exec`.
//!
//! What it is to do comes as JSON on standard input; environment, output and working directory are passed as usual.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Gid, Uid};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::mounts::{self, Mounts, Source};
use crate::sys::{self, Unshare};

/// What to become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Launch {
    /// The command line.
    pub(super) argv: Vec<String>,
    /// Another one, for a machine that does not have that program.
    pub(super) instead: Option<Vec<String>>,
    /// The container's image, for messages.
    pub(super) image: String,
    /// Where it starts.
    pub(super) working_dir: Option<String>,
    /// The pod's private memory, which a container does not see.
    pub(super) vault: PathBuf,
    /// Source, target, read-only.
    pub(super) binds: Vec<(PathBuf, PathBuf, bool)>,
    /// Join the mounts of this process instead of making own ones.
    pub(super) join: Option<u32>,
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) capabilities: Option<u64>,
}

/// Never returns when all goes well: the process becomes the command.
pub(super) fn main() -> io::Result<ExitCode> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let launch: Launch = serde_json::from_str(&text)?;
    match launch.join {
        Some(pid) => {
            crate::exec::wait_until_set_up(pid);
            crate::exec::join(pid, "mnt").map_err(io::Error::other)?;
        }
        None => mount_all(&launch)?,
    }
    // A session of its own: signals meant for one container do not reach another.
    let _ = rustix::process::setsid();
    let directory = launch.working_dir.as_deref().unwrap_or("/");
    std::env::set_current_dir(directory).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot enter workingDir {directory}: {e}"),
        )
    })?;
    limit_capabilities(launch.capabilities)?;
    become_user(&launch)?;
    let error = become_command(&launch.argv);
    let path = std::env::var_os("PATH");
    let program = launch.argv.first().map_or("", String::as_str);
    if !crate::exec::is_missing(program, path.as_deref(), &error) {
        return Err(error);
    }
    Err(match &launch.instead {
        Some(argv) => become_command(argv),
        None => not_on_this_machine(&launch),
    })
}

/// Returns only if the program cannot be run.
fn become_command(argv: &[String]) -> io::Error {
    let Some((program, arguments)) = argv.split_first() else {
        return io::Error::other("the command is empty");
    };
    let error = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .exec();
    io::Error::new(error.kind(), format!("cannot run `{program}`: {error}"))
}

/// What somebody needs to know who is used to images that bring their programs along.
fn not_on_this_machine(launch: &Launch) -> io::Error {
    let program = launch.argv.first().map_or("", String::as_str);
    let image = match launch.image.as_str() {
        "" => String::new(),
        image => format!(" (in a cluster it comes with the image `{image}`)"),
    };
    io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "there is no program `{program}` on this machine{image}: lateen pulls no images and runs containers as local \
             processes; install it, or give the container a `command` that is here"
        ),
    )
}

fn mount_all(launch: &Launch) -> io::Result<()> {
    sys::unshare(Unshare::Mounts)?;
    mounts::make_private()?;
    let mut binds = Vec::with_capacity(launch.binds.len());
    for (source, target, read_only) in &launch.binds {
        binds.push((Source::take(source)?, target, *read_only));
    }
    mounts::unmount(&launch.vault)?;
    // A volume on `/tmp` hides a vault below it; new roots are built there, so such volumes come last.
    let targets = launch.binds.iter().map(|(_, target, _)| target);
    let hiders: Vec<&PathBuf> = targets
        .filter(|target| launch.vault.starts_with(target))
        .collect();
    binds.sort_by_key(|(_, target, _)| hiders.iter().any(|hider| target.starts_with(hider)));
    let mut mounts = Mounts::new(&launch.vault);
    for (source, target, read_only) in &binds {
        mounts.bind(source, target, *read_only)?;
    }
    Ok(())
}

/// Takes rights away that the container's user would get by becoming root in it.
fn limit_capabilities(allowed: Option<u64>) -> io::Result<()> {
    let Some(allowed) = allowed else {
        return Ok(());
    };
    let allowed = CapabilitySet::from_bits_truncate(allowed);
    for capability in CapabilitySet::all().difference(allowed).iter() {
        if rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// In a user namespace with one uid there is nobody else to become; the container keeps that one.
fn become_user(launch: &Launch) -> io::Result<()> {
    if launch.user.is_none() && launch.group.is_none() || !has_many_ids() {
        return Ok(());
    }
    let user = launch.user.unwrap_or(0);
    let group = launch.group.unwrap_or(0);
    rustix::thread::set_thread_groups(&[])?;
    let group = Gid::from_raw(group);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    let user = Uid::from_raw(user);
    Ok(rustix::thread::set_thread_res_uid(user, user, user)?)
}

/// Whether the user namespace maps more than one uid (`/proc/self/uid_map`: inside, outside, count).
fn has_many_ids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let counts = map.split_whitespace().skip(2).step_by(3);
    counts
        .filter_map(|count| count.parse::<u64>().ok())
        .sum::<u64>()
        > 1
}
