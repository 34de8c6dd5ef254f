//! Reading a set of files and directories of YAML, again and again, keeping the last good version of what breaks.
//!
//! An edit is atomic per object: an object that parses takes the place of its older self, one that does not leaves its older
//! self in force and says so. An object disappears only when its document does, and is still gone a moment later: editors and `cp` empty
//! a file before they write it, and what is half written looks like a file whose other half was deleted.

mod blocks;
mod find;
mod merge;
mod same;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_api::diagnostic::Diagnostic;
use lateen_api::{OtherDoc, Parsed, Resource, SourceFile};

pub use blocks::Blocks;
pub use find::MESH_TEST;
pub use same::is_same_place;

use find::{Found, Stamp, read_text, unreadable};
use merge::{Erroneous, GONE_AFTER, InForce};

/// Everything the files hold now.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force, in the order of their files and documents.
    pub resources: Blocks<Resource>,
    /// Documents of kinds that are not ours, kept and passed over.
    pub others: Blocks<OtherDoc>,
    /// What is wrong, from every file.
    pub diagnostics: Vec<Diagnostic>,
    /// The files read, for showing snippets.
    pub files: Vec<SourceFile>,
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
    in_force: InForce,
    problems: Vec<Diagnostic>,
    has_links: bool,
}

/// A file as it was read.
#[derive(Debug)]
struct Cached {
    path: Arc<Path>,
    /// Tells it from what it may be later, if that can be told without reading it.
    stamp: Option<Stamp>,
    file: SourceFile,
    parsed: Parsed,
    bad: Erroneous,
    /// What is in force of it.
    in_force: Arc<[Resource]>,
    others: Arc<[OtherDoc]>,
}

impl Reader {
    /// A reader of files and directories (searched in depth for `.yaml`, `.yml` and `.json`).
    pub fn new(paths: Vec<PathBuf>, default_namespace: impl Into<String>) -> Self {
        Self {
            paths,
            default_namespace: default_namespace.into(),
            cache: BTreeMap::new(),
            in_force: InForce::default(),
            problems: Vec::new(),
            has_links: false,
        }
    }

    /// Reads one text that is no file, such as standard input.
    pub fn parse_text(file: SourceFile, default_namespace: &str) -> Loaded {
        let mut reader = Self::new(Vec::new(), default_namespace);
        let path = PathBuf::from(&*file.path);
        let parsed = reader.parse(&path, &file.text, None);
        reader.cache.insert(path, parsed);
        reader.in_force.merge(&mut reader.cache);
        reader.loaded()
    }

    /// What is watched.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads what changed and returns the whole, or `None` when nothing did since the last call.
    pub fn read(&mut self) -> Option<Loaded> {
        let found = Found::below(&self.paths);
        self.has_links = found.has_links;
        let gone = self.cache.keys().filter(|path| !found.may_hold(path));
        let gone = gone.cloned().collect();
        let problems = found.problems();
        self.read_these(found.files.into_iter(), gone, problems)
    }

    /// Like [`Reader::read`], where nothing but some paths was touched: looks at no others, if that is enough to tell.
    pub fn read_touched(&mut self, paths: &BTreeSet<PathBuf>) -> Option<Loaded> {
        let is_simple = self.problems.is_empty() && !self.has_links && !self.in_force.is_waiting();
        let touched = is_simple.then(|| find::touched(paths, &self.paths, &self.cache));
        let Some(touched) = touched.flatten() else {
            return self.read();
        };
        let (gone, files): (Vec<_>, Vec<_>) =
            touched.into_iter().partition(|(_, stamp)| stamp.is_none());
        let gone = gone.into_iter().map(|(path, _)| path).collect();
        self.read_these(files.into_iter(), gone, Vec::new())
    }

    fn read_these(
        &mut self,
        files: impl Iterator<Item = (PathBuf, Option<Stamp>)>,
        gone: Vec<PathBuf>,
        mut problems: Vec<Diagnostic>,
    ) -> Option<Loaded> {
        let mut edited = Vec::new();
        for (path, stamp) in files {
            match self.read_one(&path, stamp) {
                Ok(None) => {}
                Ok(Some(new)) => edited.push(new),
                // What it held stays: a file that is being replaced is briefly unreadable.
                Err(error) => problems.push(unreadable(&path, &error)),
            }
        }
        let is_changed = !gone.is_empty() || !edited.is_empty() || problems != self.problems;
        self.problems = problems;
        if !is_changed && !self.in_force.is_due() {
            return None;
        }
        for path in &gone {
            self.cache.remove(path);
        }
        self.take(edited, !gone.is_empty());
        Some(self.loaded())
    }

    /// When to read again although nothing says that a file changed.
    pub fn again(&self) -> Option<Duration> {
        self.in_force.is_waiting().then_some(GONE_AFTER)
    }

    /// A file that is not as it was.
    fn read_one(&mut self, path: &Path, stamp: Option<Stamp>) -> io::Result<Option<Cached>> {
        let known = self.cache.get(path);
        if known.is_some_and(|known| known.stamp.is_some() && known.stamp == stamp) {
            return Ok(None);
        }
        let stamp = stamp.and_then(|stamp| stamp.settled(SystemTime::now()));
        let text = read_text(path)?;
        if let Some(known) = self.cache.get_mut(path)
            && *known.file.text == *text
        {
            known.stamp = stamp;
            return Ok(None);
        }
        let mut new = self.parse(path, &text, self.cache.get(path));
        new.stamp = stamp;
        Ok(Some(new))
    }

    fn parse(&self, path: &Path, text: &str, old: Option<&Cached>) -> Cached {
        let file = SourceFile::new(&path.to_string_lossy(), text);
        let mut parsed = lateen_api::parse_file(&file, &self.default_namespace);
        if let Some(old) = old {
            same::share(&mut parsed, text, &old.parsed, &old.file);
        }
        let refused: Vec<Diagnostic> = parsed
            .resources
            .iter()
            .flat_map(lateen_api::validate)
            .collect();
        parsed.diagnostics.extend(refused);
        Cached {
            path: path.into(),
            stamp: None,
            bad: Erroneous::of(&parsed.diagnostics),
            in_force: Arc::default(),
            others: parsed.others.clone().into(),
            parsed,
            file,
        }
    }

    /// Takes what was edited.
    fn take(&mut self, edited: Vec<Cached>, is_gone: bool) {
        let changes: Vec<(Option<&Cached>, &Cached)> = edited
            .iter()
            .map(|new| (self.cache.get(&*new.path), new))
            .collect();
        let is_replaced = !is_gone && !self.in_force.is_due() && self.in_force.replace(&changes);
        for mut new in edited {
            if is_replaced {
                new.in_force = new.parsed.resources.clone().into();
            } else if let Some(old) = self.cache.get(&*new.path) {
                new.in_force = Arc::clone(&old.in_force);
            }
            self.cache.insert(new.path.to_path_buf(), new);
        }
        if !is_replaced {
            self.in_force.merge(&mut self.cache);
        }
    }

    fn loaded(&self) -> Loaded {
        self.in_force.loaded(&self.cache, self.problems.clone())
    }
}

#[cfg(test)]
mod tests;
