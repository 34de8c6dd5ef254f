//! `lateen pod`: the process that is a pod.
//!
//! Four stages, each an execution of this binary, because namespaces are entered by fresh single-threaded processes:
//! *shim* (leaves the node's namespaces, has the machine's pid for everybody to refer to), *init* (process 1 of the pod:
//! mounts, network, containers), *container* (a container's mounts and identity, then its command) and *child* (the control
//! plane's process). All but the third die with their parent; the kernel ends all of a pod when its process 1 ends.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::Signal;

use crate::sandbox::{self, Event, MAX_MESSAGE};
use crate::sys::{self, Unshare};

mod containers;
mod launch;
mod lifecycle;
mod mounts;
mod runtime;
mod setup;

pub(crate) use setup::{GATEWAY_V6, POD_INTERFACE};

/// The word after the binary's name that leads to [`main`].
pub const SUBCOMMAND: &str = "pod";

const INIT: &str = "init";
const CONTAINER: &str = "container";
const CHILD: &str = "child";

/// Runs a stage of a pod; `arguments` are those after `pod`. Only the supervisor calls it.
///
/// Must be called before any thread is started.
pub fn main(arguments: &[String]) -> ExitCode {
    let result = match arguments.first().map(String::as_str) {
        None => shim(),
        Some(INIT) => runtime::main(),
        Some(CONTAINER) => launch::main(),
        Some(CHILD) => child(&arguments[1..]),
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
    let status = init.wait()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The arguments with which this binary runs a command that dies with the process that started it.
pub(crate) fn child_arguments(argv: &[String]) -> Vec<String> {
    let own = [SUBCOMMAND, CHILD].map(str::to_owned);
    own.into_iter().chain(argv.iter().cloned()).collect()
}

/// The death signal stays when the process becomes the command.
fn child(argv: &[String]) -> io::Result<ExitCode> {
    die_with_parent()?;
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::other("the command is empty"))?;
    let error = Command::new(program).args(arguments).exec();
    Err(io::Error::new(
        error.kind(),
        format!("cannot run `{program}`: {error}"),
    ))
}

/// Asks the kernel for SIGKILL when the parent ends.
fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
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
