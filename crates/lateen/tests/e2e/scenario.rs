//! Scenarios: Markdown with YAML to run and a table of calls with their outcomes.
//!
//! ````text
//! # Title
//! Prose.
//! Options: `--dual-stack`
//! Needs: `a-program`
//! ```yaml
//! …
//! ```
//! | from | request | outcome |
//! |---|---|---|
//! | deploy/curl | GET http://httpbin:8000/status/418 | 418 |
//! | ingress | GET / -H 'Host: shop.example' | 200 body contains "hello" |
//! | deploy/curl | 100 x GET http://web/ | 60..95 of body contains "v1" |
//! ````

use std::process::Output;

use crate::mesh::{DataPlane, Mesh};

/// A scenario as written.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) title: String,
    pub(crate) yaml: String,
    pub(crate) calls: Vec<Call>,
    /// More options of `lateen up`.
    options: Vec<String>,
    /// A program without which it cannot run.
    needs: Option<String>,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Call {
    from: String,
    request: String,
    outcome: String,
}

impl Scenario {
    pub(crate) fn parse(text: &str) -> Self {
        let title = text
            .lines()
            .find_map(|l| l.strip_prefix("# "))
            .expect("a title")
            .to_owned();
        let mut yaml = String::new();
        let mut inside = false;
        let mut calls = Vec::new();
        let mut options = Vec::new();
        let mut needs = None;
        for line in text.lines() {
            match line {
                "```yaml" => {
                    inside = true;
                    yaml.push_str("---\n");
                }
                "```" => inside = false,
                _ if inside => {
                    yaml.push_str(line);
                    yaml.push('\n');
                }
                _ => match line.split_once(": ") {
                    Some(("Options", given)) => options = shell_words(given.trim_matches('`')),
                    Some(("Needs", tool)) => needs = Some(tool.trim_matches('`').to_owned()),
                    _ => calls.extend(call(line)),
                },
            }
        }
        assert!(!calls.is_empty(), "{title}: no calls");
        Self {
            title,
            yaml,
            calls,
            options,
            needs,
        }
    }

    /// What this machine lacks for it.
    pub(crate) fn lacks(&self) -> Option<&str> {
        let tool = self.needs.as_deref()?;
        let found = std::process::Command::new(tool).arg("--version").output();
        (!found.is_ok_and(|o| o.status.success())).then_some(tool)
    }

    /// Runs the calls on a fresh mesh and gives what went wrong.
    pub(crate) fn run(&self, data_plane: DataPlane) -> Vec<String> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let mesh = Mesh::up_with(&[("scenario.yaml", &self.yaml)], data_plane, &options);
        let mut failures = Vec::new();
        for call in &self.calls {
            if let Err(error) = call.run(&mesh) {
                failures.push(call.failure(data_plane, &error));
                failures.push(mesh.evidence());
            }
        }
        mesh.down();
        failures
    }
}

/// The calls of a table.
pub(crate) fn calls(table: &str) -> Vec<Call> {
    table.lines().filter_map(call).collect()
}

fn call(line: &str) -> Option<Call> {
    let cells: Vec<&str> = line
        .strip_prefix('|')?
        .trim_end()
        .trim_end_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let [from, request, outcome] = cells[..] else {
        return None;
    };
    if from == "from" || from.starts_with("--") {
        return None;
    }
    Some(Call {
        from: from.to_owned(),
        request: request.to_owned(),
        outcome: outcome.to_owned(),
    })
}

impl Call {
    fn failure(&self, data_plane: DataPlane, error: &str) -> String {
        format!(
            "{}: {} from {}: {error}",
            data_plane.as_str(),
            self.request,
            self.from
        )
    }

