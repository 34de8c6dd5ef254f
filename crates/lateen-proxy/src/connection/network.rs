//! Network filters that count, limit or note: how many connections, how fast, and what is remembered of them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lateen_telemetry::metrics::{Descriptor, Gauge};
use lateen_traffic::filter::{ConnectionLimit, ConnectionRateLimit, SetFilterState};
use lateen_traffic::format::{Command, Values};
use lateen_traffic::rbac::RbacConfig;

use super::{Connection, Refused};
use crate::level::Level;

/// Whether a pass counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Nothing is taken or counted.
    Look,
    /// Everything counts, and authorizers are asked.
    Enter,
    /// Everything counts; authorizers have been asked.
    Commit,
}

/// Connections per limit, over all workers.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounts(Mutex<HashMap<usize, Counted>>);

/// A limit, which its address is the key of, and how many connections count against it.
type Counted = (Arc<ConnectionLimit>, Arc<AtomicU64>);

/// One of a limited number of places, for as long as it exists.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<AtomicU64>,
    _level: Level,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionCounts {
    fn counter(&self, limit: &Arc<ConnectionLimit>) -> Arc<AtomicU64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(limit).addr();
        if !all.contains_key(&key) {
            all.retain(|_, (limit, taken)| {
                Arc::strong_count(limit) > 1 || Arc::strong_count(taken) > 1
            });
        }
        let (_, taken) = all
            .entry(key)
            .or_insert_with(|| (Arc::clone(limit), Arc::default()));
        Arc::clone(taken)
    }

    /// Takes a place, if one is left.
    fn enter(&self, limit: &Arc<ConnectionLimit>, active: &Gauge) -> Option<Place> {
        let taken = self.counter(limit);
        let next = |n: u64| (n < limit.max_connections).then_some(n + 1);
        let entered = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.is_ok().then(|| Place {
            _level: Level::hold(active),
            taken,
        })
    }

    fn has_room(&self, limit: &Arc<ConnectionLimit>) -> bool {
        self.counter(limit).load(Ordering::Relaxed) < limit.max_connections
    }
}

/// Takes a token of a rate limit.
pub(super) fn take_token(
    connection: &Connection,
    limit: &Arc<ConnectionRateLimit>,
    pass: Pass,
) -> Result<(), Refused> {
    let shared = &connection.worker.shared;
    if shared.connection_rates.take(limit, pass == Pass::Look) {
        return Ok(());
    }
    let prefix = &limit.stat_prefix;
    count(connection, (prefix, prefix), "rate_limited", || {
        "local_rate_limit.{local_network_ratelimit_prefix}.rate_limited".to_owned()
    });
    Err(Refused::Limited(None))
}

/// Takes one of a limited number of places.
pub(super) fn take_place(
    connection: &Connection,
    limit: &Arc<ConnectionLimit>,
    pass: Pass,
) -> Result<(), Refused> {
    let shared = &connection.worker.shared;
    let counts = &shared.connection_counts;
    if pass == Pass::Look {
        let room = counts.has_room(limit);
        return room.then_some(()).ok_or(Refused::Limited(limit.delay));
    }
    let gauge = shared.stats.registry.gauges(Descriptor::envoy(
        "connection_limit.{connection_limit_prefix}.active_connections",
    ));
    let gauge = gauge.handle(connection.worker.shard, &[&*limit.stat_prefix]);
    match counts.enter(limit, &gauge) {
        Some(place) => {
            connection.places.borrow_mut().push(place);
            Ok(())
        }
        None => {
            let prefix = &limit.stat_prefix;
            count(connection, (prefix, prefix), "limited_connections", || {
                "connection_limit.{connection_limit_prefix}.limited_connections".to_owned()
            });
            Err(Refused::Limited(limit.delay))
        }
    }
}

