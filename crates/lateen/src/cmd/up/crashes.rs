//! Containers that end again and again: how, and what they said last.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use lateen_sources::plan::{ContainerState, PodState};

use super::report;
use crate::cmd::logs;
use crate::state::StateDir;

/// Bytes of a log in which its last line is looked for: the mesh waits for this, and a log may be one long line.
const LAST_BYTES: u64 = 4096;
/// Longest last line that is shown, in characters.
const LONGEST: usize = 300;
/// What a shell ends with if there is no such program (POSIX, 2.8.2), and a container that could not be started (as containerd's).
const CANNOT_START: [i32; 2] = [127, 128];

/// Those that were told of.
#[derive(Default)]
pub(super) struct Crashes {
    told: BTreeSet<(String, u64)>,
}

impl Crashes {
    /// A line for each container that was not told of yet, and again when its pod's template was edited.
    pub(super) fn news(&mut self, state: &StateDir, pods: &[PodState]) -> String {
        let mut news = String::new();
        for pod in pods.iter().filter(|pod| !pod.terminating) {
            for container in pod.containers.iter().filter(|c| crashes(c)) {
                let whose = report::container_of(pod, container);
                if self.told.insert((whose.clone(), pod.template_hash)) {
                    news.push_str(&whose);
                    news.push_str(&how_it_ends(state, pod, container));
                }
            }
        }
        news
    }
}

fn crashes(container: &ContainerState) -> bool {
    container.status == "CrashLoopBackOff"
}

/// Whether a container will not run before somebody changes something.
pub(super) fn is_hopeless(container: &ContainerState) -> bool {
    let cannot_start = |code| CANNOT_START.contains(&code);
    crashes(container) && container.exit_code.is_some_and(cannot_start)
}

fn how_it_ends(state: &StateDir, pod: &PodState, container: &ContainerState) -> String {
    let status = container.exit_code;
    let status = status.map_or_else(String::new, |code| format!(" with exit status {code}"));
    let log = logs::path(state, pod, &container.name, false);
    let said = File::open(log).ok().and_then(|log| last_line(log).ok());
    let said = said.filter(|said| !said.is_empty());
    let said = said.map_or_else(String::new, |said| format!(", after it said: {said}"));
    format!(" ends again and again{status}{said}\n")
}

/// The last line of a log that has anything in it, as much as is shown.
fn last_line(mut log: impl Read + Seek) -> std::io::Result<String> {
    let length = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut end = Vec::new();
    log.read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    let last = end.lines().rfind(|line| !line.trim().is_empty());
    let shown = last.unwrap_or_default().trim().chars();
    // What moves a terminal's cursor is not for ours.
    Ok(shown.filter(|c| !c.is_control()).take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_last_line_is_found_whatever_is_around_it() {
        let last = |text: &str| last_line(Cursor::new(text.as_bytes().to_vec())).expect("read");
        assert_eq!(last("one\ntwo\n\n  \n"), "two");
        assert_eq!(last("one\n two"), "two");
        assert_eq!(last("\u{1b}[2Jthree"), "[2Jthree");
        assert_eq!(last(""), "");
        let long = format!("{}\nlast", "x".repeat(10_000));
        assert_eq!(last(&long), "last");
        assert_eq!(last(&"é".repeat(10_000)).chars().count(), LONGEST);
    }
}
