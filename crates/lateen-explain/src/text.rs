//! An explanation for people: a line for each step, what decided it at the end of the line, alternatives below.

use std::fmt::Write as _;

use crate::place::Place;
use crate::report::{Branch, Explanation, Note, NoteKind, Stage, Step, Verdict, percent};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Colours, by ANSI sequences.
    pub colour: bool,
    /// Every alternative and every branch in full.
    pub verbose: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Alternatives shown below a step; more are counted.
const MOST_NOTES: usize = 6;

/// The explanation as text, every line ended.
pub fn render(explanation: &Explanation, look: Look) -> String {
    let mut out = Writer {
        text: String::new(),
        look,
        at: String::new(),
    };
    out.line(&format!(
        "{}  from {}",
        out.paint(BOLD, &explanation.request),
        explanation.from
    ));
    for step in &explanation.steps {
        out.step(step);
    }
    match &explanation.branches[..] {
        [] => {}
        [only] => out.only(only),
        several => out.several(several, explanation.main()),
    }
    out.text
}

struct Writer {
    text: String,
    look: Look,
    /// The proxy whose steps are being written.
    at: String,
}

impl Writer {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.look.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn step(&mut self, step: &Step) {
        if step.at != self.at {
            self.at.clone_from(&step.at);
            self.line("");
            let at = self.paint(BOLD, &step.at);
            self.line(&at);
        }
        let mark = match step.verdict {
            Verdict::Pass => self.paint(GREEN, "✓"),
            Verdict::Info => self.paint(DIM, "·"),
            Verdict::Stop => self.paint(RED, "✗"),
        };
        let stage = format!("{:<9}", step.stage.as_str());
        let place = self.place(step.place.as_ref());
        self.line(&format!(
            "  {mark} {} {}{place}",
            self.paint(DIM, &stage),
            step.what
        ));
        // Once a chain is found, those for other connections are of no interest.
        let chosen = step.stage == Stage::Chain && step.verdict != Verdict::Stop;
        if !chosen || self.look.verbose {
            self.notes(&step.notes);
        }
    }

    fn notes(&mut self, notes: &[Note]) {
        // Chains for other ports and the like are counted unless all is asked for.
        let shown = |note: &&Note| self.look.verbose || note.kind != NoteKind::Passed;
        let near: Vec<&Note> = notes.iter().filter(shown).collect();
        let passed: Vec<&Note> = notes
            .iter()
            .filter(|note| note.kind == NoteKind::Passed && !self.look.verbose)
            .collect();
        let most = if self.look.verbose {
            usize::MAX
        } else {
            MOST_NOTES
        };
        // Where nothing came near, what was passed over is what there is to tell.
        let few = near.is_empty() || passed.len() <= MOST_NOTES - near.len().min(MOST_NOTES);
        let listed: Vec<&Note> = if few {
            notes.iter().take(most).collect()
        } else {
            near.into_iter().take(most).collect()
        };
        let left = notes.len() - listed.len();
        for note in listed {
            let mark = match note.kind {
                NoteKind::Passed => self.paint(DIM, "-"),
                NoteKind::NearMiss => self.paint(YELLOW, "~"),
                NoteKind::Choice => self.paint(YELLOW, "*"),
                NoteKind::Info => self.paint(DIM, "·"),
            };
            let place = self.place(note.place.as_ref());
            self.line(&format!("              {mark} {}{place}", note.text));
        }
        if left > 0 {
            let more = self.paint(DIM, &format!("and {left} more"));
            self.line(&format!("                {more}"));
        }
    }

    fn place(&self, place: Option<&Place>) -> String {
        let Some(place) = place else {
            return String::new();
        };
        let field = place.field.strip_prefix("spec.").unwrap_or(&place.field);
        let mut text = String::from("   ");
        if let Some(source) = &place.source {
            let _ = write!(text, "{source} ");
        }
        text.push_str(&place.object);
        if !field.is_empty() && field != "spec" {
            let _ = write!(text, " {field}");
        }
        self.paint(DIM, &text)
    }

    fn only(&mut self, branch: &Branch) {
        for step in &branch.steps {
            self.step(step);
        }
        self.line("");
        let outcome = self.outcome(branch);
        self.line(&outcome);
    }

    /// The likeliest branch in full, the others in a line each; all of them in full if asked for.
    fn several(&mut self, branches: &[Branch], main: Option<&Branch>) {
        for branch in branches {
            let is_main = main.is_some_and(|main| std::ptr::eq(main, branch));
            if !(is_main || self.look.verbose) {
                continue;
            }
            self.line("");
            let head = format!("{} {}", percent(branch.percent), branch.to);
            let head = self.paint(YELLOW, &head);
            self.line(&head);
            for step in &branch.steps {
                self.step(step);
            }
            self.at.clear();
        }
        self.line("");
        for branch in branches {
            let share = format!("{:>6} {}", percent(branch.percent), branch.to);
            let outcome = self.outcome(branch);
            self.line(&format!("{} {outcome}", self.paint(YELLOW, &share)));
        }
    }

    fn outcome(&self, branch: &Branch) -> String {
        let outcome = &branch.outcome;
        let (mark, code) = if outcome.succeeds() {
            ("✓", GREEN)
        } else {
            ("✗", RED)
        };
        let status = outcome
            .status
            .map_or_else(String::new, |status| format!(" {status}"));
        let flags = outcome
            .flags
            .map_or_else(String::new, |flags| format!(" {flags}"));
        let head = self.paint(code, &format!("{mark}{status}{flags}"));
        let place = if outcome.succeeds() {
            String::new()
        } else {
            self.place(outcome.place.as_ref())
        };
        format!("{head} {}{place}", outcome.summary)
    }
}
