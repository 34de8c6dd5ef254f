//! Who still speaks plain text to whom, read off the metrics of sidecars: what a switch to STRICT would break. Pure functions from metrics
//! to rows; where the metrics come from is the command's business.
//!
//! Sidecars count requests and TCP connections with how they came (`connection_security_policy`), as the destination saw them. What was
//! not seen since a proxy started is not here: a job that runs once a month may still come in plain text.

use std::collections::BTreeMap;

use lateen_explain::security::ServerTls;

/// What one workload's sidecars saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Requests and connections with mutual TLS.
    pub(crate) mutual: u64,
    /// Those in plain text, by the client as the metrics name it.
    pub(crate) plain: BTreeMap<String, u64>,
}

/// What STRICT would mean for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strict {
    /// It is in force.
    Already,
    /// Clients that were seen would be refused.
    Breaks,
    /// All that was seen has mutual TLS.
    Ready,
    /// Nothing was seen, so that nothing can be said.
    Unseen,
}

impl Strict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Already => "in force",
            Self::Breaks => "breaks clients",
            Self::Ready => "ready",
            Self::Unseen => "nothing seen",
        }
    }
}

impl Seen {
    /// Adds what a sidecar's metrics say, in Prometheus' text format.
    pub(crate) fn add(&mut self, metrics: &str) {
        const NAMES: [&str; 2] = ["istio_requests_total", "istio_tcp_connections_opened_total"];
        for (labels, value) in metrics.lines().filter_map(|line| sample(line, &NAMES)) {
            let label = |name: &str| labels.get(name).map_or("", String::as_str);
            if label("reporter") != "destination" || value == 0 {
                continue;
            }
            match label("connection_security_policy") {
                "mutual_tls" => self.mutual += value,
                "none" => {
                    let client =
                        match (label("source_workload"), label("source_workload_namespace")) {
                            ("" | "unknown", _) => "a client without a sidecar".to_owned(),
                            (workload, namespace) => format!("{workload}.{namespace}"),
                        };
                    *self.plain.entry(client).or_default() += value;
                }
                _ => {}
            }
        }
    }

    /// All that came in plain text.
    pub(crate) fn plain_total(&self) -> u64 {
        self.plain.values().sum()
    }

    /// What STRICT would mean, given what the workload's ports accept.
    pub(crate) fn strict(&self, modes: &[ServerTls]) -> Strict {
        let strict = !modes.is_empty() && modes.iter().all(|mode| *mode == ServerTls::Strict);
        if strict {
            Strict::Already
        } else if !self.plain.is_empty() {
            Strict::Breaks
        } else if self.mutual > 0 {
            Strict::Ready
        } else {
            Strict::Unseen
        }
    }
}

/// Labels and value of a line, if it is of one of these metrics.
fn sample(line: &str, names: &[&str]) -> Option<(BTreeMap<String, String>, u64)> {
    let (name, rest) = line.split_once('{')?;
    if !names.contains(&name) {
        return None;
    }
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(value) = rest.strip_prefix('}') {
            let number: f64 = value.split_whitespace().next()?.parse().ok()?;
            return Some((labels, whole(number)));
        }
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(key.to_owned(), value);
        rest = after;
    }
}

/// A label's value up to its closing quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole and not negative; the cast saturates where one is not"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# TYPE istio_requests_total counter
istio_requests_total{reporter="destination",source_workload="web",source_workload_namespace="shop",connection_security_policy="mutual_tls"} 7
istio_requests_total{reporter="destination",source_workload="unknown",source_workload_namespace="unknown",response_flags="-",connection_security_policy="none"} 3
istio_tcp_connections_opened_total{reporter="destination",source_workload="old\"job",source_workload_namespace="legacy",connection_security_policy="none"} 2
istio_requests_total{reporter="source",source_workload="web",source_workload_namespace="shop",connection_security_policy="unknown"} 100
istio_request_bytes_sum{reporter="destination",connection_security_policy="none"} 900
"#;

    #[test]
    fn what_destinations_saw_in_plain_text_is_counted_by_client() {
        let mut seen = Seen::default();
        seen.add(METRICS);
        assert_eq!(seen.mutual, 7);
        assert_eq!(seen.plain_total(), 5);
        let clients: Vec<(&str, u64)> = seen.plain.iter().map(|(c, n)| (c.as_str(), *n)).collect();
        assert_eq!(
            clients,
            [("a client without a sidecar", 3), ("old\"job.legacy", 2)]
        );
    }

    #[test]
    fn a_workload_is_ready_when_all_that_was_seen_has_mutual_tls() {
        let mut seen = Seen::default();
        assert_eq!(seen.strict(&[ServerTls::Permissive]), Strict::Unseen);
        seen.mutual = 1;
        assert_eq!(seen.strict(&[ServerTls::Permissive]), Strict::Ready);
        seen.plain.insert("x".to_owned(), 1);
        assert_eq!(
            seen.strict(&[ServerTls::Permissive, ServerTls::Strict]),
            Strict::Breaks
        );
        assert_eq!(seen.strict(&[ServerTls::Strict]), Strict::Already);
    }
}
