//! The network filters before the terminal one, in the order of the chain.
//!
//! A connection whose client is silent passes them twice: once without taking anything, to see whether its upstream may be connected at
//! all, and once in earnest when somebody has spoken.

use std::sync::Arc;

use lateen_traffic::Listener;
use lateen_traffic::ext_authz::{NetworkExtAuthz, Verdict};
use lateen_traffic::filter::{NetworkFilter, NetworkFilterKind};
use lateen_traffic::rbac::{RbacConfig, Rules, Subject};
use lateen_traffic::value::Metadata;

use super::network::{self, Pass};
use super::{Connection, Refused};
use crate::decisions::{Cause, Denied};
use crate::ext_authz::{Asker, ConnectionSubject};

/// Where RBAC filters leave what their shadow rules came to.
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

/// Applies network filters up to the terminal one, which is returned; `Ok(None)` if there is none.
pub(super) async fn pass(
    connection: &Connection,
    pass: Pass,
) -> Result<Option<&NetworkFilterKind>, Refused> {
    let mut metadata = Metadata::default();
    for NetworkFilter { kind, .. } in &connection.chain.filters {
        match kind {
            NetworkFilterKind::Rbac(rbac) => {
                access(connection, rbac, pass, &mut metadata)?;
            }
            // Who was asked when the client was silent is not asked again.
            NetworkFilterKind::ExtAuthz(settings) if pass != Pass::Commit => {
                Box::pin(authorize(connection, settings, &metadata)).await?;
            }
            NetworkFilterKind::Http(_)
            | NetworkFilterKind::Tcp(_)
            | NetworkFilterKind::Echo
            | NetworkFilterKind::DirectResponse(_) => return Ok(Some(kind)),
            NetworkFilterKind::ConnectionLimit(limit) => {
                network::take_place(connection, limit, pass)?;
            }
            NetworkFilterKind::LocalRateLimit(limit) => {
                network::take_token(connection, limit, pass)?;
            }
            NetworkFilterKind::SetFilterState(values) => network::note(connection, values),
            _ => {}
        }
    }
    Ok(None)
}

/// Whether a connection that is open already would still be let in by a listener as it is now: there is a filter chain for it,
/// and that chain's access rules do not refuse it. Authorizers are not asked again.
pub(super) fn would_admit(connection: &Connection, listener: &Listener) -> bool {
    let Some(chain) = super::matching_chain(listener, &connection.facts) else {
        return false;
    };
    let mut metadata = Metadata::default();
    chain.filters.iter().all(|filter| match &filter.kind {
        NetworkFilterKind::Rbac(rbac) => {
            access(connection, rbac, Pass::Look, &mut metadata).is_ok()
        }
        _ => true,
    })
}

fn access(
    connection: &Connection,
    rbac: &RbacConfig,
    pass: Pass,
    metadata: &mut Metadata,
) -> Result<(), Refused> {
    let peer = connection.peer_tls();
    let state = connection.filter_state.borrow();
    let (shadow, allowed) = connection.facts.with_info(|info| {
        let subject = Subject {
            connection: info,
            peer: &peer,
            request: None,
            dynamic_metadata: metadata,
            filter_state: &state,
        };
        let enforced = rbac.rules.as_ref();
        (
            rbac.shadow(&subject),
            enforced.is_none_or(|rules| rules.decide(&subject).allowed),
        )
    });
    if pass != Pass::Look {
        let shadow = shadow.as_ref().map(|verdict| verdict.allowed);
        network::count_access(connection, rbac, allowed, shadow);
    }
    if let Some(verdict) = shadow {
        rbac.note_shadow(NETWORK_RBAC, &verdict, metadata);
    }
    if allowed {
        return Ok(());
    }
    if let Some(rules) = rbac.rules.as_ref().filter(|_| pass != Pass::Look) {
        note_denial(connection, rules, metadata);
    }
    Err(Refused::Denied)
}

/// Keeps what is to be known of a connection that access rules refuse.
fn note_denial(connection: &Connection, rules: &Arc<Rules>, metadata: &Metadata) {
    let peer = connection.peer_tls();
    let state = connection.filter_state.borrow();
    connection.facts.with_info(|info| {
        let subject = Subject {
            connection: info,
            peer: &peer,
            request: None,
            dynamic_metadata: metadata,
            filter_state: &state,
        };
        let policy = rules.decide(&subject).policy.cloned();
        let denied = Denied {
            connection: info,
            peer: &peer,
            client: connection.facts.remote,
            request: None,
            status: 0,
            details: "rbac_access_denied",
        };
        let worker = &connection.worker;
        let cause = Cause::Rules(Arc::clone(rules), policy);
        worker
            .shared
            .decisions
            .note(worker.index(), cause, &denied, &subject);
    });
}

async fn authorize(
    connection: &Connection,
    settings: &NetworkExtAuthz,
    metadata: &Metadata,
) -> Result<(), Refused> {
    let count = |what| network::count_authorizer(connection, &settings.stat_prefix, what);
    if !settings.when.holds(metadata, rand::random()) {
        count("disabled");
        return Ok(());
    }
    count("total");
    let (info, peer) = (connection.facts.info(), connection.peer_tls());
    let subject = ConnectionSubject {
        connection: &info,
        peer: &peer,
        own_principal: connection
            .now
            .own_principal
            .as_deref()
            .filter(|_| connection.secure),
        metadata,
    };
    let asker = Asker {
        worker: &connection.worker,
        now: &connection.now,
    };
    let verdict = asker.connection(settings, &subject).await;
    count(match &verdict {
        Verdict::Allowed(_) => "ok",
        Verdict::Denied(_) => "denied",
        Verdict::Failed => "error",
    });
    match verdict {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Failed if settings.failure_mode_allow => {
            count("failure_mode_allowed");
            Ok(())
        }
        Verdict::Denied(_) | Verdict::Failed => {
            count("cx_closed");
            Err(Refused::Denied)
        }
    }
}
