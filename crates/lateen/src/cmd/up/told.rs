//! What is wrong with the files, told to the user once: at the start, and again whenever an edit brings something new.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use lateen_compile::Settings;
use lateen_control::findings::{Extent, findings};
use lateen_sources::files::Loaded;
use tokio::sync::{mpsc, watch};
use tracing::error;

use crate::cmd::validate::rendered;
use crate::output::{self, print};

/// Judges every version of the files, off the runtime: a large mesh takes a while, and its traffic is not to wait for that.
/// What comes back are findings as they are shown.
pub(super) fn judge(
    mut files: watch::Receiver<Arc<Loaded>>,
    settings: Settings,
    native: bool,
) -> mpsc::Receiver<BTreeSet<String>> {
    let (verdicts, receiver) = mpsc::channel(1);
    files.mark_changed();
    tokio::spawn(async move {
        while files.changed().await.is_ok() {
            let loaded = files.borrow_and_update().clone();
            let settings = settings.clone();
            let work = move || texts(&loaded, &settings, native);
            let done = tokio::task::spawn_blocking(work).await;
            let texts = done.inspect_err(
                |error| error!(%error, "looking for mistakes in the files failed; the mesh goes on"),
            );
            if verdicts.send(texts.unwrap_or_default()).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn texts(loaded: &Loaded, settings: &Settings, native: bool) -> BTreeSet<String> {
    let between = findings(&loaded.resources.to_vec(), settings, native, Extent::Whole);
    let all = loaded.diagnostics.iter().chain(&between);
    all.map(|d| rendered(d, loaded, output::colour())).collect()
}

/// What the user was told already, so that an edit repeats nothing.
#[derive(Default)]
pub(super) struct Told {
    last: Option<BTreeSet<String>>,
}

impl Told {
    /// Whether the files have been judged once.
    pub(super) fn anything_yet(&self) -> bool {
        self.last.is_some()
    }

    pub(super) fn tell(&mut self, texts: &BTreeSet<String>) -> Result<()> {
        let last = self.last.replace(texts.clone()).unwrap_or_default();
        for text in texts.difference(&last) {
            print(&format!("{text}\n"))?;
        }
        match last.difference(texts).count() {
            0 => Ok(()),
            1 => print("1 earlier finding is gone\n"),
            mended => print(&format!("{mended} earlier findings are gone\n")),
        }
    }
}
