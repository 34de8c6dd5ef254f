//! Watching files and directories, and telling when they may have changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::files::{Loaded, Reader};
use crate::pods::{PodStates, share_states};

/// How long a burst of events must pause before files are read. Editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(20);
/// Longest a stream of events puts off reading.
const LONGEST_BURST: Duration = Duration::from_millis(200);
/// How often files are read without any event: network and overlay file systems lose events.
const RESCAN: Duration = Duration::from_secs(5);

/// Something that is read again and again from the file system.
trait Source: Send + 'static {
    /// What reading gives.
    type Value: Send + Sync + 'static;
    /// What to watch.
    fn paths(&self) -> Vec<PathBuf>;
    /// Reads; `None` when nothing changed since the last time.
    fn read(&mut self) -> Option<Self::Value>;
    /// When to read again although nothing woke us.
    fn again(&self) -> Option<Duration> {
        None
    }
}

impl Source for Reader {
    type Value = Arc<Loaded>;

    fn paths(&self) -> Vec<PathBuf> {
        self.paths().to_vec()
    }

    fn read(&mut self) -> Option<Arc<Loaded>> {
        self.read().map(Arc::new)
    }

    fn again(&self) -> Option<Duration> {
        self.again()
    }
}

/// `run/pods.json`, which is replaced by a rename whenever a pod's state changes.
struct PodsFile {
    path: PathBuf,
    text: Vec<u8>,
    last: PodStates,
}

impl Source for PodsFile {
    type Value = PodStates;

    fn paths(&self) -> Vec<PathBuf> {
        // The directory: the file may not be there yet.
        vec![
            self.path
                .parent()
                .map_or_else(|| PathBuf::from("."), PathBuf::from),
        ]
    }

    fn read(&mut self) -> Option<PodStates> {
        let text = std::fs::read(&self.path)
            .ok()
            .filter(|text| *text != self.text)?;
        match serde_json::from_slice(&text) {
            Ok(pods) => {
                self.text = text;
                self.last = share_states(&self.last, pods);
                Some(Arc::clone(&self.last))
            }
            Err(error) => {
                warn!(%error, path = %self.path.display(), "cannot read the pods' state; keeping the last");
                None
            }
        }
    }
}

/// Publishes what the reader's paths hold, now and after every change, until nobody listens.
///
/// The first value is published before this returns.
pub fn watch_files(reader: Reader) -> watch::Receiver<Arc<Loaded>> {
    start(reader)
}

/// Publishes the pods' state as the supervisor writes it; empty until it has.
pub fn watch_pods(path: PathBuf) -> watch::Receiver<PodStates> {
    start(PodsFile {
        path,
        text: Vec::new(),
        last: PodStates::default(),
    })
}

fn start<S: Source>(mut source: S) -> watch::Receiver<S::Value>
where
    S::Value: Default,
{
    let (sender, receiver) = watch::channel(source.read().unwrap_or_default());
    // One slot is enough: an event only means "look again".
    let (wake, woken) = mpsc::channel(1);
    let watcher = watcher(&source.paths(), wake);
    tokio::spawn(follow(source, watcher, woken, sender));
    receiver
}

fn watcher(paths: &[PathBuf], wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    // A full slot already says "look again".
    let notify = move |_event| {
        let _ = wake.try_send(());
    };
    let mut watcher = notify::recommended_watcher(notify)
        .inspect_err(|error| warn!(%error, "cannot watch files; reading them every {RESCAN:?}"))
        .ok()?;
    for path in paths {
        // A file is watched through its directory, so that replacing it by a rename is seen.
        let (watched, mode) = match path.parent() {
            Some(parent) if path.is_file() && parent.as_os_str().is_empty() => {
                (PathBuf::from("."), RecursiveMode::NonRecursive)
            }
            Some(parent) if path.is_file() => (parent.to_owned(), RecursiveMode::NonRecursive),
            _ => (path.clone(), RecursiveMode::Recursive),
        };
        if let Err(error) = watcher.watch(&watched, mode) {
            warn!(%error, path = %watched.display(), "cannot watch; reading every {RESCAN:?}");
        }
    }
    Some(watcher)
}

async fn follow<S: Source>(
    mut source: S,
    watcher: Option<RecommendedWatcher>,
    mut woken: mpsc::Receiver<()>,
    sender: watch::Sender<S::Value>,
) {
    // Held so that the watch lasts as long as this task.
    let _watcher = watcher;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = wake_up(&mut woken, source.again().unwrap_or(RESCAN)) => {}
        }
        settle(&mut woken).await;
        let read = tokio::task::spawn_blocking(move || {
            let value = source.read();
            (source, value)
        });
        let Ok((back, value)) = read.await else {
            return;
        };
        source = back;
        if let Some(value) = value {
            sender.send_replace(value);
        }
    }
}

/// An event, or the time of a rescan; without a watcher only the latter.
async fn wake_up(woken: &mut mpsc::Receiver<()>, rescan: Duration) {
    if let Ok(None) = tokio::time::timeout(rescan, woken.recv()).await {
        tokio::time::sleep(rescan).await;
    }
}

/// Waits until events pause.
async fn settle(woken: &mut mpsc::Receiver<()>) {
    let deadline = Instant::now() + LONGEST_BURST;
    loop {
        let pause = (Instant::now() + QUIET).min(deadline);
        match timeout_at(pause, woken.recv()).await {
            Ok(Some(())) if Instant::now() < deadline => {}
            // A pause, the longest burst, or no watcher at all (which must not spin).
            Ok(Some(())) | Ok(None) | Err(_) => return,
        }
    }
}
