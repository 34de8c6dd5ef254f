//! Which listeners are asked to let go of their connections, and which accept nothing more.
//!
//! A listener that drains goes on accepting: clients may not know yet that they are to go elsewhere, and each is told so with its next answer
//! (`connection: close`, GOAWAY). One that has stopped has closed its sockets; connections that are open go on. Both are for good.
//! Source: Envoy's `/drain_listeners`; clients are told from the start of a drain, as Istio has it (`--drain-strategy immediate`).

use lateen_traffic::listener::TrafficDirection;
use tokio::sync::watch;

/// Listeners, by the direction of their traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// None of them.
    #[default]
    None,
    /// Those of traffic to the workload.
    Inbound,
    /// All.
    All,
}

/// What listeners were asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drains {
    /// These tell their clients to go elsewhere.
    pub(crate) draining: Scope,
    /// These accept nothing more.
    pub(crate) stopped: Scope,
}

/// What listeners were asked to do, for all workers.
#[derive(Debug, Default)]
pub(crate) struct Orders(watch::Sender<Drains>);

impl Scope {
    /// Whether listeners of a direction are among them.
    pub(crate) fn covers(self, direction: TrafficDirection) -> bool {
        match self {
            Self::None => false,
            Self::Inbound => direction == TrafficDirection::Inbound,
            Self::All => true,
        }
    }
}

impl Orders {
    /// What is asked, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Drains> {
        self.0.subscribe()
    }

    /// What is asked now.
    pub(crate) fn now(&self) -> Drains {
        *self.0.borrow()
    }

    /// Begins a drain; `false` if these drain already.
    pub(crate) fn drain(&self, scope: Scope) -> bool {
        self.0.send_if_modified(|drains| {
            let more = scope > drains.draining;
            drains.draining = drains.draining.max(scope);
            more
        })
    }

    /// Has listeners accept nothing more.
    pub(crate) fn stop(&self, scope: Scope) {
        self.0.send_if_modified(|drains| {
            let more = scope > drains.stopped;
            drains.stopped = drains.stopped.max(scope);
            more
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_never_taken_back() {
        let orders = Orders::default();
        assert!(orders.drain(Scope::Inbound));
        assert!(!orders.drain(Scope::Inbound), "it drains already");
        assert!(orders.drain(Scope::All));
        assert!(!orders.drain(Scope::Inbound));
        orders.stop(Scope::Inbound);
        let now = orders.now();
        assert_eq!((now.draining, now.stopped), (Scope::All, Scope::Inbound));
        assert!(now.stopped.covers(TrafficDirection::Inbound));
        assert!(!now.stopped.covers(TrafficDirection::Outbound));
        assert!(!now.stopped.covers(TrafficDirection::Unspecified));
        assert!(now.draining.covers(TrafficDirection::Unspecified));
    }
}
