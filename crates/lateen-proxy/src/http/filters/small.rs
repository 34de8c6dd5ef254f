//! Filters that only note or change something: header mutation, filter state, dry runs of access rules.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use lateen_traffic::RequestView;
use lateen_traffic::filter::{
    FilterOverride, HeaderMutationFilter, HttpFilterKind, SetFilterState,
};
use lateen_traffic::rbac::{RbacConfig, RbacDecision};
use lateen_traffic::route::RouteDecision;

use super::super::exchange::Exchange;
use super::super::passage::Passage;
use super::CommandValues;

/// The mutations of a filter for a request: the filter's own, then those of the route's levels.
fn mutations<'a>(
    own: &'a Arc<HeaderMutationFilter>,
    name: &str,
    decision: Option<&RouteDecision<'a>>,
) -> Vec<&'a HeaderMutationFilter> {
    let levels = decision.map(|decision| decision.filter_overrides(name));
    let mut levels: Vec<&HeaderMutationFilter> = levels
        .into_iter()
        .flatten()
        .filter_map(|told| match told {
            FilterOverride::HeaderMutation(mutations) => Some(&**mutations),
            _ => None,
        })
        .collect();
    if own.most_specific_wins {
        levels.reverse();
    }
    levels.insert(0, own);
    levels
}

/// Changes a request's headers.
pub(super) fn mutate_request(
    exchange: &Exchange,
    own: &Arc<HeaderMutationFilter>,
    name: &str,
    passage: &mut Passage<'_>,
) {
    let mut headers = passage.head.headers.clone();
    {
        let values = CommandValues {
            view: &passage.view(),
            connection: &exchange.connection,
            record: &exchange.record,
            response: None,
        };
        for mutations in mutations(own, name, passage.decision()) {
            mutations.request.apply(&mut headers, &values);
        }
    }
    passage.head.headers = headers;
}

/// Changes an answer's headers by all filters that are to, the last in the chain first, as answers pass them.
pub(crate) fn mutate_response(
    exchange: &Exchange,
    view: &RequestView<'_>,
    decision: Option<&RouteDecision<'_>>,
    status: StatusCode,
    headers: &mut HeaderMap,
) {
    for filter in exchange.manager.config.filters.iter().rev() {
        let HttpFilterKind::HeaderMutation(own) = &filter.kind else {
            continue;
        };
        let told = decision.and_then(|decision| decision.filter_override(&filter.name));
        if super::is_off(filter, told) {
            continue;
        }
        let answered = headers.clone();
        let values = CommandValues {
            view,
            connection: &exchange.connection,
            record: &exchange.record,
            response: Some((status, &answered)),
        };
        for mutations in mutations(own, &filter.name, decision) {
            mutations.response.apply(headers, &values);
        }
    }
}

/// Puts values into the filter state.
pub(super) fn set_state(exchange: &Exchange, values: &[SetFilterState], passage: &mut Passage<'_>) {
    for one in values {
        let value = {
            let known = CommandValues {
                view: &passage.view(),
                connection: &exchange.connection,
                record: &exchange.record,
                response: None,
            };
            one.value.render(&known).into_owned()
        };
        if !(value.is_empty() && one.skip_if_empty) {
            passage.state.insert(Arc::clone(&one.key), value.into());
        }
    }
}

/// Counts what access rules decided.
pub(super) fn count_access(exchange: &Exchange, rbac: &RbacConfig, allowed: bool) {
    let what = if allowed { "allowed" } else { "denied" };
    count(exchange, &rbac.rules_stat_prefix, what, "rbac");
}

/// Counts what an authorizer said, under Envoy's names.
pub(in crate::http) fn count_authorizer(
    exchange: &Exchange,
    prefix: &Arc<str>,
    what: &'static str,
) {
    count(exchange, prefix, what, "ext_authz");
}

/// Counts and logs what access rules that are not enforced would have decided.
pub(super) fn note_dry_run(exchange: &Exchange, rbac: &RbacConfig, verdict: &RbacDecision<'_>) {
    let prefix = &rbac.shadow_rules_stat_prefix;
    let what = if verdict.allowed {
        "shadow_allowed"
    } else {
        "shadow_denied"
    };
    count(exchange, prefix, what, "rbac");
    tracing::debug!(
        connection = exchange.connection.facts.id,
        %prefix,
        outcome = what,
        policy = verdict.policy.map_or("none", |name| name),
        "dry run of access rules"
    );
}

fn count(exchange: &Exchange, prefix: &Arc<str>, what: &'static str, filter: &'static str) {
    let manager = &exchange.manager.config.stat_prefix;
    let key = (Arc::clone(manager), Arc::clone(prefix), filter, what);
    let counter = exchange.connection.worker.counter(key, || {
        let name = format!("http.{{http_conn_manager_prefix}}.{filter}.{prefix}{what}");
        (name, Arc::clone(manager))
    });
    counter.inc();
}
