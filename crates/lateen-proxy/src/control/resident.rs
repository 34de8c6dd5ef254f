//! Gives back what only starting and applying configuration needed: memory that was freed, and pages of program text.
//!
//! A page fault in a mapped file maps the sixteen pages around it too, so reading a command line, a first configuration and
//! some certificates leaves most of the binary resident, while a request touches little of it. Once the configuration is
//! quiet, and when most connections have gone, the clean pages are given up: what is needed again comes back from the page
//! cache, a microsecond for sixteen pages.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use tokio::time::timeout;

use crate::shared::Shared;

/// How long nothing may have been published before pages are given up.
const QUIET: Duration = Duration::from_secs(3);

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    length: usize,
}

/// Gives pages up after each burst of configuration or connections, until the runtime stops.
pub(super) async fn trim(shared: Arc<Shared>) {
    let mut changed = shared.changes();
    loop {
        tokio::select! {
            changed = changed.changed() => if changed.is_err() {
                return;
            },
            () = shared.emptied.notified() => {}
        }
        while let Ok(Ok(())) = timeout(QUIET, changed.changed()).await {}
        if let Some(give_back) = shared.config.give_back {
            give_back();
        }
        match release() {
            Ok(bytes) => tracing::debug!(bytes, "gave up pages of program text"),
            Err(error) => tracing::debug!(%error, "pages of program text stay resident"),
        }
    }
}

/// Gives up every page of mapped files that is as in its file. Returns the bytes of address space advised on.
///
/// # Errors
/// The process cannot read its own mappings, or the kernel refuses.
pub(crate) fn release() -> io::Result<usize> {
    let ranges = clean(&std::fs::read_to_string("/proc/self/smaps")?);
    for range in &ranges {
        drop_pages(*range)?;
    }
    Ok(ranges.iter().map(|range| range.length).sum())
}

#[expect(
    unsafe_code,
    reason = "advice on memory is unsafe by its signature, since some advice discards data"
)]
fn drop_pages(range: Range) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is a private mapping of a file that nobody can write to and of which no page differs from the file
    // (`clean`), so a page that is dropped reads the same when it is next touched.
    unsafe { madvise(start, range.length, Advice::LinuxDontNeed) }?;
    Ok(())
}

/// The private, unwritable mappings of files without a page of their own, of the text of `/proc/PID/smaps` (`proc(5)`).
fn clean(smaps: &str) -> Vec<Range> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(value) = line.strip_prefix("Anonymous:") {
            // Pages with relocations applied, or with a debugger's breakpoints, differ from the file.
            found.extend(current.take().filter(|_| value.trim() == "0 kB"));
        } else if let Some(mapping) = mapping(line) {
            current = mapping;
        }
    }
    found
}

/// A mapping's head: the range if it is of interest. `None` where the line is no head.
fn mapping(line: &str) -> Option<Option<Range>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let mut next = || words.next().unwrap_or_default();
    let (permissions, _offset, _device, inode) = (next(), next(), next(), next());
    let unwritable = matches!(permissions, "r-xp" | "r--p");
    let range = Range {
        start,
        length: end.saturating_sub(start),
    };
    Some((unwritable && inode != "0").then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unwritable_mappings_of_files_without_pages_of_their_own_are_clean() {
        let smaps = "\
1000-3000 r-xp 00000000 fe:00 12    /bin/x
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 r--p 00002000 fe:00 12    /bin/x
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 12    /bin/x
Anonymous:             0 kB
5000-6000 r-xp 00000000 00:00 0     [vdso]
Anonymous:             0 kB
6000-8000 r--s 00000000 fe:00 13    /shared
Anonymous:             0 kB
9000-b000 r--p 00000000 fe:00 14    /lib/y with a space
Anonymous:             0 kB
";
        let range = |start, length| Range { start, length };
        assert_eq!(clean(smaps), [range(0x1000, 0x2000), range(0x9000, 0x2000)]);
    }

    #[test]
    fn the_program_goes_on_after_its_pages_are_given_up_and_is_smaller() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:"));
            let words = line.and_then(|line| line.split_ascii_whitespace().nth(1));
            words.and_then(|kb| kb.parse::<usize>().ok()).unwrap()
        };
        // Other tests run beside this one and touch pages again, so one try of several must show it.
        let smaller = (0..20).any(|_| {
            let before = resident();
            assert!(release().unwrap() > 0);
            resident() < before
        });
        assert!(smaller);
    }
}
