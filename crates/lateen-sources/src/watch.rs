//! Watching files and directories, and telling when they may have changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
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

/// Paths that are kept apart; where more were touched, everything is looked at.
const MOST_PATHS: usize = 64;

/// Where something may have changed: at some paths, or anywhere.
#[derive(Debug)]
enum Touched {
    Paths(BTreeSet<PathBuf>),
    Anywhere,
}

impl Touched {
    const fn nowhere() -> Self {
        Self::Paths(BTreeSet::new())
    }

    fn add(&mut self, event: notify::Result<Event>) {
        let Self::Paths(paths) = self else {
            return;
        };
        match event {
            // Events without a path say that some were lost.
            Ok(event) if !event.need_rescan() && !event.paths.is_empty() => {
                paths.extend(event.paths);
            }
            _ => *self = Self::Anywhere,
        }
        if matches!(self, Self::Paths(paths) if paths.len() > MOST_PATHS) {
            *self = Self::Anywhere;
        }
    }
}

/// Something that is read again and again from the file system.
trait Source: Send + 'static {
    /// What reading gives.
    type Value: Send + Sync + 'static;
    /// What to watch.
    fn paths(&self) -> Vec<PathBuf>;
    /// Reads what was touched; `None` when nothing changed since the last time.
    fn read(&mut self, touched: &Touched) -> Option<Self::Value>;
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

    fn read(&mut self, touched: &Touched) -> Option<Arc<Loaded>> {
        let loaded = match touched {
            Touched::Paths(paths) => self.read_touched(paths),
            Touched::Anywhere => self.read(),
        };
        loaded.map(Arc::new)
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

    fn read(&mut self, _: &Touched) -> Option<PodStates> {
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
    let touched = Arc::new(Mutex::new(Touched::nowhere()));
    // One slot is enough: what is in it only means "look again".
    let (wake, woken) = mpsc::channel(1);
    // Watched from before the first look, so that nothing is written between the two.
    let watcher = watcher(&source.paths(), Arc::clone(&touched), wake);
    let first = source.read(&Touched::Anywhere).unwrap_or_default();
    let (sender, receiver) = watch::channel(first);
    let events = Events {
        _watcher: watcher,
        touched,
        woken,
        looked: Instant::now(),
    };
    tokio::spawn(follow(source, events, sender));
    receiver
}

/// What the file system tells.
struct Events {
    /// Held so that the watch lasts as long as this does.
    _watcher: Option<RecommendedWatcher>,
    touched: Arc<Mutex<Touched>>,
    woken: mpsc::Receiver<()>,
    /// When everything was looked at.
    looked: Instant,
}

impl Events {
    /// Waits for a burst of events, for `patience`, or until everything is to be looked at again; what was touched.
    async fn next(&mut self, patience: Option<Duration>) -> Touched {
        let rescan = RESCAN.saturating_sub(self.looked.elapsed());
        let is_told = wake_up(&mut self.woken, patience.unwrap_or(rescan)).await;
        settle(&mut self.woken).await;
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let told = std::mem::replace(&mut *touched, Touched::nowhere());
        // However much is told, some of what happens is not.
        if is_told && matches!(told, Touched::Paths(_)) && self.looked.elapsed() < RESCAN {
            return told;
        }
        self.looked = Instant::now();
        Touched::Anywhere
    }
}

fn watcher(
    paths: &[PathBuf],
    touched: Arc<Mutex<Touched>>,
    wake: mpsc::Sender<()>,
) -> Option<RecommendedWatcher> {
    let notify = move |event: notify::Result<Event>| {
        if event.as_ref().is_ok_and(|event| is_only_read(event.kind)) {
            return;
        }
        let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.add(event);
        drop(touched);
        // A full slot already says "look again".
        let _ = wake.try_send(());
    };
    let mut watcher = notify::recommended_watcher(notify)
        .inspect_err(|error| warn!(%error, "cannot watch files; reading them every {RESCAN:?}"))
        .ok()?;
    for (watched, mode) in paths.iter().flat_map(|path| watched(path)) {
        if let Err(error) = watcher.watch(&watched, mode) {
            warn!(%error, path = %watched.display(), "cannot watch; reading every {RESCAN:?}");
        }
    }
    Some(watcher)
}

/// The directories in which a path can change: where it is written, and where it leads if it is a link.
fn watched(path: &Path) -> Vec<(PathBuf, RecursiveMode)> {
    // A file is watched through its directory, so that replacing it by a rename is seen.
    let directory = |file: &Path| match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if !path.is_file() {
        return vec![(path.to_owned(), RecursiveMode::Recursive)];
    }
    let mut directories = vec![directory(path)];
    if path.is_symlink()
        && let Ok(real) = path.canonicalize()
    {
        directories.push(directory(&real));
    }
    let flat = |directory| (directory, RecursiveMode::NonRecursive);
    directories.into_iter().map(flat).collect()
}

/// Whether something was only looked at. What reads files causes such events itself, and would read again because of them, for ever.
fn is_only_read(event: EventKind) -> bool {
    let EventKind::Access(access) = event else {
        return false;
    };
    access != AccessKind::Close(AccessMode::Write)
}

async fn follow<S: Source>(mut source: S, mut events: Events, sender: watch::Sender<S::Value>) {
    loop {
        let touched = tokio::select! {
            () = sender.closed() => return,
            touched = events.next(source.again()) => touched,
        };
        let read = tokio::task::spawn_blocking(move || {
            let value = source.read(&touched);
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

/// Waits for an event, or until `patience` is over; without a watcher only the latter. Whether it was an event.
async fn wake_up(woken: &mut mpsc::Receiver<()>, patience: Duration) -> bool {
    let woken = tokio::time::timeout(patience, woken.recv()).await;
    if let Ok(None) = woken {
        tokio::time::sleep(patience).await;
    }
    matches!(woken, Ok(Some(())))
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A file's text, and how often it was looked at.
    struct Counted {
        path: PathBuf,
        reads: Arc<AtomicUsize>,
    }

    impl Source for Counted {
        type Value = String;

        fn paths(&self) -> Vec<PathBuf> {
            vec![self.path.clone()]
        }

        fn read(&mut self, _: &Touched) -> Option<String> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            fs::read_to_string(&self.path).ok()
        }
    }

    /// Follows `path` while the file that it leads to is written; how often it was read is counted.
    async fn follow_an_edit(path: PathBuf, file: PathBuf) -> Arc<AtomicUsize> {
        fs::write(&file, "one").unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let mut seen = start(Counted {
            path,
            reads: counted,
        });
        assert_eq!(*seen.borrow_and_update(), "one");
        fs::write(&file, "two").unwrap();
        let two = seen.wait_for(|text| text == "two");
        let sooner = RESCAN.mul_f32(0.8);
        let told = tokio::time::timeout(sooner, two).await;
        drop(told.expect("not by a rescan").unwrap());
        // Whoever follows ends with the last who listens.
        tokio::spawn(async move { while seen.changed().await.is_ok() {} });
        reads
    }

    #[tokio::test]
    async fn a_file_behind_a_link_is_followed() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, file) = (dir.path().join("a.yaml"), elsewhere.path().join("b.yaml"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        follow_an_edit(link, file).await;
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_reading_wakes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let reads = follow_an_edit(path.clone(), path).await;
        // What is under way ends; then nothing is left to wake anybody.
        tokio::time::sleep(LONGEST_BURST * 2).await;
        let quiet = reads.load(Ordering::Relaxed);
        tokio::time::sleep(LONGEST_BURST * 4).await;
        let again = reads.load(Ordering::Relaxed) - quiet;
        assert!(
            again <= 1,
            "read {again} times, of which a rescan may be one"
        );
    }

    fn service(name: &str) -> String {
        let spec = "{ports: [{port: 80}]}";
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    }

    /// Waits until these are the objects in force, which must not take a rescan.
    async fn wait_for(seen: &mut watch::Receiver<Arc<Loaded>>, expected: &[&str]) {
        let names = |loaded: &Arc<Loaded>| {
            let mut names: Vec<&str> = loaded.resources.iter().map(|r| r.name()).collect();
            names.sort_unstable();
            names == expected
        };
        let told = tokio::time::timeout(RESCAN.mul_f32(0.8), seen.wait_for(names)).await;
        drop(told.unwrap_or_else(|_| panic!("{expected:?} not without a rescan")));
    }

    /// What editors, `git`, `kubectl` and a kubelet do to files.
    #[tokio::test]
    async fn whatever_way_files_are_written_it_is_seen_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.yaml"), service("a")).unwrap();
        let reader = Reader::new(vec![dir.path().to_owned()], "default");
        let mut seen = watch_files(reader);
        wait_for(&mut seen, &["a"]).await;
        // In place, as `cat >` and `echo >>` do.
        fs::write(path("a.yaml"), service("a1")).unwrap();
        wait_for(&mut seen, &["a1"]).await;
        // A new file in the old one's place (`sed -i`), whatever it was called.
        fs::write(path("sedXYZ"), service("a2")).unwrap();
        fs::rename(path("sedXYZ"), path("a.yaml")).unwrap();
        wait_for(&mut seen, &["a2"]).await;
        // With the old one kept beside it (`vim`).
        fs::rename(path("a.yaml"), path("a.yaml~")).unwrap();
        fs::write(path("a.yaml"), service("a3")).unwrap();
        fs::remove_file(path("a.yaml~")).unwrap();
        wait_for(&mut seen, &["a3"]).await;
        // A directory that is moved here, edited, renamed and taken away.
        let elsewhere = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
        fs::create_dir(elsewhere.path().join("team")).unwrap();
        fs::write(elsewhere.path().join("team/b.yaml"), service("b")).unwrap();
        fs::rename(elsewhere.path().join("team"), path("team")).unwrap();
        wait_for(&mut seen, &["a3", "b"]).await;
        fs::write(path("team/b.yaml"), service("b1")).unwrap();
        wait_for(&mut seen, &["a3", "b1"]).await;
        fs::rename(path("team"), path("crew")).unwrap();
        fs::write(path("crew/b.yaml"), service("b2")).unwrap();
        wait_for(&mut seen, &["a3", "b2"]).await;
        fs::remove_dir_all(path("crew")).unwrap();
        wait_for(&mut seen, &["a3"]).await;
        // Very many at once (`git checkout`).
        let many: Vec<String> = (0..MOST_PATHS * 2).map(|n| format!("m{n:03}")).collect();
        for name in &many {
            fs::write(path(&format!("{name}.yaml")), service(name)).unwrap();
        }
        let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
        all.insert(0, "a3");
        wait_for(&mut seen, &all).await;
    }

    /// A kubelet puts a ConfigMap's keys into a new directory, to which a link is turned in one step.
    #[tokio::test]
    async fn a_config_map_that_is_mounted_is_followed() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let put = |version: &str, name: &str| {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("a.yaml"), service(name)).unwrap();
            symlink(version, path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        put("..1", "a");
        symlink("..data/a.yaml", path("a.yaml")).unwrap();
        let reader = Reader::new(vec![dir.path().to_owned()], "default");
        let mut seen = watch_files(reader);
        wait_for(&mut seen, &["a"]).await;
        for version in 2..5 {
            let name = format!("a{version}");
            put(&format!("..{version}"), &name);
            fs::remove_dir_all(path(&format!("..{}", version - 1))).unwrap();
            wait_for(&mut seen, &[&name]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_looked_at_again_however_much_is_told() {
        let touched = Arc::new(Mutex::new(Touched::nowhere()));
        let (wake, woken) = mpsc::channel(1);
        let mut events = Events {
            _watcher: None,
            touched: Arc::clone(&touched),
            woken,
            looked: Instant::now(),
        };
        let telling = tokio::spawn(async move {
            loop {
                let path = PathBuf::from("/a/log");
                let event = Event::new(EventKind::Any).add_path(path);
                touched.lock().unwrap().add(Ok(event));
                if wake.send(()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut looks = Vec::new();
        for _ in 0..20 {
            looks.push(matches!(events.next(None).await, Touched::Anywhere));
        }
        drop(events);
        telling.await.unwrap();
        let all = looks.iter().filter(|all| **all).count();
        assert!((3..=5).contains(&all), "{looks:?}");
        let lost = Event::new(EventKind::Other);
        let mut touched = Touched::nowhere();
        touched.add(Ok(lost));
        assert!(matches!(touched, Touched::Anywhere));
    }
}
