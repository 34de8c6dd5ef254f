//! Which objects are in force: those of all files together, with the last good version of what breaks and, for a moment, what is gone.
//!
//! Files are put together whole where an object is in two of them, has errors or is gone. All else is put in its file's place, so that an edit
//! costs that file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::meta::{Key, ResourceRef};
use lateen_api::{Resource, SourceFile};

use super::same::is_same_place;
use super::{Cached, Loaded};

/// How long an object must be in no file to count as deleted.
pub(super) const GONE_AFTER: Duration = Duration::from_millis(250);

/// What is in force, and where from.
#[derive(Debug, Default)]
pub(super) struct InForce {
    /// Each object with its file, or the one it was in.
    objects: BTreeMap<Key, (Arc<Path>, Resource)>,
    /// Those that are in no file any more.
    kept: Arc<[Resource]>,
    /// Since when, of those that are kept for a moment.
    missing: BTreeMap<Key, Instant>,
    /// Objects that are in several files.
    duplicates: Vec<Diagnostic>,
}

impl InForce {
    /// Whether something is kept for a moment.
    pub(super) fn is_waiting(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Whether a moment is over.
    pub(super) fn is_due(&self) -> bool {
        self.missing.values().any(is_over)
    }

    /// Takes edited files into their places. False, and nothing is done, if there is more to it than that. `old` is what the file was.
    pub(super) fn replace(&mut self, edited: &[(Option<&Cached>, &Cached)]) -> bool {
        let is_plain = self.kept.is_empty()
            && self.duplicates.is_empty()
            && edited.iter().all(|(old, new)| is_sound(*old, new));
        let mut keys = BTreeSet::new();
        let here = edited.iter().flat_map(|(_, new)| {
            let objects = new.parsed.resources.iter();
            objects.map(|object| (object, &new.path))
        });
        let is_alone = here.clone().all(|(object, path)| {
            let key = object.key();
            let holder = self.objects.get(&key);
            holder.is_none_or(|(holder, _)| holder == path) && keys.insert(key)
        });
        let mut before = edited
            .iter()
            .flat_map(|(old, _)| old.iter().flat_map(|old| old.in_force.iter()));
        if !is_plain || !is_alone || !before.all(|object| keys.contains(&object.key())) {
            return false;
        }
        for (object, path) in here {
            let place = (Arc::clone(path), object.clone());
            self.objects.insert(object.key(), place);
        }
        true
    }

    /// Puts all files together: the last document of a key wins (as `kubectl apply` in file order would), an object with an
    /// error gives way to its last good version.
    pub(super) fn merge(&mut self, files: &mut BTreeMap<PathBuf, Cached>) {
        let mut current: BTreeMap<Key, (Arc<Path>, Resource)> = BTreeMap::new();
        let mut order: Vec<Vec<Key>> = Vec::new();
        let mut broken: BTreeSet<Arc<Path>> = BTreeSet::new();
        self.duplicates.clear();
        for cached in files.values() {
            let (path, bad) = (&cached.path, &cached.bad);
            let mut keys = Vec::new();
            if bad.unnamed {
                broken.insert(Arc::clone(path));
            }
            for object in &cached.parsed.resources {
                let key = object.key();
                let chosen = match bad.names(&key) {
                    true => self.objects.get(&key).map(|(_, good)| good.clone()),
                    false => Some(object.clone()),
                };
                let Some(chosen) = chosen else { continue };
                match current.insert(key.clone(), (Arc::clone(path), chosen)) {
                    None => keys.push(key),
                    Some((other, _)) => self.duplicates.push(duplicate(object, &other)),
                }
            }
            // An object that could not even be decoded is known only by the diagnostic that names it.
            for (key, good) in self.named_by(bad) {
                if !current.contains_key(key) {
                    current.insert(key.clone(), (Arc::clone(path), good.clone()));
                    keys.push(key.clone());
                }
            }
            order.push(keys);
        }
        let kept = self.keep(&broken, &mut current);
        let in_force = |keys: Vec<Key>| {
            let objects = keys.iter().filter_map(|key| current.get(key));
            objects
                .map(|(_, object)| object.clone())
                .collect::<Vec<_>>()
        };
        for (cached, keys) in files.values_mut().zip(order) {
            let objects = in_force(keys);
            if !is_same_list(&objects, &cached.in_force) {
                cached.in_force = objects.into();
            }
        }
        self.kept = in_force(kept).into();
        self.objects = current;
    }

    /// The last good versions of objects that have errors.
    fn named_by(&self, bad: &Erroneous) -> impl Iterator<Item = (&Key, &Resource)> {
        // Looked through only where there are errors, which is in few files.
        let all = (!bad.objects.is_empty()).then(|| self.objects.iter());
        let named = all.into_iter().flatten();
        let named = named.filter(|(key, _)| bad.names(key));
        named.map(|(key, (_, good))| (key, good))
    }

    /// Keeps objects that are in no file any more: those of broken files, since a document that is not YAML cannot be told which object it
    /// was, and for a moment all others.
    fn keep(
        &mut self,
        broken: &BTreeSet<Arc<Path>>,
        current: &mut BTreeMap<Key, (Arc<Path>, Resource)>,
    ) -> Vec<Key> {
        let (mut missing, mut kept) = (BTreeMap::new(), Vec::new());
        for (key, (path, good)) in &self.objects {
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
            current.insert(key.clone(), (Arc::clone(path), good.clone()));
            kept.push(key.clone());
        }
        self.missing = missing;
        kept
    }

    /// All of it.
    pub(super) fn loaded(
        &self,
        files: &BTreeMap<PathBuf, Cached>,
        mut diagnostics: Vec<Diagnostic>,
    ) -> Loaded {
        diagnostics.extend(self.duplicates.iter().cloned());
        let found = files.values().flat_map(|file| &file.parsed.diagnostics);
        diagnostics.extend(found.cloned());
        let blocks = files.values().map(|file| Arc::clone(&file.in_force));
        let kept = (!self.kept.is_empty()).then(|| Arc::clone(&self.kept));
        Loaded {
            resources: blocks.chain(kept).collect(),
            others: files
                .values()
                .map(|file| Arc::clone(&file.others))
                .collect(),
            files: files
                .values()
                .map(|file| SourceFile::clone(&file.file))
                .collect(),
            diagnostics,
        }
    }
}

/// Whether neither a file nor what it was has errors.
fn is_sound(old: Option<&Cached>, new: &Cached) -> bool {
    old.is_none_or(|old| old.bad.is_none()) && new.bad.is_none()
}

/// Whether two lists are of the same objects, where they are kept.
fn is_same_list(one: &[Resource], other: &[Resource]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same_place(a, b))
}

