//! The agent beside a proxy in its own process: identity, names and readiness from a small istiod.

use std::sync::Arc;
use std::time::Duration;

use super::support::{Istiod, eventually};
use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use lateen_agent::http_client::{self, HttpError, Target};
use lateen_agent::{Agent, DataPlane, DataPlaneKind, NotReady};
use lateen_identity::BoxFuture;
use tokio::net::UdpSocket;

/// A proxy that is always ready.
struct Ready;

impl DataPlane for Ready {
    fn ready(&self) -> BoxFuture<'_, Result<(), NotReady>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn metrics<'a>(&'a self, _query: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, HttpError>> {
        Box::pin(std::future::ready(Ok(Bytes::new())))
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), HttpError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

async fn is_ready(port: u16) -> bool {
    let answer = http_client::get(
        &Target::loopback(port),
        "/healthz/ready",
        Duration::from_secs(2),
    )
    .await;
    answer.is_ok_and(|answer| answer.status == 200)
}

async fn resolve(server: std::net::SocketAddr, name: &str) -> usize {
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket
        .send_to(&query.to_vec().unwrap(), server)
        .await
        .unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap().answers.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_becomes_ready_with_a_certificate_and_names_and_keeps_both_without_istiod() {
    let mut istiod = Istiod::start();
    let config = istiod.agent(DataPlaneKind::Lateen, &[]);
    let names = config.dns.listen[0];
    let mut agent = Agent::start(config, "search default.svc.cluster.local\n")
        .await
        .unwrap();
    let port = agent.serve_status(Arc::new(Ready)).await.unwrap();
    eventually("ready", || is_ready(port)).await;
    let identity = agent.identity().current().unwrap();
    assert_eq!(
        identity.id().to_string(),
        "spiffe://cluster.local/ns/default/sa/web"
    );
    eventually("names", || async { resolve(names, "ratings.").await == 1 }).await;

    istiod.stop().await;
    assert!(agent.identity().rotate().await.is_err());
    assert_eq!(
        agent.identity().current().unwrap().facts(),
        identity.facts()
    );
    assert_eq!(resolve(names, "ratings.default.").await, 1);

    istiod.serve();
    eventually("renewed", || async {
        agent.identity().rotate().await.is_ok()
    })
    .await;
    assert_ne!(
        agent.identity().current().unwrap().facts().serial,
        identity.facts().serial
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_istiod_is_away_the_pod_says_what_it_waits_for() {
    let mut istiod = Istiod::start();
    istiod.stop().await;
    let config = istiod.agent(DataPlaneKind::Lateen, &[]);
    let mut agent = Agent::start(config, "").await.unwrap();
    let port = agent.serve_status(Arc::new(Ready)).await.unwrap();
    let wait = Duration::from_secs(2);
    let answer = http_client::get(&Target::loopback(port), "/healthz/ready", wait)
        .await
        .unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "no certificate from istiod yet");
    istiod.serve();
    eventually("ready", || is_ready(port)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_file_reaches_the_workload_without_a_renewal() {
    let istiod = Istiod::start();
    let config = istiod.agent(DataPlaneKind::Lateen, &[]);
    let agent = Agent::start(config, "").await.unwrap();
    agent.identity().ready().await.unwrap();
    istiod
        .ca
        .begin_rotation(std::time::SystemTime::now())
        .unwrap();
    let roots = istiod.ca.bundle().borrow().to_pem();
    std::fs::write(istiod.dir().join("root-cert.pem"), roots).unwrap();
    let mut identity = agent.identity().watch();
    let both = identity.wait_for(|current| {
        current
            .as_ref()
            .is_some_and(|identity| identity.bundle().roots().len() == 2)
    });
    tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .unwrap()
        .unwrap();
}
