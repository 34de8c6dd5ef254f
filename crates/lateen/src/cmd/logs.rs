//! `lateen logs`: a container's log, as the pod wrote it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lateen_sources::plan::PodState;

use crate::cli::LogsArgs;
use crate::state::StateDir;
use crate::target;

/// How often a followed log is looked at. A person cannot tell it from at once, and it costs nothing measurable.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(state: &StateDir, namespace: Option<&str>, args: &LogsArgs) -> Result<()> {
    state.expect_running()?;
    let pods = state.read_pods()?;
    let pod = target::find(&pods, &args.target, namespace)?;
    let container = target::container(pod, args.container.as_deref())?;
    let path = path(state, pod, container, args.previous);
    let file = File::open(&path).with_context(|| match args.previous {
        true => format!("container {container} of {} has no previous run", pod.name),
        false => format!(
            "container {container} of {} has written no log yet",
            pod.name
        ),
    })?;
    let out = io::stdout().lock();
    match print(file, &path, args, out) {
        // The reader (head, less) has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.with_context(|| format!("reading {}", path.display())),
    }
}

/// Where the log of a container's run is: of the latest, or the one before.
pub(crate) fn path(state: &StateDir, pod: &PodState, container: &str, previous: bool) -> PathBuf {
    let suffix = if previous { "previous.log" } else { "log" };
    state
        .pod_logs(&pod.namespace, &pod.name)
        .join(format!("{container}.{suffix}"))
}

fn print(mut file: File, path: &Path, args: &LogsArgs, mut out: impl Write) -> io::Result<()> {
    if let Some(lines) = args.tail {
        seek_to_tail(&mut file, lines)?;
    }
    io::copy(&mut file, &mut out)?;
    if !args.follow {
        return out.flush();
    }
    loop {
        std::thread::sleep(LOOK);
        // A log that was rotated or restarted is another file, or a shorter one.
        let here = file.stream_position()?;
        if std::fs::metadata(path).map_or(here, |meta| meta.len()) < here {
            file = File::open(path)?;
        }
        io::copy(&mut file, &mut out)?;
        out.flush()?;
    }
}

/// Moves to the start of the last `lines` lines.
fn seek_to_tail(file: &mut File, lines: usize) -> io::Result<()> {
    const BLOCK: u64 = 64 << 10;
    let end = file.seek(SeekFrom::End(0))?;
    let mut from = end;
    loop {
        from = from.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(from))?;
        let mut starts = vec![from];
        let mut reader = BufReader::new(Read::by_ref(file).take(end - from));
        let mut at = from;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            at += read as u64;
            starts.push(at);
        }
        // The last start is the end of the file; the first is a line's start only at the file's own.
        starts.pop();
        let complete = if from == 0 {
            starts.len()
        } else {
            starts.len().saturating_sub(1)
        };
        if from == 0 || complete >= lines {
            let skip = starts.len().saturating_sub(lines);
            let start = starts.get(skip).copied().unwrap_or(end);
            file.seek(SeekFrom::Start(start))?;
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(text: &str, lines: usize) -> String {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        seek_to_tail(&mut file, lines).expect("moved");
        let mut rest = String::new();
        file.read_to_string(&mut rest).expect("read");
        rest
    }

    #[test]
    fn the_tail_is_the_last_whole_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(tail("a\nb\nc", 1), "c");
        assert_eq!(tail("a\n", 5), "a\n");
        assert_eq!(tail("", 3), "");
        assert_eq!(tail("a\nb\n", 0), "");
    }

    #[test]
    fn a_tail_longer_than_a_block_is_found() {
        let text: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
        let shown = tail(&text, 10_000);
        assert!(shown.starts_with("line 10000\n"), "{}", &shown[..40]);
        assert_eq!(shown.lines().count(), 10_000);
    }
}
