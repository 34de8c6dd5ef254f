//! Labels of Istio's metrics that configuration sets by expressions, evaluated when a request or connection is counted.
//!
//! Source: the `istio.stats` filter; what cannot be evaluated is `unknown` there, too.

use std::borrow::Cow;
use std::sync::Arc;

use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::google::protobuf::value::Kind;
use lateen_telemetry::metrics::istio::{
    Change, Changes, Peer, PlanId, Shape, UNKNOWN, WorkerMetrics,
};
use lateen_traffic::access_log::Finished;
use lateen_traffic::cel::{Attributes, CelValue, Expression};
use lateen_traffic::filter::IstioStats;

/// What a filter's settings make of Istio's metrics.
#[derive(Debug, Default)]
pub(crate) struct Dimensions {
    plan: PlanId,
    /// Of each value that the plan names; none for an expression that is none.
    expressions: Vec<Option<Expression>>,
}

/// What is known of the two ends, beside what the request or connection itself tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    /// This proxy.
    pub(crate) node: &'a Node,
    /// Who asks.
    pub(crate) downstream: &'a Peer,
    /// Who is asked.
    pub(crate) upstream: &'a Peer,
}

impl Dimensions {
    /// Prepares a filter's settings.
    pub(crate) fn of(settings: &IstioStats, metrics: &mut WorkerMetrics) -> Self {
        if settings.metrics.is_empty() {
            return Self::default();
        }
        let mut sources: Vec<Arc<str>> = Vec::new();
        let changes = settings.metrics.iter().map(|own| Change {
            metric: Arc::clone(&own.name),
            drop: own.drop,
            remove: own.tags_to_remove.clone(),
            set: own
                .dimensions
                .iter()
                .map(|(label, source)| {
                    let known = sources.iter().position(|known| known == source);
                    let number = known.unwrap_or_else(|| {
                        sources.push(Arc::clone(source));
                        sources.len() - 1
                    });
                    (Arc::clone(label), number)
                })
                .collect(),
        });
        let changes = Changes {
            metrics: changes.collect(),
        };
        let parse = |source: &Arc<str>| match Expression::parse(source) {
            Ok(expression) => Some(expression),
            Err(error) => {
                tracing::warn!(%source, %error, "the label of a metric is always unknown: its expression cannot be used");
                None
            }
        };
        Self {
            plan: metrics.plan(&changes),
            expressions: sources.iter().map(parse).collect(),
        }
    }

    /// Whether requests have to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.expressions.is_empty()
    }

    /// What it makes of something that sets no values.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            plan: self.plan,
            ..Shape::default()
        }
    }

    /// The values of something that has ended.
    pub(crate) fn values(&self, done: &Finished<'_>, ends: Ends<'_>) -> Vec<Box<str>> {
        let known = Known { done, ends };
        let value = |expression: &Option<Expression>| {
            let text = expression
                .as_ref()
                .and_then(|known_by| known_by.text(&known));
            text.filter(|text| !text.is_empty())
                .map_or_else(|| UNKNOWN.into(), String::into_boxed_str)
        };
        self.expressions.iter().map(value).collect()
    }

    /// The shape with these values.
    pub(crate) fn shaped(&self, values: &[Box<str>], metrics: &mut WorkerMetrics) -> Shape {
        Shape {
            plan: self.plan,
            values: metrics.values(values),
        }
    }
}

/// Attributes of a request or connection and of its ends.
struct Known<'a> {
    done: &'a Finished<'a>,
    ends: Ends<'a>,
}

impl Attributes for Known<'_> {
    fn get<'a>(&'a self, path: &[Cow<'_, str>]) -> Option<CelValue<'a>> {
        let words: Vec<&str> = path.iter().map(|step| &**step).collect();
        match words.as_slice() {
            ["node", "id"] | ["xds", "node", "id"] => named(&self.ends.node.id),
            ["node", "cluster"] | ["xds", "node", "cluster"] => named(&self.ends.node.cluster),
            ["node", "metadata", rest @ ..] | ["xds", "node", "metadata", rest @ ..] => {
                metadata(self.ends.node, rest)
            }
            ["downstream_peer", what] | ["filter_state", "downstream_peer", what] => {
                peer(self.ends.downstream, what)
            }
            ["upstream_peer", what] | ["filter_state", "upstream_peer", what] => {
                peer(self.ends.upstream, what)
            }
            _ => self.done.get(path),
        }
    }
}

fn metadata<'a>(node: &'a Node, path: &[&str]) -> Option<CelValue<'a>> {
    let (first, rest) = path.split_first()?;
    let mut value = node.metadata.as_ref()?.fields.get(*first)?;
    for step in rest {
        let Some(Kind::StructValue(fields)) = &value.kind else {
            return None;
        };
        value = fields.fields.get(*step)?;
    }
    match value.kind.as_ref()? {
        Kind::StringValue(text) => named(text),
        Kind::BoolValue(value) => Some(CelValue::Bool(*value)),
        Kind::NumberValue(number) => Some(CelValue::Double(*number)),
        _ => None,
    }
}

/// What a workload's metadata says, by the names that Istio gives it.
fn peer<'a>(peer: &'a Peer, what: &str) -> Option<CelValue<'a>> {
    named(match what {
        "workload" => &peer.workload,
        "namespace" => &peer.namespace,
        "cluster" => &peer.cluster,
        "service" => &peer.canonical_service,
        "revision" => &peer.canonical_revision,
        "app" => &peer.app,
        "version" => &peer.version,
        _ => return None,
    })
}

fn named(text: &str) -> Option<CelValue<'_>> {
    (!text.is_empty()).then_some(CelValue::Text(Cow::Borrowed(text)))
}