    pub(crate) fn run(&self, mesh: &Mesh) -> Result<(), String> {
        let (times, request) = match self.request.split_once(" x ") {
            Some((count, rest)) => (
                count.parse().map_err(|_| "a count was expected before x")?,
                rest,
            ),
            None => (1, self.request.as_str()),
        };
        let Some((range, check)) = self.outcome.split_once(" of ") else {
            return (0..times).try_for_each(|_| self.send(mesh, request).check(&self.outcome));
        };
        let (low, high) = range
            .split_once("..")
            .ok_or("LOW..HIGH was expected before of")?;
        let bounds = low
            .parse::<usize>()
            .ok()
            .zip(high.parse::<usize>().ok())
            .ok_or("numbers were expected")?;
        let draw = || {
            let answers = (0..times).map(|_| self.send(mesh, request));
            answers.filter(|a| a.check(check).is_ok()).count()
        };
        // What is right misses a 99% interval once in a hundred draws, so a miss has to show twice.
        let mut missed = Vec::new();
        while missed.len() < 2 {
            let met = draw();
            if (bounds.0..=bounds.1).contains(&met) {
                return Ok(());
            }
            missed.push(met);
        }
        Err(format!(
            "{missed:?} of {times} were `{check}`, wanted {low} to {high}"
        ))
    }

    fn send(&self, mesh: &Mesh, request: &str) -> Answer {
        let mut words = shell_words(request);
        let method = words.remove(0);
        if method == "TELNET" {
            return self.talk(mesh, &words[0]);
        }
        let mut curl = vec![
            "curl".to_owned(),
            "-sS".to_owned(),
            "-m".to_owned(),
            "10".to_owned(),
        ];
        curl.extend([
            "-X".to_owned(),
            method,
            "-w".to_owned(),
            "\n%{http_code}".to_owned(),
        ]);
        let output = if self.from == "ingress" {
            let path = words.remove(0);
            curl.push(format!("http://127.0.0.1:{}{path}", mesh.ingress));
            curl.extend(words);
            std::process::Command::new("curl")
                .args(&curl[1..])
                .output()
                .expect("curl runs")
        } else {
            curl.extend(words);
            let argv: Vec<&str> = curl.iter().map(String::as_str).collect();
            mesh.exec(&self.from, &argv)
        };
        Answer::of(&output)
    }
}

impl Call {
    /// Says one line to a TCP server and hears what comes back within three seconds.
    fn talk(&self, mesh: &Mesh, to: &str) -> Answer {
        let script = format!("(echo world; sleep 3) | curl -sS -m 4 {to}");
        Answer::heard(&mesh.exec(&self.from, &["sh", "-c", &script]))
    }
}

/// What curl saw.
struct Answer {
    /// The status, or none when the connection failed.
    status: Option<u16>,
    /// The status of the last answer, even of an exchange that was not finished.
    code: Option<u16>,
    body: String,
    error: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", ""));
        let code = status.parse().ok().filter(|s| *s != 0);
        let status = code.filter(|_| output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        Self {
            status,
            code,
            body: body.to_owned(),
            error,
        }
    }

    fn heard(output: &Output) -> Self {
        Self {
            status: None,
            code: None,
            body: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `200`, `200 body contains "x"`, `body contains "x"`, `tcp "x"`, `upgraded`, or `refused`.
    fn check(&self, outcome: &str) -> Result<(), String> {
        let seen = || match self.status {
            Some(status) => format!(
                "{status} {:?}",
                self.body.chars().take(300).collect::<String>()
            ),
            None => format!("no answer: {}", self.error.trim()),
        };
        if let Some(wanted) = outcome.strip_prefix("tcp ") {
            let heard = self.body.contains(wanted.trim_matches('"'));
            return heard.then_some(()).ok_or_else(seen);
        }
        if outcome == "upgraded" {
            // curl gives up on what comes after the switch of protocols, which has happened then.
            let switched = self.code == Some(101);
            return switched.then_some(()).ok_or_else(seen);
        }
        let (status, wanted) = outcome
            .split_once("body contains ")
            .unwrap_or((outcome, ""));
        let body_fits = self.body.contains(wanted.trim().trim_matches('"'));
        let status_fits = match status.trim() {
            "" => true,
            "refused" => self.status.is_none(),
            code => self.status.is_some_and(|s| s.to_string() == code),
        };
        if status_fits && body_fits {
            Ok(())
        } else {
            Err(format!("wanted {outcome}, saw {}", seen()))
        }
    }
}

/// Splits at spaces, minding quotes.
fn shell_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().expect("there is always a word").push(c),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}
