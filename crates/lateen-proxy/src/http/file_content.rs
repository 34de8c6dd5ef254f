//! Files whose content is logged (`%FILE_CONTENT(PATH)%`): read again when they change.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use lateen_telemetry::access_log::Content;

/// How often a file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes that are read of one.
const MAX_BYTES: u64 = 64 * 1024;

/// The content of a file.
#[derive(Debug)]
pub(crate) struct FileContent {
    path: PathBuf,
    text: ArcSwap<String>,
    began: Instant,
    /// Milliseconds from then to when the file is looked at again.
    due: AtomicU64,
    changed: Mutex<Option<SystemTime>>,
}

impl FileContent {
    /// Reads a file; `None` if it cannot be read, or is too long.
    pub(crate) fn open(path: &str) -> Option<Arc<Self>> {
        let path = PathBuf::from(path);
        let (text, changed) = read(&path)?;
        Some(Arc::new(Self {
            text: ArcSwap::from_pointee(text),
            path,
            began: Instant::now(),
            due: AtomicU64::new(millis(LOOK)),
            changed: Mutex::new(changed),
        }))
    }

    /// Reads the file again if it has changed. One that cannot be read stays as it was.
    fn look(&self) {
        let Ok(mut known) = self.changed.try_lock() else {
            return; // another worker looks
        };
        let changed = fs::metadata(&self.path).and_then(|about| about.modified());
        if changed.ok() == *known {
            return;
        }
        if let Some((text, changed)) = read(&self.path) {
            self.text.store(Arc::new(text));
            *known = changed;
        }
    }
}

impl Content for FileContent {
    fn text(&self) -> Arc<str> {
        let now = millis(self.began.elapsed());
        let due = self.due.load(Ordering::Relaxed);
        let later = now + millis(LOOK);
        if now >= due
            && self
                .due
                .compare_exchange(due, later, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.look();
        }
        self.text.load().as_str().into()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn read(path: &PathBuf) -> Option<(String, Option<SystemTime>)> {
    let about = fs::metadata(path).ok()?;
    if !about.is_file() || about.len() > MAX_BYTES {
        return None;
    }
    let text = fs::read(path).ok()?;
    Some((
        String::from_utf8_lossy(&text).into_owned(),
        about.modified().ok(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("motd");
        assert!(FileContent::open(path.to_str().unwrap()).is_none());
        fs::write(&path, "one").unwrap();
        let content = FileContent::open(path.to_str().unwrap()).unwrap();
        assert_eq!(&*content.text(), "one");
        fs::write(&path, "two").unwrap();
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert_eq!(&*content.text(), "one", "it is not looked at for each line");
        content.due.store(0, Ordering::Relaxed);
        assert_eq!(&*content.text(), "two");
        fs::remove_file(&path).unwrap();
        content.due.store(0, Ordering::Relaxed);
        assert_eq!(&*content.text(), "two");
    }
}
