//! What a mesh could leave behind on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A picture of the machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    rules: String,
}

/// Takes the picture.
pub(crate) fn machine() -> Machine {
    let interfaces = fs::read_dir("/sys/class/net").unwrap().flatten();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rules = Command::new("nft").args(["list", "ruleset"]).output();
    Machine {
        interfaces: interfaces
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect(),
        mounts: mounts.lines().map(str::to_owned).collect(),
        rules: rules
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default(),
    }
}

/// Processes of `program`.
pub(crate) fn processes(program: &Path) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()));
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}

/// Waits until no process of `program` is left; gives those that are.
pub(crate) fn processes_after(program: &Path, limit: Duration) -> Vec<u32> {
    let until = Instant::now() + limit;
    loop {
        let left = processes(program);
        if left.is_empty() || Instant::now() >= until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
