//! Reading a set of files and directories of YAML, again and again, keeping the last good version of what breaks.
//!
//! An edit is atomic per object: an object that parses takes the place of its older self, one that does not leaves its older
//! self in force and says so. An object disappears only when its document does, and is still gone a moment later: editors and `cp` empty
//! a file before they write it, and what is half written looks like a file whose other half was deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::meta::{Key, ResourceRef};
use lateen_api::span::{FileSpan, Span};
use lateen_api::{OtherDoc, Parsed, Resource, SourceFile};

/// Largest file that is read, in bytes. Kubernetes refuses objects over 1.5 MiB (etcd's limit); this leaves room for many.
const LARGEST_FILE: u64 = 64 << 20;

/// How long an object must be in no file to count as deleted.
const GONE_AFTER: Duration = Duration::from_millis(250);

/// Everything the files hold now.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force, in the order of their files and documents.
    pub resources: Vec<Resource>,
    /// Documents of kinds that are not ours, kept and passed over.
    pub others: Vec<OtherDoc>,
    /// What is wrong, from every file.
    pub diagnostics: Vec<Diagnostic>,
    /// The files read, for showing snippets.
    pub files: BTreeMap<PathBuf, SourceFile>,
}

impl Loaded {
    /// Whether any diagnostic is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Reads paths repeatedly and remembers what was good.
#[derive(Debug)]
pub struct Reader {
    paths: Vec<PathBuf>,
    default_namespace: String,
    cache: BTreeMap<PathBuf, Cached>,
    good: BTreeMap<Key, (PathBuf, Resource)>,
    /// Objects in force that are in no file any more, and since when.
    missing: BTreeMap<Key, Instant>,
}

#[derive(Debug)]
struct Cached {
    file: SourceFile,
    parsed: Parsed,
}

impl Reader {
    /// A reader of files and directories (searched in depth for `.yaml`, `.yml` and `.json`).
    pub fn new(paths: Vec<PathBuf>, default_namespace: impl Into<String>) -> Self {
        Self {
            paths,
            default_namespace: default_namespace.into(),
            cache: BTreeMap::new(),
            good: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Reads one text that is no file, such as standard input.
    pub fn parse_text(file: SourceFile, default_namespace: &str) -> Loaded {
        let mut reader = Self::new(Vec::new(), default_namespace);
        let path = PathBuf::from(&*file.path);
        let parsed = reader.parse(&path, &file.text);
        reader.cache.insert(path, parsed);
        reader.merge(Vec::new())
    }

    /// What is watched.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads what changed and returns the whole, or `None` when nothing did since the last call.
    pub fn read(&mut self) -> Option<Loaded> {
        let (found, problems) = find(&self.paths);
        let mut changed = self.cache.len() != found.len() || !problems.is_empty();
        let mut diagnostics = problems;
        let mut next = BTreeMap::new();
        for path in found {
            let old = self.cache.remove(&path);
            let text = match read_text(&path) {
                Ok(text) => text,
                Err(error) => {
                    changed = true;
                    diagnostics.push(unreadable(&path, &error));
                    // Keep what it held: a file that is being replaced is briefly unreadable.
                    next.extend(old.map(|cached| (path, cached)));
                    continue;
                }
            };
            match old {
                Some(cached) if *cached.file.text == *text => next.insert(path, cached),
                _ => {
                    changed = true;
                    let parsed = self.parse(&path, &text);
                    next.insert(path, parsed)
                }
            };
        }
        self.cache = next;
        changed |= self.missing.values().any(is_over);
        changed.then(|| self.merge(diagnostics))
    }

    /// When to read again although nothing says that a file changed.
    pub fn again(&self) -> Option<Duration> {
        (!self.missing.is_empty()).then_some(GONE_AFTER)
    }

    fn parse(&self, path: &Path, text: &str) -> Cached {
        let file = SourceFile::new(&path.to_string_lossy(), text);
        let mut parsed = lateen_api::parse_file(&file, &self.default_namespace);
        let refused: Vec<Diagnostic> = parsed
            .resources
            .iter()
            .flat_map(lateen_api::validate)
            .collect();
        parsed.diagnostics.extend(refused);
        Cached { file, parsed }
    }

    /// Puts the files together: the last document of a key wins (as `kubectl apply` in file order would), an object with an
    /// error gives way to its last good version.
    fn merge(&mut self, mut diagnostics: Vec<Diagnostic>) -> Loaded {
        let mut loaded = Loaded::default();
        let mut current: BTreeMap<Key, (PathBuf, Resource)> = BTreeMap::new();
        let mut order: Vec<Key> = Vec::new();
        let mut broken_files = BTreeSet::new();
        for (path, cached) in &self.cache {
            loaded.files.insert(path.clone(), cached.file.clone());
            loaded.others.extend(cached.parsed.others.iter().cloned());
            let bad = erroneous(&cached.parsed.diagnostics);
            if bad.unnamed {
                broken_files.insert(path.clone());
            }
            for resource in &cached.parsed.resources {
                let key = resource.key();
                let chosen = match bad.names(&key) {
                    true => self.good.get(&key).map(|(_, good)| good.clone()),
                    false => Some(resource.clone()),
                };
                let Some(chosen) = chosen else { continue };
                match current.insert(key.clone(), (path.clone(), chosen)) {
                    None => order.push(key),
                    Some((other, _)) => diagnostics.push(duplicate(resource, &other)),
                }
            }
            // An object that could not even be decoded is known only by the diagnostic that names it.
            for (key, (_, good)) in self.good.iter().filter(|(key, _)| bad.names(key)) {
                if !current.contains_key(key) {
                    current.insert(key.clone(), (path.clone(), good.clone()));
                    order.push(key.clone());
                }
            }
            diagnostics.extend(cached.parsed.diagnostics.iter().cloned());
        }
        self.keep(&broken_files, &mut current, &mut order);
        loaded.resources = order
            .iter()
            .filter_map(|key| current.get(key))
            .map(|(_, r)| r.clone())
            .collect();
        self.good = current;
        loaded.diagnostics = diagnostics;
        loaded
    }

    /// Keeps objects that are in no file any more: those of broken files, since a document that is not YAML cannot be told which object it
    /// was, and for a moment all others.
    fn keep(
        &mut self,
        broken: &BTreeSet<PathBuf>,
        current: &mut BTreeMap<Key, (PathBuf, Resource)>,
        order: &mut Vec<Key>,
    ) {
        let mut missing = BTreeMap::new();
        for (key, (path, good)) in &self.good {
            if current.contains_key(key) {
                continue;
            }
            if !broken.contains(path) {
                let now = Instant::now();
                let since = self.missing.get(key).copied().unwrap_or(now);
                if is_over(&since) {
                    continue;
                }
                missing.insert(key.clone(), since);
            }
            current.insert(key.clone(), (path.clone(), good.clone()));
            order.push(key.clone());
        }
        self.missing = missing;
    }
}

/// Whether what is missing since then counts as deleted.
fn is_over(since: &Instant) -> bool {
    since.elapsed() >= GONE_AFTER
}

/// Which objects of a file have errors.
#[derive(Default)]
struct Erroneous {
    /// Kind, namespace and name.
    objects: BTreeSet<(String, String, String)>,
    /// Some error could not be attributed to an object.
    unnamed: bool,
}

impl Erroneous {
    fn names(&self, key: &Key) -> bool {
        let id = (
            key.kind.as_str().to_owned(),
            key.namespace.to_string(),
            key.name.to_string(),
        );
        self.objects.contains(&id)
    }
}

fn erroneous(diagnostics: &[Diagnostic]) -> Erroneous {
    let mut found = Erroneous::default();
    for diagnostic in diagnostics.iter().filter(|d| d.is_error()) {
        match &diagnostic.resource {
            Some(ResourceRef {
                kind,
                namespace,
                name,
                ..
            }) if !name.is_empty() => {
                found
                    .objects
                    .insert((kind.clone(), namespace.clone(), name.clone()));
            }
            _ => found.unnamed = true,
        }
    }
    found
}

fn duplicate(resource: &Resource, other: &Path) -> Diagnostic {
    Diagnostic::new(
        "LAT0502",
        Severity::Warning,
        format!("{} is also in {}", resource.key(), other.display()),
    )
    .on(resource.reference())
    .spanned(Some(resource.file_span("metadata.name")))
    .effect("the last one in the order of files is in force, as if they were applied in turn")
    .fix("keep one of them")
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let shown = path.to_string_lossy();
    Diagnostic::new(
        "LAT0503",
        Severity::Error,
        format!("cannot read {shown}: {error}"),
    )
    .spanned(Some(FileSpan::new(shown.as_ref().into(), Span::default())))
    .effect("what it held before stays in force")
}

/// The files below the paths, sorted; hidden files and editors' leavings are passed over.
fn find(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Diagnostic>) {
    let mut files = BTreeSet::new();
    let mut problems = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => walk(path, 0, &mut files, &mut problems),
            Ok(_) => {
                files.insert(path.clone());
            }
            Err(error) => problems.push(unreadable(path, &error)),
        }
    }
    (files.into_iter().collect(), problems)
}

/// Deepest directory that is searched: enough for any layout of manifests, and an end for a link that points up.
const DEEPEST: usize = 16;

fn walk(dir: &Path, depth: usize, files: &mut BTreeSet<PathBuf>, problems: &mut Vec<Diagnostic>) {
    if depth > DEEPEST {
        return;
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return problems.push(unreadable(dir, &error)),
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let hidden = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(&path, depth + 1, files, problems);
        } else if is_manifest(&path) {
            files.insert(path);
        }
    }
}

/// How files of assertions about a mesh end; they hold no objects.
pub const MESH_TEST: &str = ".meshtest.yaml";

fn is_manifest(path: &Path) -> bool {
    if path.to_string_lossy().ends_with(MESH_TEST) {
        return false;
    }
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| matches!(e.to_ascii_lowercase().as_str(), "yaml" | "yml" | "json"))
}

fn read_text(path: &Path) -> io::Result<String> {
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

#[cfg(test)]
mod tests;