/// Counts what access rules decided, and would have decided in a dry run.
pub(super) fn count_access(
    connection: &Connection,
    rbac: &RbacConfig,
    allowed: bool,
    shadow: Option<bool>,
) {
    let prefix = &rbac.rules_stat_prefix;
    let note = |inner: &Arc<str>, what: &'static str| {
        count(connection, (prefix, inner), what, || {
            format!("{{tcp_rbac_prefix}}.rbac.{inner}{what}")
        });
    };
    if rbac.rules.is_some() {
        note(&Arc::from(""), if allowed { "allowed" } else { "denied" });
    }
    if let Some(shadow) = shadow {
        let what = if shadow {
            "shadow_allowed"
        } else {
            "shadow_denied"
        };
        tracing::debug!(
            connection = connection.facts.id,
            outcome = what,
            "dry run of access rules"
        );
        note(&rbac.shadow_rules_stat_prefix, what);
    }
}

/// Counts what an authorizer said of a connection, under Envoy's names.
pub(super) fn count_authorizer(connection: &Connection, prefix: &Arc<str>, what: &'static str) {
    count(connection, (prefix, &Arc::from("")), what, || {
        format!("ext_authz.{{tcp_ext_authz_prefix}}.{what}")
    });
}

fn count(
    connection: &Connection,
    (prefix, inner): (&Arc<str>, &Arc<str>),
    what: &'static str,
    template: impl FnOnce() -> String,
) {
    let key = (Arc::clone(prefix), Arc::clone(inner), "", what);
    let name = || (template(), Arc::clone(prefix));
    connection.worker.counter(key, name).inc();
}

/// Puts values into the connection's filter state, of which its requests begin with a copy.
pub(super) fn note(connection: &Connection, values: &[SetFilterState]) {
    for one in values {
        let value = one.value.render(&ConnectionValues(connection)).into_owned();
        if value.is_empty() && one.skip_if_empty {
            continue;
        }
        let mut state = connection.filter_state.borrow_mut();
        state.insert(Arc::clone(&one.key), value.into());
    }
}

/// The command operators whose values a connection has by itself.
struct ConnectionValues<'a>(&'a Connection);

impl Values for ConnectionValues<'_> {
    fn write(&self, command: &Command, out: &mut String) -> bool {
        let facts = &self.0.facts;
        let peer = self.0.peer.as_ref();
        let text = match &*command.name {
            "DOWNSTREAM_REMOTE_ADDRESS" => Some(facts.remote.to_string()),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Some(facts.remote.ip().to_string()),
            "DOWNSTREAM_REMOTE_PORT" => Some(facts.remote.port().to_string()),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Some(facts.direct_remote.to_string()),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Some(facts.direct_remote.ip().to_string())
            }
            "DOWNSTREAM_LOCAL_ADDRESS" => Some(facts.local.to_string()),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Some(facts.local.ip().to_string()),
            "DOWNSTREAM_LOCAL_PORT" => Some(facts.local.port().to_string()),
            "DOWNSTREAM_PEER_URI_SAN" => peer.map(|peer| peer.uri_sans.join(",")),
            "DOWNSTREAM_PEER_DNS_SAN" => peer.map(|peer| peer.dns_sans.join(",")),
            "DOWNSTREAM_PEER_SUBJECT" => peer.map(|peer| peer.subject.clone()),
            "DOWNSTREAM_PEER_FINGERPRINT_256" => peer.map(|peer| peer.sha256_fingerprint.clone()),
            "REQUESTED_SERVER_NAME" => facts.server_name.clone(),
            "CONNECTION_ID" => Some(facts.id.to_string()),
            "FILTER_STATE" => {
                let key = command.argument.split(':').next().unwrap_or_default();
                let state = self.0.filter_state.borrow();
                state.get(key).map(ToString::to_string)
            }
            _ => None,
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return false;
        };
        let cut = command
            .max_length
            .map_or(text.as_str(), |max| text.get(..max).unwrap_or(&text));
        out.write_str(cut).is_ok()
    }
}
