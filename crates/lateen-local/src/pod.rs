//! `lateen pod`: the process that is a pod.
//!
//! Three stages, each an execution of this binary, because namespaces are entered by fresh single-threaded processes:
//! *shim* (leaves the node's namespaces, has the machine's pid for everybody to refer to), *init* (process 1 of the pod:
//! mounts, network, containers) and *container* (a container's mounts and identity, then its command).
//! The first two die with their parent; the kernel ends all of a pod when its process 1 ends.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::Signal;

use crate::sandbox::{self, Event, MAX_MESSAGE};
use crate::sys::{self, Unshare};

mod containers;
mod launch;
mod lifecycle;
mod logs;
mod mounts;
mod runtime;
mod setup;

/// The word after the binary's name that leads to [`main`].
pub const SUBCOMMAND: &str = "pod";

const INIT: &str = "init";
const CONTAINER: &str = "container";

/// Runs a stage of a pod; `arguments` are those after `pod`. Only the supervisor calls it.
///
/// Must be called before any thread is started.
pub fn main(arguments: &[String]) -> ExitCode {
    let result = match arguments.first().map(String::as_str) {
        None => shim(),
        Some(INIT) => runtime::main(),
        Some(CONTAINER) => launch::main(),
        Some(other) => Err(io::Error::other(format!("unknown stage `{other}`"))),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lateen pod: {error}");
            // What container runtimes end with when a container cannot be started.
            ExitCode::from(128)
        }
    }
}

/// Makes the namespaces and process 1, tells the supervisor, waits.
fn shim() -> io::Result<ExitCode> {
    die_with_parent()?;
    let supervisor = control_stream()?;
    if let Err(error) = sys::unshare(Unshare::Pod) {
        let message = format!("cannot make the pod's namespaces: {error}");
        send(&supervisor, &Event::Failed { message })?;
        return Ok(ExitCode::FAILURE);
    }
    let mut init = Command::new("/proc/self/exe");
    init.args([SUBCOMMAND, INIT]).stdin(Stdio::inherit());
    let mut init = init.spawn()?;
    send(&supervisor, &Event::Up { pid: init.id() })?;
    // Only process 1 holds the socket now: when it ends, the supervisor sees the end of the stream.
    drop(supervisor);
    let status = init.wait()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks the kernel for SIGKILL when the parent ends.
fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// The socket to the supervisor, which is standard input.
fn control_stream() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Writes one message. Blocking; messages are small and the supervisor always reads.
fn send(mut to: &UnixStream, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one message from a blocking stream, byte by byte, so that nothing of the next one is taken.
fn read_first(mut from: &UnixStream) -> io::Result<sandbox::Command> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        from.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.push(byte[0]);
        if line.len() > MAX_MESSAGE {
            return Err(io::Error::other("a message of the supervisor is too long"));
        }
    }
}
