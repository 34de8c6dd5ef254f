//! Certificates that lie in files beside the proxy: read when the configuration first names them, again when they change.
//!
//! What cannot be used leaves the last good version in force; without one, connections that need it fail, and nothing else waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_identity::file_secret::{FileSecret, POLL, Stamp};

use crate::secrets::{self, Secrets};

/// Whether an SDS name names files.
pub(super) fn is_file(name: &str) -> bool {
    FileSecret::parse(name).is_some()
}

/// The files in use, as they were last seen.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<Arc<str>, (FileSecret, Stamp)>);

impl Files {
    /// Reads files that are newly named, and forgets those that no longer are.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Arc<str>>, secrets: &mut Secrets) {
        let gone = |name: &Arc<str>| !wanted.contains(name);
        for name in self.0.keys().filter(|name| gone(name)) {
            secrets.remove(name);
        }
        self.0.retain(|name, _| wanted.contains(name));
        for name in wanted {
            let Some(files) = FileSecret::parse(name).filter(|_| !self.0.contains_key(name)) else {
                continue;
            };
            let stamp = files.stamp();
            read(name, &files, secrets);
            self.0.insert(Arc::clone(name), (files, stamp));
        }
    }

    /// Waits until it is time to look at the files again; forever if there are none.
    pub(super) async fn time_to_look(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        tokio::time::sleep(POLL).await;
    }

    /// Reads again what has changed. Whether there is anything new.
    pub(super) fn look(&mut self, secrets: &mut Secrets) -> bool {
        let mut changed = false;
        for (name, (files, stamp)) in &mut self.0 {
            if stamp.is_current() {
                continue;
            }
            // Taken before reading: a change in between is found the next time.
            *stamp = files.stamp();
            changed |= read(name, files, secrets);
        }
        changed
    }
}

/// Whether it could be used.
fn read(name: &Arc<str>, files: &FileSecret, secrets: &mut Secrets) -> bool {
    match secrets::from_files(files) {
        Ok(material) => {
            secrets.insert(Arc::clone(name), material);
            true
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let kept = secrets.get(name).is_some();
            tracing::warn!(%name, %error, ?cause, kept, "certificate in files cannot be used");
            false
        }
    }
}
