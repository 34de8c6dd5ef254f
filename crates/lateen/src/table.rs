//! Tables as kubectl prints them: a header in capitals, columns separated by three spaces, no lines.

use std::fmt::Write as _;

/// Rows under a header.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of rows made elsewhere.
    pub(crate) fn from_parts(header: &[&str], rows: Vec<Vec<String>>) -> Self {
        let mut table = Self {
            header: header.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
        };
        for row in rows {
            table.push(row);
        }
        table
    }

    /// Adds a row. Cells beyond the header are dropped, missing ones are empty.
    fn push(&mut self, mut cells: Vec<String>) {
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    /// The text, every line ended.
    pub(crate) fn render(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                lines()
                    .map(|line| line[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for line in lines() {
            let mut padded = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                let _ = write!(padded, "{cell:width$}   ");
            }
            text.push_str(padded.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A time span as kubectl writes an age: `42s`, `3m5s`, `12m`, `4h10m`, `3d`.
pub(crate) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with_rest(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with_rest(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

fn with_rest(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        return format!("{large}{large_unit}");
    }
    format!("{large}{large_unit}{small}{small_unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect();
        let table = Table::from_parts(
            &["NAME", "AGE"],
            vec![row(&["reviews-v1", "3s"]), row(&["db"])],
        );
        assert_eq!(table.render(), "NAME         AGE\nreviews-v1   3s\ndb\n");
    }

    #[test]
    fn ages_read_like_kubectls() {
        let shown: Vec<String> = [5, 119, 185, 600, 11_000, 30_000, 300_000].map(age).into();
        assert_eq!(shown, ["5s", "119s", "3m5s", "10m", "3h3m", "8h", "3d"]);
    }
}
