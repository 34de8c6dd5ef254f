//! A pod's process as the supervisor holds it: started, spoken with over its socket, waited for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command as Process};
use tokio::sync::{mpsc, oneshot};

use super::reconcile::PodKey;
use crate::pod;
use crate::sandbox::{Command, Event};

/// Commands to one pod that wait to be written. A pod that does not read them is broken and is ended by its deadline.
const QUEUE: usize = 64;

/// A request to a pod.
#[derive(Debug)]
pub(crate) enum Request {
    Send(Command),
    /// Runs a command in a container, for a probe; the answer is its exit status.
    Exec {
        container: String,
        argv: Vec<String>,
        timeout_ms: u64,
        reply: oneshot::Sender<Option<i32>>,
    },
    /// SIGKILL to the shim, which takes everything with it.
    Kill,
}

/// What comes from a pod.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) key: PodKey,
    /// Which run of the pod: messages of an earlier one are passed over.
    pub(crate) run: u64,
    pub(crate) content: Content,
}

/// The content of a [`Message`].
#[derive(Debug)]
pub(crate) enum Content {
    Event(Event),
    Probe {
        container: String,
        verdict: crate::probe::schedule::Verdict,
    },
    /// The process is gone.
    Exited,
}

/// Starts a pod's process. Must run on the supervisor's thread: the process dies with the thread that starts it.
pub(crate) fn start(
    key: PodKey,
    run: u64,
    logs: &Path,
    events: mpsc::Sender<Message>,
) -> io::Result<(u32, mpsc::Sender<Request>)> {
    let (own, its) = StdStream::pair()?;
    std::fs::create_dir_all(logs)?;
    let errors = File::create(logs.join("lateen-pod.log"))?;
    let mut process = Process::new("/proc/self/exe");
    process
        .arg(pod::SUBCOMMAND)
        .stdin(Stdio::from(OwnedFd::from(its)));
    process
        .stdout(Stdio::from(errors.try_clone()?))
        .stderr(Stdio::from(errors));
    let child = process.kill_on_drop(true).spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other("the process has ended at once"))?;
    own.set_nonblocking(true)?;
    let stream = UnixStream::from_std(own)?;
    let (requests, queue) = mpsc::channel(QUEUE);
    tokio::spawn(converse(
        Pod {
            key,
            run,
            child,
            events,
        },
        stream,
        queue,
    ));
    Ok((pid, requests))
}

struct Pod {
    key: PodKey,
    run: u64,
    child: Child,
    events: mpsc::Sender<Message>,
}

/// Passes messages both ways until the process ends.
async fn converse(mut pod: Pod, stream: UnixStream, mut requests: mpsc::Receiver<Request>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut open = true;
    let mut execs: BTreeMap<u64, oneshot::Sender<Option<i32>>> = BTreeMap::new();
    let mut next_id = 0;
    loop {
        // `next_line`, `recv` and `wait` lose nothing when dropped.
        tokio::select! {
            line = lines.next_line(), if open => match line {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(Event::ExecDone { id, code }) => {
                        if let Some(reply) = execs.remove(&id) {
                            let _ = reply.send(code);
                        }
                    }
                    Ok(event) => pod.tell(Content::Event(event)).await,
                    Err(error) => tracing::warn!(pod = %pod.key.1, %error, "unreadable message of a pod"),
                },
                _ => open = false,
            },
            request = requests.recv() => {
                let command = match request {
                    Some(Request::Send(command)) => command,
                    Some(Request::Exec { container, argv, timeout_ms, reply }) => {
                        next_id += 1;
                        execs.insert(next_id, reply);
                        Command::Exec { id: next_id, container, argv, timeout_ms }
                    }
                    Some(Request::Kill) | None => {
                        let _ = pod.child.start_kill();
                        let _ = pod.child.wait().await;
                        break;
                    }
                };
                if write(&mut writer, &command).await.is_err() {
                    open = false;
                }
            }
            _ = pod.child.wait(), if !open => break,
        }
    }
    pod.tell(Content::Exited).await;
}

impl Pod {
    async fn tell(&self, content: Content) {
        let message = Message {
            key: self.key.clone(),
            run: self.run,
            content,
        };
        // The engine is gone only when everything ends.
        let _ = self.events.send(message).await;
    }
}

async fn write(writer: &mut tokio::net::unix::OwnedWriteHalf, command: &Command) -> io::Result<()> {
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
