//! Which statistics are shown, where it was said (`proxyStatsMatcher` and its annotations).

use lateen_telemetry::metrics::Snapshot;
use regex::{Regex, RegexBuilder};

/// What a pattern may become; Istio's patterns are a line long.
const MAX_REGEX: usize = 1 << 20;

/// The names of statistics that are shown, as `/stats` writes them. Others are counted all the same.
#[derive(Clone, Debug, Default)]
pub struct StatsMatcher {
    prefixes: Vec<String>,
    suffixes: Vec<String>,
    regexps: Vec<Regex>,
}

impl StatsMatcher {
    /// Statistics that begin or end with a text, or that an expression matches as a whole. An expression that is none matches nothing, and is
    /// told.
    pub fn new(prefixes: Vec<String>, suffixes: Vec<String>, regexps: &[String]) -> Self {
        let compile = |text: &String| {
            let regex = RegexBuilder::new(&format!("^(?:{text})$"))
                .size_limit(MAX_REGEX)
                .build();
            regex
                .inspect_err(|error| tracing::warn!(%text, %error, "statistics are not chosen by what is no regular expression"))
                .ok()
        };
        Self {
            prefixes,
            suffixes,
            regexps: regexps.iter().filter_map(compile).collect(),
        }
    }

    /// Whether a statistic is shown.
    pub fn matches(&self, name: &str) -> bool {
        self.prefixes
            .iter()
            .any(|prefix| name.starts_with(&**prefix))
            || self.suffixes.iter().any(|suffix| name.ends_with(&**suffix))
            || self.regexps.iter().any(|regex| regex.is_match(name))
    }

    /// The part of what was counted that is shown.
    pub(crate) fn shown(&self, all: Snapshot) -> Snapshot {
        all.keeping(|name| self.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_matched_by_its_ends_or_as_a_whole() {
        let text = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let matcher = StatsMatcher::new(
            text(&["cluster.outbound"]),
            text(&["cx_active"]),
            &text(&[r"http\..*\.rq_(2|3)xx", "("]),
        );
        for shown in [
            "cluster.outbound|80||a;.x",
            "listener.y.cx_active",
            "http.in.rq_2xx",
        ] {
            assert!(matcher.matches(shown), "{shown}");
        }
        for hidden in [
            "cluster.inbound",
            "x.cx_active.y",
            "http.in.rq_2xx.z",
            "a.http.in.rq_2xx",
        ] {
            assert!(!matcher.matches(hidden), "{hidden}");
        }
    }
}