/// Whether what is missing since then counts as deleted.
fn is_over(since: &Instant) -> bool {
    since.elapsed() >= GONE_AFTER
}

/// Which objects of a file have errors.
#[derive(Debug, Default)]
pub(super) struct Erroneous {
    /// Kind, namespace and name.
    objects: BTreeSet<(String, String, String)>,
    /// Some error could not be attributed to an object.
    unnamed: bool,
}

impl Erroneous {
    pub(super) fn of(diagnostics: &[Diagnostic]) -> Self {
        let mut found = Self::default();
        for diagnostic in diagnostics.iter().filter(|d| d.is_error()) {
            match &diagnostic.resource {
                Some(ResourceRef {
                    kind,
                    namespace,
                    name,
                    ..
                }) if !name.is_empty() => {
                    let object = (kind.clone(), namespace.clone(), name.clone());
                    found.objects.insert(object);
                }
                _ => found.unnamed = true,
            }
        }
        found
    }

    fn is_none(&self) -> bool {
        self.objects.is_empty() && !self.unnamed
    }

    fn names(&self, key: &Key) -> bool {
        if self.objects.is_empty() {
            return false;
        }
        let id = (
            key.kind.as_str().to_owned(),
            key.namespace.to_string(),
            key.name.to_string(),
        );
        self.objects.contains(&id)
    }
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
