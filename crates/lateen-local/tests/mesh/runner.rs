//! Runs every scenario in a process of its own, bounded in time, and checks that nothing is left.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::{residue, scenarios};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    Root,
    Ordinary,
}

/// `main [--list] [FILTER]`: the parts of libtest's command line that tools use.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    if arguments.iter().any(|a| a == "--list") {
        for (name, _) in scenarios::ALL {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = arguments
        .iter()
        .find(|a| !a.starts_with('-'))
        .cloned()
        .unwrap_or_default();
    let program = match Program::new() {
        Ok(program) => program,
        Err(why) => {
            println!("FAILED: no copy of the test program: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = Vec::new();
    for user in [User::Root, User::Ordinary] {
        if let Some(reason) = impossible(user) {
            let _ = writeln!(io::stderr(), "SKIPPED: all scenarios as {user:?}: {reason}");
            continue;
        }
        for (name, _) in scenarios::ALL
            .iter()
            .filter(|(name, _)| name.contains(&filter))
        {
            if let Some(tool) = scenarios::needs(name).filter(|tool| !works(tool)) {
                let _ = writeln!(
                    io::stderr(),
                    "SKIPPED: {name} as {user:?}: no {tool} that works here"
                );
                continue;
            }
            let began = Instant::now();
            let result = run(&program, name, user);
            let took = began.elapsed().as_millis();
            match result {
                Ok(()) => println!("test {name} ({user:?}) ... ok ({took} ms)"),
                Err(why) => {
                    println!("test {name} ({user:?}) ... FAILED ({took} ms)\n{why}");
                    failed.push(*name);
                }
            }
        }
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn impossible(user: User) -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    match user {
        User::Root if !root => Some("not started as root".to_owned()),
        User::Root => {
            let tried = Command::new("unshare").args(["-n", "true"]).status();
            (!tried.is_ok_and(|s| s.success())).then(|| "no right to make namespaces".to_owned())
        }
        User::Ordinary => {
            let mut command = Command::new("unshare");
            command.args(["-Urn", "true"]);
            if root {
                command.uid(65534).gid(65534);
            }
            let tried = command.status();
            (!tried.is_ok_and(|s| s.success())).then(|| "no user namespaces".to_owned())
        }
    }
}

/// Whether rules can be set by a program, in a network of its own.
fn works(tool: &str) -> bool {
    let script = match tool {
        "nft" => "nft list ruleset".to_owned(),
        restore => format!("printf '*nat\\nCOMMIT\\n' | {restore}"),
    };
    let tried = Command::new("unshare")
        .args(["-Urn", "sh", "-c", &script])
        .env("XTABLES_LOCKFILE", "/dev/null")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// A copy of this program where everybody may run it: a target directory is often under a home that only its owner enters.
struct Program {
    directory: tempfile::TempDir,
}

impl Program {
    fn new() -> std::io::Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let program = Self { directory };
        std::fs::copy(std::env::current_exe()?, program.path())?;
        Ok(program)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mesh")
    }
}

fn run(program: &Program, name: &str, user: User) -> Result<(), String> {
    let before = residue::machine();
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = Command::new(program.path());
    command
        .args(["scenario", name])
        .arg(directory.path().join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    if user == User::Ordinary && rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
        std::os::unix::fs::chown(directory.path(), Some(65534), Some(65534))
            .map_err(|e| e.to_string())?;
    }
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let outcome = if name.contains("killed") {
        kill_when_ready(&program.path(), &mut child)
    } else {
        wait(&mut child)
    };
    let left = residue::processes_after(&program.path(), Duration::from_secs(5));
    let after = residue::machine();
    let log = || logs(directory.path());
    outcome.map_err(|why| format!("{why}\n{}", log()))?;
    if !left.is_empty() {
        return Err(format!("processes are left: {left:?}"));
    }
    if before != after {
        return Err(format!("the machine has changed: {before:?} -> {after:?}"));
    }
    Ok(())
}

fn wait(child: &mut Child) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{status}")),
            None if Instant::now() >= until => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("took too long".to_owned());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn kill_when_ready(program: &Path, child: &mut Child) -> Result<(), String> {
    use std::io::BufRead;
    let output = child.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    std::io::BufReader::new(output)
        .read_line(&mut line)
        .map_err(|e| e.to_string())?;
    let running = residue::processes(program).len();
    let _ = child.kill();
    let _ = child.wait();
    // The supervisor, and for each pod the shim, process 1 and its containers.
    if line.trim() == "ready" && running >= 4 {
        return Ok(());
    }
    Err(format!(
        "it said `{}`, and {running} processes ran",
        line.trim()
    ))
}

/// What pods have written, for a failed scenario.
fn logs(directory: &std::path::Path) -> String {
    let mut text = String::new();
    let mut open = vec![directory.join("state/logs")];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else if let Ok(content) = std::fs::read_to_string(entry.path())
                && !content.is_empty()
            {
                text.push_str(&format!("--- {}\n{content}\n", entry.path().display()));
            }
        }
    }
    text
}
