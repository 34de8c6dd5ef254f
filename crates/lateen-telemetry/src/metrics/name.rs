//! Names of metrics: Envoy's dotted stat names with tags, and what Prometheus calls the same thing.
//!
//! A stat name is written as a template, `cluster.{cluster_name}.upstream_rq_total`: braces hold tags. Envoy finds
//! tags by regular expressions over finished names; here they are known from the start, and both renderings follow
//! from the one template. Source: Envoy 1.40 `source/server/admin/prometheus_stats.cc`, `tag_extractor_impl.cc`.

use std::sync::Arc;

/// How Envoy marks stats that its core makes.
const ENVOY_PREFIX: &str = "envoy_";
/// How Istio's metrics appear among Envoy's stats; Envoy strips it for Prometheus.
const ISTIO_PREFIX: &str = "istiocustom.";

/// Name, help and label names of a metric family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The name in Prometheus' exposition.
    pub(crate) prometheus: Arc<str>,
    /// One line for `# HELP`, empty for none.
    pub(crate) help: Arc<str>,
    pub(crate) labels: Arc<[Arc<str>]>,
    /// The name in `/stats`.
    pub(crate) stat: Arc<[Piece]>,
}

/// A piece of a stat name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Arc<str>),
    /// The value of the label with this index.
    Label(usize),
}

impl Descriptor {
    /// A metric of Envoy's: `cluster.{cluster_name}.upstream_rq_total` is `envoy_cluster_upstream_rq_total` with the
    /// label `cluster_name`, and `http.{prefix}.downstream_rq_{response_code_class}` is
    /// `envoy_http_downstream_rq`, as Istio's tag rules have it. An unclosed brace is taken as text.
    pub fn envoy(template: &str) -> Descriptor {
        let mut labels: Vec<Arc<str>> = Vec::new();
        let mut stat = Vec::new();
        let mut bare = String::new();
        let mut rest = template;
        while let Some((before, tag, after)) = next_tag(rest) {
            push_text(&mut stat, before);
            bare.push_str(before);
            stat.push(Piece::Label(labels.len()));
            labels.push(tag.into());
            // A tag that is a whole element of the name takes one of its dots with it.
            let whole = bare.is_empty() || bare.ends_with('.');
            rest = match after.strip_prefix('.').filter(|_| whole) {
                Some(stripped) => {
                    push_text(&mut stat, ".");
                    stripped
                }
                None => after,
            };
        }
        push_text(&mut stat, rest);
        bare.push_str(rest);
        let bare = bare.strip_suffix(['.', '_']).unwrap_or(&bare);
        Descriptor {
            prometheus: format!("{ENVOY_PREFIX}{}", sanitized(bare)).into(),
            help: "".into(),
            labels: labels.into(),
            stat: stat.into(),
        }
    }

    /// A metric that is not Envoy's, under its Prometheus name. In `/stats` it appears as Istio's do, with the
    /// labels spelled out after the name.
    pub fn new(name: &str, help: &str, labels: &[&str]) -> Descriptor {
        let mut stat = vec![Piece::Text(format!("{ISTIO_PREFIX}{name}").into())];
        for (index, label) in labels.iter().enumerate() {
            stat.push(Piece::Text(format!(".{label}.").into()));
            stat.push(Piece::Label(index));
        }
        Descriptor {
            prometheus: sanitized(name).into(),
            help: help.into(),
            labels: labels.iter().map(|label| Arc::from(*label)).collect(),
            stat: stat.into(),
        }
    }

    /// The name in Prometheus' exposition.
    pub fn prometheus_name(&self) -> &str {
        &self.prometheus
    }

    /// The label names, in the order that values are given.
    pub fn label_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|label| &**label)
    }

    /// Appends the stat name of the series with these label values.
    pub(crate) fn write_stat_name(&self, values: &[Arc<str>], out: &mut String) {
        for piece in self.stat.iter() {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Label(index) => out.push_str(values.get(*index).map_or("", |value| value)),
            }
        }
    }
}

fn next_tag(template: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = template.split_once('{')?;
    let (tag, after) = rest.split_once('}')?;
    Some((before, tag, after))
}

fn push_text(stat: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        stat.push(Piece::Text(text.into()));
    }
}

/// `name` with everything that Prometheus does not allow in a name replaced by `_`.
fn sanitized(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat_name(descriptor: &Descriptor, values: &[&str]) -> String {
        let values: Vec<Arc<str>> = values.iter().map(|value| Arc::from(*value)).collect();
        let mut name = String::new();
        descriptor.write_stat_name(&values, &mut name);
        name
    }

    #[test]
    fn a_tag_that_is_a_whole_element_leaves_the_prometheus_name() {
        let descriptor = Descriptor::envoy("cluster.{cluster_name}.upstream_rq_total");
        assert_eq!(
            descriptor.prometheus_name(),
            "envoy_cluster_upstream_rq_total"
        );
        assert_eq!(
            descriptor.label_names().collect::<Vec<_>>(),
            ["cluster_name"]
        );
        assert_eq!(
            stat_name(
                &descriptor,
                &["outbound|9080||reviews.default.svc.cluster.local"]
            ),
            "cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_total"
        );
    }

    #[test]
    fn a_tag_inside_an_element_leaves_the_rest_of_it() {
        let descriptor = Descriptor::envoy("http.{prefix}.downstream_rq_{response_code_class}");
        assert_eq!(descriptor.prometheus_name(), "envoy_http_downstream_rq");
        assert_eq!(
            stat_name(&descriptor, &["inbound_0.0.0.0_9080", "2xx"]),
            "http.inbound_0.0.0.0_9080.downstream_rq_2xx"
        );
        let descriptor = Descriptor::envoy("a.b_{c}xx.d");
        assert_eq!(descriptor.prometheus_name(), "envoy_a_b_xx_d");
    }

    #[test]
    fn a_stat_without_tags_is_only_prefixed_and_cleaned() {
        let descriptor = Descriptor::envoy("server.live-since");
        assert_eq!(descriptor.prometheus_name(), "envoy_server_live_since");
        assert_eq!(stat_name(&descriptor, &[]), "server.live-since");
    }

    #[test]
    fn a_tag_at_the_end_takes_the_dot_before_it() {
        let descriptor = Descriptor::envoy("listener.{listener_address}");
        assert_eq!(descriptor.prometheus_name(), "envoy_listener");
        assert_eq!(
            stat_name(&descriptor, &["0.0.0.0_15006"]),
            "listener.0.0.0.0_15006"
        );
    }
}
