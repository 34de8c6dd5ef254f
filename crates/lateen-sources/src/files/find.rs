//! Which files there are, and whether they are as they were when they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::span::{FileSpan, Span};

/// Largest file that is read, in bytes. Kubernetes refuses objects over 1.5 MiB (etcd's limit); this leaves room for many.
const LARGEST_FILE: u64 = 64 << 20;

/// Deepest directory that is searched: enough for any layout of manifests, and an end for a link that points up.
const DEEPEST: usize = 16;

/// How long ago a file must have been written for its [`Stamp`] to tell it from what may be written next: the clocks of file systems tick, some
/// of them in seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// How files of assertions about a mesh end; they hold no objects.
pub const MESH_TEST: &str = ".meshtest.yaml";

/// What a file system says of a file that is another when the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds. No program sets it, as some set the time of modification.
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The stamp of a file that is read at `now`, if it will be another one after the next write.
    pub(super) fn settled(self, now: SystemTime) -> Option<Self> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let (seconds, _) = self.changed;
        let changed = Duration::from_secs(u64::try_from(seconds).ok()?);
        (changed + SETTLED < now).then_some(self)
    }
}

/// The files below some paths, and directories that cannot be looked into.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those whose stamp cannot be had cannot be read either, which reading tells.
    pub(super) files: BTreeMap<PathBuf, Option<Stamp>>,
    /// Whether there are links, by which a file changes whose name no event has.
    pub(super) has_links: bool,
    closed: Vec<(PathBuf, io::Error)>,
}

impl Found {
    /// The files below the paths; hidden files and editors' leavings are passed over.
    pub(super) fn below(paths: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for path in paths {
            match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => found.walk(path, 0),
                Ok(meta) => drop(found.files.insert(path.clone(), Some(Stamp::of(&meta)))),
                Err(error) => found.closed.push((path.clone(), error)),
            }
        }
        found
    }

    /// What could not be looked into.
    pub(super) fn problems(&self) -> Vec<Diagnostic> {
        let closed = self.closed.iter();
        closed
            .map(|(path, error)| unreadable(path, error))
            .collect()
    }

    /// Whether there is a file, as far as can be seen.
    pub(super) fn may_hold(&self, file: &Path) -> bool {
        let mut closed = self.closed.iter();
        self.files.contains_key(file) || closed.any(|(path, _)| file.starts_with(path))
    }

    fn walk(&mut self, dir: &Path, depth: usize) {
        if depth > DEEPEST {
            return;
        }
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => return self.closed.push((dir.to_owned(), error)),
        };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().ok();
            self.has_links |= kind.is_none_or(|kind| kind.is_symlink());
            // A directory's entry tells all but where a link leads.
            let is_dir = match kind {
                Some(kind) if !kind.is_symlink() => kind.is_dir(),
                _ => path.is_dir(),
            };
            if is_dir {
                self.walk(&path, depth + 1);
            } else if is_manifest(&path) {
                let stamp = fs::metadata(&path).ok().map(|meta| Stamp::of(&meta));
                self.files.insert(path, stamp);
            }
        }
    }
}

/// Which of some files may be others after paths were touched, with their stamps, and `None` for those that are gone. Nothing if that does not tell:
/// of links and directories, and of what is hidden or elsewhere, where links may lead.
pub(super) fn touched<T>(
    touched: &BTreeSet<PathBuf>,
    below: &[PathBuf],
    known: &BTreeMap<PathBuf, T>,
) -> Option<Vec<(PathBuf, Option<Stamp>)>> {
    let mut found = Vec::new();
    for path in touched {
        let is_known = known.contains_key(path);
        if !is_known && !below.iter().any(|root| is_plainly_below(path, root)) {
            return None;
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => {
                if is_known || is_manifest(path) {
                    found.push((path.clone(), Some(Stamp::of(&meta))));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_known {
                    found.push((path.clone(), None));
                } else if has_any_below(known, path) {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Whether a walk from `root` comes by a path, if there is a file.
fn is_plainly_below(path: &Path, root: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else {
        return false;
    };
    let is_hidden = |part: Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
    let depth = below.components().count();
    (1..=DEEPEST + 1).contains(&depth) && !below.components().any(is_hidden)
}

/// Whether a path was a directory with some of the files.
fn has_any_below<T>(files: &BTreeMap<PathBuf, T>, path: &Path) -> bool {
    let after = (Bound::Excluded(path), Bound::Unbounded);
    let next = files.range::<Path, _>(after).next();
    next.is_some_and(|(file, _)| file.starts_with(path))
}

fn is_manifest(path: &Path) -> bool {
    if path.to_string_lossy().ends_with(MESH_TEST) {
        return false;
    }
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| matches!(e.to_ascii_lowercase().as_str(), "yaml" | "yml" | "json"))
}

/// A file's text.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > LARGEST_FILE {
        let message = format!("the file has {size} bytes; at most {LARGEST_FILE} are read");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let bytes = fs::read(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("byte {at} is not UTF-8"),
        )
    })
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let shown = path.to_string_lossy();
    Diagnostic::new(
        "LAT0503",
        Severity::Error,
        format!("cannot read {shown}: {error}"),
    )
    .spanned(Some(FileSpan::new(shown.as_ref().into(), Span::default())))
    .effect("what it held before stays in force")
}
