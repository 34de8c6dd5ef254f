//! A connection at a TCP proxy: its cluster, by weight.

use std::sync::Arc;

use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::tcp::{TcpProxy, TcpTarget};

use super::connection::Connection;
use super::http::share;
use super::upstream::{Onward, short};
use super::{Outcome, Payload, Step, Trail, Walker};
use crate::report::{End, Note, NoteKind, Stage, percent};

impl Walker<'_> {
    /// What a TCP proxy does with a connection.
    pub(super) fn tcp(&mut self, mut trail: Trail, connection: Connection, proxy: &TcpProxy) {
        let TcpTarget::Weighted { clusters, total } = &proxy.target else {
            let name = proxy.pick_cluster(0).to_string();
            return self.reach_cluster(trail, connection, &name);
        };
        if self.options.seed.is_some() {
            let name = proxy.pick_cluster(self.random(1)).to_string();
            let what = format!("{} is drawn", short(&name));
            trail.push(Step::new(connection.at(), Stage::Weights, what));
            return self.reach_cluster(trail, connection, &name);
        }
        let choices = clusters.iter().map(|entry| {
            let share = percent(share(u64::from(entry.weight), *total));
            Note::new(NoteKind::Choice, format!("{share} {}", short(&entry.name)))
        });
        let step = Step::new(connection.at(), Stage::Weights, "by chance, one of");
        trail.push(step.with_notes(choices.collect()));
        let mut start = 0;
        for entry in clusters.iter().filter(|entry| entry.weight > 0) {
            let name = proxy.pick_cluster(start).to_string();
            start += u64::from(entry.weight);
            let mut branch = trail.branch(share(u64::from(entry.weight), *total));
            branch.to.push(short(&name));
            let connection = Connection {
                arrival: connection.arrival.clone(),
                listener: Arc::clone(&connection.listener),
                seen: connection.seen.clone(),
                sans: connection.sans.clone(),
                ..connection
            };
            self.reach_cluster(branch, connection, &name);
        }
    }

    fn reach_cluster(&mut self, trail: Trail, mut connection: Connection, name: &str) {
        let proxy = Arc::clone(&connection.arrival.proxy);
        let Some(cluster) = proxy.program.cluster(name) else {
            let what = format!(
                "there is no cluster {}: the connection is closed",
                short(name)
            );
            let outcome = Outcome::new(End::Failed, what.clone()).flags("NC");
            return self.stop(
                trail,
                Step::new(connection.at(), Stage::Cluster, what),
                outcome,
            );
        };
        let inbound = connection.listener.direction == TrafficDirection::Inbound;
        if &*cluster.name == "BlackHoleCluster" && !inbound {
            let what = "REGISTRY_ONLY, and the destination is not in the registry: the connection is closed";
            let outcome = Outcome::new(End::Denied, what).flags("UH");
            return self.stop(
                trail,
                Step::new(connection.at(), Stage::Cluster, what),
                outcome,
            );
        }
        let payload = std::mem::replace(&mut connection.arrival.payload, Payload::Opaque);
        let onward = Onward {
            cluster: Arc::clone(cluster),
            hash: None,
            alpn: Vec::new(),
            authority: None,
            payload,
        };
        self.onward(trail, &connection, onward);
    }
}
