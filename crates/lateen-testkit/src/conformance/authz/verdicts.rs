//! The verdicts of two sets of rules on generated requests.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use lateen_envoy::pack;
use lateen_envoy::pb::envoy::config::listener::v3::{self as lds, filter::ConfigType};
use lateen_envoy::pb::envoy::extensions::filters::http::router::v3::Router;
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as hcm, http_connection_manager::RouteSpecifier, http_filter,
};
use lateen_envoy::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier,
};
use lateen_traffic::filter::{HttpFilterKind, NetworkFilterKind};
use lateen_traffic::from_xds;
use lateen_traffic::rbac::{RbacAction, RbacConfig, Subject};

use super::super::Finding;
use super::filters::Filters;
use super::samples::Pool;

/// Differences reported for one case; the rest are of the same kind as a rule.
const MOST_FINDINGS: usize = 3;

/// What the rules of one side come to.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// Whether the enforced rules let the request pass.
    allowed: bool,
    /// Whether the rules that hand requests to an authorizer match.
    asked: bool,
    /// What dry runs record: whether rules that allow, and rules that deny, match.
    dry_allow: Option<bool>,
    dry_deny: Option<bool>,
    /// Whether rules that only log match.
    logged: bool,
}

/// Throws generated requests at both sides.
pub(super) fn compare(expected: &Filters, built: &Filters) -> Result<Vec<Finding>> {
    let wanted = rules(expected).context("the expected filters")?;
    let found = rules(built).context("the filters that were built")?;
    let mut pool = Pool::default();
    for filter in expected.as_data().iter().chain(&built.as_data()) {
        pool.collect(filter);
    }
    let http = matches!(expected, Filters::Http(_));
    let mut out = Vec::new();
    for sample in pool.samples() {
        let (wanted, found) = sample.with(http, |subject| {
            (verdict(&wanted, subject), verdict(&found, subject))
        });
        if wanted != found {
            out.push(Finding::new(
                sample.to_string(),
                format!("{wanted:?}"),
                format!("{found:?}"),
            ));
        }
        if out.len() == MOST_FINDINGS {
            break;
        }
    }
    Ok(out)
}

fn verdict(filters: &[RbacConfig], subject: &Subject<'_>) -> Verdict {
    let mut out = Verdict {
        allowed: true,
        asked: false,
        dry_allow: None,
        dry_deny: None,
        logged: false,
    };
    for filter in filters {
        if let Some(rules) = &filter.rules {
            let decision = rules.decide(subject);
            out.allowed &= decision.allowed;
            out.logged |= decision.action == RbacAction::Log && decision.policy.is_some();
        }
        let Some(rules) = &filter.shadow_rules else {
            continue;
        };
        let matched = rules.decide(subject).policy.is_some();
        match (rules.action, filter.shadow_rules_stat_prefix.as_ref()) {
            (_, prefix) if prefix.starts_with("istio_ext_authz") => out.asked |= matched,
            (RbacAction::Allow, _) => out.dry_allow = Some(matched),
            (RbacAction::Deny, _) => out.dry_deny = Some(matched),
            (RbacAction::Log, _) => {}
        }
    }
    out
}

/// The rules of filters, as the engine compiles them.
fn rules(filters: &Filters) -> Result<Vec<RbacConfig>> {
    let chain = match filters.rules_only() {
        Filters::Http(list) => vec![manager(list)],
        Filters::Tcp(mut list) => {
            list.push(terminal());
            list
        }
    };
    let listener = lds::Listener {
        name: "rules".to_owned(),
        address: Some(lateen_envoy::socket_address(Ipv4Addr::LOCALHOST.into(), 1)),
        filter_chains: vec![lds::FilterChain {
            filters: chain,
            ..Default::default()
        }],
        ..Default::default()
    };
    let listener = from_xds::listener(&pack(&listener), "rules")?;
    let chain = listener.chains.first().context("no chain")?;
    Ok(chain
        .filters
        .iter()
        .flat_map(|filter| match &filter.kind {
            NetworkFilterKind::Rbac(config) => vec![config.clone()],
            NetworkFilterKind::Http(manager) => http_rules(manager),
            _ => Vec::new(),
        })
        .collect())
}

fn http_rules(manager: &Arc<lateen_traffic::hcm::HttpConnectionManager>) -> Vec<RbacConfig> {
    manager
        .filters
        .iter()
        .filter_map(|filter| match &filter.kind {
            HttpFilterKind::Rbac(config) => Some(config.clone()),
            _ => None,
        })
        .collect()
}

fn manager(mut filters: Vec<hcm::HttpFilter>) -> lds::Filter {
    filters.push(hcm::HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(
            &Router::default(),
        ))),
        ..Default::default()
    });
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "rules".to_owned(),
        http_filters: filters,
        route_specifier: Some(RouteSpecifier::RouteConfig(Default::default())),
        ..Default::default()
    };
    lds::Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&manager))),
    }
}

fn terminal() -> lds::Filter {
    let proxy = TcpProxy {
        stat_prefix: "rules".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster("rules".to_owned())),
        ..Default::default()
    };
    lds::Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&proxy))),
    }
}
