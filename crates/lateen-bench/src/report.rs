//! Results: rows of medians with their minimum and maximum, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::machine::Machine;

/// The figures of one run, by name; the unit is part of the name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// One subject in one case.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The case.
    pub(crate) case: String,
    /// Who was measured.
    pub(crate) subject: String,
    /// A run each.
    pub(crate) runs: Vec<Figures>,
}

/// What an experiment found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    name: &'static str,
    rows: Vec<Row>,
    skipped: Vec<String>,
}

/// A median and the extremes around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self { median, min, max })
    }
}

impl Row {
    /// The spread of a figure over the runs.
    pub(crate) fn spread(&self, figure: &str) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| run.get(figure).copied()))
    }

    /// Its figures: those of [`HEADINGS`] first, in their order.
    fn figures(&self) -> Vec<&'static str> {
        let first = self.runs.first();
        let mut names: Vec<&'static str> =
            first.into_iter().flat_map(Figures::keys).copied().collect();
        names.sort_by_key(|name| {
            let known = HEADINGS.iter().position(|heading| heading == name);
            known.unwrap_or(HEADINGS.len())
        });
        names
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("case".to_owned(), json!(self.case));
        object.insert("subject".to_owned(), json!(self.subject));
        object.insert("runs".to_owned(), json!(self.runs.len()));
        for name in self.figures() {
            let Some(spread) = self.spread(name) else {
                continue;
            };
            object.insert(name.to_owned(), json!(rounded(spread.median)));
            object.insert(format!("{name}_min"), json!(rounded(spread.min)));
            object.insert(format!("{name}_max"), json!(rounded(spread.max)));
        }
        Value::Object(object)
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            rows: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Adds rows.
    pub(crate) fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// Says that something was not measured, loudly: on standard error now, and in the results.
    pub(crate) fn skip(&mut self, what: String) {
        eprintln!("SKIPPED: {what}");
        if !self.skipped.contains(&what) {
            self.skipped.push(what);
        }
    }

    /// Prints the table and writes the JSON file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn finish(&self, out: &Path) -> Result<()> {
        println!("{}", self.table());
        let value = json!({
            "name": self.name,
            "machine": Machine::this(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "skipped": self.skipped,
        });
        fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
        let path = out.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&value).context("encoding")?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        println!("written: {}", path.display());
        Ok(())
    }

    /// One line per row: medians, the spread of the first figure, and its ratio to Envoy's (else to the first subject's).
    fn table(&self) -> String {
        let mut text = String::new();
        let mut case = "";
        for row in &self.rows {
            if row.case != case {
                case = &row.case;
                // A string takes whatever is written.
                let _ = writeln!(text, "\n{} · {case}", self.name);
            }
            let _ = writeln!(text, "{}", self.line(row));
        }
        for what in &self.skipped {
            let _ = writeln!(text, "\nSKIPPED: {what}");
        }
        text
    }

    fn line(&self, row: &Row) -> String {
        let mut line = format!("  {:<22}", row.subject);
        let base = self.baseline(row);
        for (at, name) in row.figures().into_iter().enumerate() {
            let Some(spread) = row.spread(name) else {
                continue;
            };
            let _ = write!(line, " {name} {}", short(spread.median));
            if at == 0 {
                let _ = write!(line, " [{}–{}]", short(spread.min), short(spread.max));
                if let Some(base) = base.and_then(|base| base.spread(name))
                    && base.median > 0.0
                {
                    let _ = write!(line, " ×{:.2}", spread.median / base.median);
                }
            }
        }
        line
    }

    fn baseline(&self, row: &Row) -> Option<&Row> {
        let mut same = self.rows.iter().filter(|r| r.case == row.case);
        same.clone()
            .find(|r| r.subject == "envoy")
            .or_else(|| same.next())
    }
}

/// Figures that come first in a table, in order; the first that a row has carries spread and ratio.
const HEADINGS: &[&str] = &[
    "cpu_us_per_request",
    "added_us",
    "instructions_per_request",
    "cpu_us_per_mib",
    "us_per_operation",
    "cpu_ms",
    "converged_ms_p50",
    "converged_ms_p99",
    "converged_ms_max",
    "rps",
    "mib_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "rss_mib",
    "idle_rss_mib",
    "rss_mib_after_1000_connections",
    "binary_mib",
    "start_ms",
    "ready_ms",
    "kib_per_connection",
    "bytes_sent",
    "compiled",
    "proxies_compiled",
    "received",
    "cpu_percent",
    "errors",
];

fn rounded(value: f64) -> f64 {
    if value.abs() >= 1000.0 {
        value.round()
    } else {
        (value * 1000.0).round() / 1000.0
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_between_its_extremes() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn what_was_not_measured_is_in_the_table_too() {
        let mut report = Report::new("r");
        report.skip("nginx is not installed (apt-get install nginx)".to_owned());
        assert!(report.table().contains("SKIPPED: nginx is not installed"));
    }

    #[test]
    fn a_row_says_each_figure_with_its_extremes() {
        let run = |rps: f64| Figures::from([("rps", rps)]);
        let row = Row {
            case: "c".to_owned(),
            subject: "s".to_owned(),
            runs: vec![run(10.0), run(30.0), run(20.0)],
        };
        let json = row.json();
        assert_eq!(json["rps"], 20.0);
        assert_eq!(
            (&json["rps_min"], &json["rps_max"]),
            (&json!(10.0), &json!(30.0))
        );
        assert_eq!(json["runs"], 3);
    }
}
