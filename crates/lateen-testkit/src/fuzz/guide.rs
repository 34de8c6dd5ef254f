//! Inputs that reach something new become seeds of others, in this run and in those that follow.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::coverage::Coverage;
use super::keep;
use super::network::{hex, inputs};

/// The seeds of a run.
pub(super) struct Guide {
    /// What inputs are made of.
    pub(super) seeds: Vec<Vec<u8>>,
    /// None if edges are not counted: then nothing is learned.
    coverage: Option<Coverage>,
    directory: Option<PathBuf>,
    learned: usize,
}

impl Guide {
    /// Starts from seeds that stay whatever they reach. What is learned is kept in the directory.
    pub(super) fn new(seeds: Vec<Vec<u8>>, directory: Option<PathBuf>) -> Self {
        Self {
            seeds,
            coverage: Coverage::new(),
            directory,
            learned: 0,
        }
    }

    /// What earlier runs kept, the shortest first.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn kept(&self) -> Result<Vec<Vec<u8>>> {
        let Some(directory) = self
            .directory
            .as_deref()
            .filter(|_| self.coverage.is_some())
        else {
            return Ok(Vec::new());
        };
        let some = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
        if !some {
            return Ok(Vec::new());
        }
        let mut inputs = inputs(directory)?;
        inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        Ok(inputs)
    }

    /// Whether the input that just ran reached something new.
    pub(super) fn is_news(&mut self) -> bool {
        self.coverage.as_mut().is_some_and(Coverage::is_news)
    }

    /// Makes an input a seed, of later runs, too.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(super) fn learn(&mut self, input: Vec<u8>) -> Result<()> {
        if let Some(directory) = &self.directory {
            keep(directory, &file_name(&input), &hex(&input))?;
        }
        self.seeds.push(input);
        self.learned += 1;
        Ok(())
    }

    /// Later runs need not know an input.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn drop_kept(&self, input: &[u8]) -> Result<()> {
        let directory = self.directory.as_deref().unwrap_or(Path::new(""));
        let file = directory.join(file_name(input));
        match std::fs::remove_file(&file) {
            // Another run that shares the directory was faster, or somebody gave the file a name.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("removing {}", file.display())),
        }
    }

    /// How many edges were taken, and how many inputs were learned.
    pub(super) fn reached(&self) -> Option<(usize, usize)> {
        let coverage = self.coverage.as_ref()?;
        Some((coverage.edges(), self.learned))
    }
}

fn file_name(input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
