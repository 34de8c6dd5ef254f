//! Both adaptors over a loopback connection: delivery, rejection, reconnects, slow clients, draining and admission.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lateen_envoy::TypeUrl::{self, Listener as Lds, Secret as Sds};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{Resource, ResourceSet};
use lateen_xds::client::Update;
use lateen_xds::grpc::client::{client, endpoint};
use lateen_xds::grpc::{
    Acknowledge, AdmissionConfig, AdsServer, Backoff, ClientConfig, ClientEvent, ConnectRequest,
    Connection, Discovery, KeepAlive, PeerInfo, PeerStream, ServerConfig, Subscriber, Subscription,
};
use lateen_xds::server::{SessionStatus, SyncState};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(10);

/// Serves every node the same resources and keeps the streams' status.
struct Mesh {
    resources: watch::Sender<Option<ResourceSet>>,
    streams: Mutex<Vec<(PeerInfo, watch::Receiver<SessionStatus>)>>,
}

#[tonic::async_trait]
impl Discovery for Mesh {
    async fn connect(&self, request: ConnectRequest) -> Result<Connection, Status> {
        if request.node.id == "stranger" {
            return Err(Status::permission_denied("not of this mesh"));
        }
        let (status, watched) = watch::channel(SessionStatus::default());
        self.streams.lock().unwrap().push((request.peer, watched));
        Ok(Connection {
            resources: self.resources.subscribe(),
            status,
        })
    }
}

struct Served {
    mesh: Arc<Mesh>,
    address: SocketAddr,
    drain: CancellationToken,
    task: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(config: ServerConfig) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mesh = Arc::new(Mesh {
        resources: watch::channel(None).0,
        streams: Mutex::default(),
    });
    let drain = config.drain.clone();
    let mut transport = config.transport();
    let ads = AdsServer::new(mesh.clone(), config).into_service();
    let incoming = TcpListenerStream::new(listener).map(|io| {
        io.map(|io| {
            let peer = PeerInfo {
                remote: io.peer_addr().ok(),
                identity: Some(b"spiffe://cluster.local/ns/a/sa/b".as_slice().into()),
            };
            PeerStream::new(io, peer)
        })
    });
    let serving = transport
        .add_service(ads)
        .serve_with_incoming_shutdown(incoming, drain.clone().cancelled_owned());
    let task = tokio::spawn(async move { serving.await.unwrap() }).abort_handle();
    Served {
        mesh,
        address,
        drain,
        task,
    }
}

struct Proxy {
    subscriber: Subscriber,
    events: mpsc::Receiver<ClientEvent>,
    running: JoinHandle<()>,
}

fn connect(address: SocketAddr, id: &str, subscriptions: Vec<Subscription>) -> Proxy {
    let node = Node {
        id: id.to_owned(),
        ..Node::default()
    };
    let backoff = Backoff {
        initial: Duration::from_millis(20),
        max: Duration::from_millis(100),
    };
    let config = ClientConfig {
        subscriptions,
        backoff,
        ..ClientConfig::new(node)
    };
    let uri: tonic::transport::Uri = format!("http://{address}").parse().unwrap();
    let connect = move || {
        let endpoint = endpoint(uri.clone(), KeepAlive::default());
        async move { Ok(endpoint.connect().await?.into()) }
    };
    let (subscriber, events, run) = client(config, connect);
    Proxy {
        subscriber,
        events,
        running: tokio::spawn(run),
    }
}

impl Proxy {
    async fn event(&mut self) -> ClientEvent {
        timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .unwrap()
    }

    /// The next update, whatever happens to the connection before it.
    async fn update(&mut self) -> (Update, Acknowledge) {
        loop {
            if let ClientEvent::Update(update, acknowledge) = self.event().await {
                return (update, acknowledge);
            }
        }
    }

    async fn disconnected(&mut self) -> String {
        loop {
            if let ClientEvent::Disconnected { error, .. } = self.event().await {
                return error;
            }
        }
    }
}

fn listeners(names: &str) -> Option<ResourceSet> {
    let mut set = ResourceSet::default();
    for word in names.split_whitespace() {
        let (name, _) = word.split_once('=').unwrap_or((word, ""));
        set.insert(Lds, opaque(Lds, name, word.as_bytes()));
    }
    Some(set)
}

fn opaque(ty: TypeUrl, name: &str, bytes: &[u8]) -> Resource {
    Resource::from_any(
        name,
        Any {
            type_url: ty.as_str().to_owned(),
            value: bytes.to_vec(),
        },
    )
}

fn changed(update: &Update) -> Vec<&str> {
    update
        .changed
        .iter()
        .map(|resource| &*resource.name)
        .collect()
}

async fn until(mut status: watch::Receiver<SessionStatus>, ty: TypeUrl, state: SyncState) {
    let reached = |s: &SessionStatus| s.types.get(&ty).is_some_and(|t| t.sync() == state);
    timeout(PATIENCE, status.wait_for(reached))
        .await
        .expect("in time")
        .unwrap();
}

#[tokio::test]
async fn resources_reach_the_client_and_verdicts_reach_the_server() {
    let server = serve(ServerConfig::default()).await;
    let mut proxy = connect(server.address, "proxy", vec![Subscription::All(Lds)]);
    assert!(matches!(proxy.event().await, ClientEvent::Connected));

    server.mesh.resources.send_replace(listeners("a b"));
    let (update, acknowledge) = proxy.update().await;
    assert_eq!((update.ty, changed(&update)), (Lds, vec!["a", "b"]));
    acknowledge.ack();
    let (peer, status) = server.mesh.streams.lock().unwrap()[0].clone();
    assert_eq!(
        peer.identity_str(),
        Some("spiffe://cluster.local/ns/a/sa/b")
    );
    assert!(peer.remote.is_some());
    until(status.clone(), Lds, SyncState::Synced).await;

    server.mesh.resources.send_replace(listeners("a=2 b"));
    let (update, acknowledge) = proxy.update().await;
    assert_eq!(changed(&update), ["a"]);
    acknowledge.nack("no such filter");
    until(status.clone(), Lds, SyncState::Error).await;
    let error = status.borrow().types[&Lds].error.clone().unwrap();
    assert_eq!(error.message, "no such filter");

    server.mesh.resources.send_replace(listeners("a=3 b"));
    drop(proxy.update().await.1);
    until(status, Lds, SyncState::Error).await;
}

#[tokio::test]
async fn subscriptions_can_change_on_an_open_stream() {
    let server = serve(ServerConfig::default()).await;
    let mut set = ResourceSet::default();
    set.insert(Sds, opaque(Sds, "default", b"1"));
    server.mesh.resources.send_replace(Some(set));
    let mut proxy = connect(server.address, "proxy", vec![Subscription::All(Lds)]);
    let (update, acknowledge) = proxy.update().await;
    assert_eq!(update.ty, Lds);
    acknowledge.ack();
    let names = vec!["default".into(), "unknown".into()];
    proxy
        .subscriber
        .change(Subscription::Names(Sds, names))
        .await;
    let (update, acknowledge) = proxy.update().await;
    assert_eq!(
        (changed(&update), &*update.removed[0]),
        (vec!["default"], "unknown")
    );
    acknowledge.ack();
}

#[tokio::test]
async fn a_client_finds_back_to_a_restarted_server_and_gets_only_what_changed() {
    let server = serve(ServerConfig::default()).await;
    server.mesh.resources.send_replace(listeners("a b c"));
    // The proxy connects through an address that outlives the server.
    let address = Arc::new(Mutex::new(server.address));
    let current = address.clone();
    let node = Node {
        id: "proxy".to_owned(),
        ..Node::default()
    };
    let backoff = Backoff {
        initial: Duration::from_millis(20),
        max: Duration::from_millis(100),
    };
    let config = ClientConfig {
        subscriptions: vec![Subscription::All(Lds)],
        backoff,
        ..ClientConfig::new(node)
    };
    let (subscriber, events, run) = client(config, move || {
        let uri = format!("http://{}", current.lock().unwrap());
        async move {
            Ok(endpoint(uri.parse()?, KeepAlive::default())
                .connect()
                .await?
                .into())
        }
    });
    let mut proxy = Proxy {
        subscriber,
        events,
        running: tokio::spawn(run),
    };
    let (update, acknowledge) = proxy.update().await;
    assert_eq!(changed(&update), ["a", "b", "c"]);
    acknowledge.ack();
    let status = server.mesh.streams.lock().unwrap()[0].1.clone();
    until(status, Lds, SyncState::Synced).await;

    server.drain.cancel();
    proxy.disconnected().await;
    let server = serve(ServerConfig::default()).await;
    server.mesh.resources.send_replace(listeners("a b=2 d"));
    *address.lock().unwrap() = server.address;
    let (update, acknowledge) = proxy.update().await;
    assert_eq!(
        (changed(&update), &*update.removed),
        (vec!["b", "d"], &["c".into()][..])
    );
    acknowledge.ack();
}

#[tokio::test]
async fn a_refused_client_is_told_why_and_tries_again() {
    let server = serve(ServerConfig::default()).await;
    let mut proxy = connect(server.address, "stranger", vec![Subscription::All(Lds)]);
    for _ in 0..2 {
        let error = proxy.disconnected().await;
        assert!(error.contains("not of this mesh"), "{error}");
    }
    let mut nameless = connect(server.address, "", vec![Subscription::All(Lds)]);
    let error = nameless.disconnected().await;
    assert!(error.contains("names no node"), "{error}");
}

#[tokio::test]
async fn the_server_forgets_a_client_that_went_away_and_the_client_ends_with_its_receiver() {
    let server = serve(ServerConfig::default()).await;
    server.mesh.resources.send_replace(listeners("a"));
    let mut proxy = connect(server.address, "proxy", vec![Subscription::All(Lds)]);
    let (_, acknowledge) = proxy.update().await;
    acknowledge.ack();
    let mut status = server.mesh.streams.lock().unwrap()[0].1.clone();
    drop(proxy.events);
    timeout(PATIENCE, proxy.running)
        .await
        .expect("the client ends")
        .unwrap();
    let closed = async { while status.changed().await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("the server notices");
    assert_eq!(server.mesh.resources.receiver_count(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody_else_and_skips_what_it_missed() {
    let server = serve(ServerConfig::default()).await;
    server.mesh.resources.send_replace(listeners("a"));
    let mut slow = connect(server.address, "slow", vec![Subscription::All(Lds)]);
    let (_, unanswered) = slow.update().await;
    let mut quick = connect(server.address, "quick", vec![Subscription::All(Lds)]);
    quick.update().await.1.ack();
    for version in 2..6 {
        server
            .mesh
            .resources
            .send_replace(listeners(&format!("a={version}")));
        let (update, acknowledge) = quick.update().await;
        assert_eq!(
            update.changed[0].body.value,
            format!("a={version}").as_bytes()
        );
        acknowledge.ack();
    }
    unanswered.ack();
    let (update, acknowledge) = slow.update().await;
    assert_eq!(update.changed[0].body.value, b"a=5");
    acknowledge.ack();
}

#[tokio::test]
async fn a_storm_of_clients_is_let_in_at_a_bounded_rate() {
    let admission = AdmissionConfig {
        per_second: 50.0,
        burst: 5,
        ..AdmissionConfig::default()
    };
    let server = serve(ServerConfig {
        admission,
        ..ServerConfig::default()
    })
    .await;
    server.mesh.resources.send_replace(listeners("a"));
    let began = tokio::time::Instant::now();
    let mut proxies: BTreeMap<usize, Proxy> = (0..20)
        .map(|n| {
            (
                n,
                connect(
                    server.address,
                    &format!("proxy{n}"),
                    vec![Subscription::All(Lds)],
                ),
            )
        })
        .collect();
    for proxy in proxies.values_mut() {
        proxy.update().await.1.ack();
    }
    // Five at once, fifteen more at 50 a second.
    assert!(
        began.elapsed() >= Duration::from_millis(280),
        "{:?}",
        began.elapsed()
    );
}

/// Relays one connection to `to`, until told to go silent: connections stay open and nothing passes any more.
async fn relay(to: SocketAddr) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = CancellationToken::new();
    let token = silent.clone();
    tokio::spawn(async move {
        let mut dead = Vec::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let Ok(mut server) = tokio::net::TcpStream::connect(to).await else {
                return;
            };
            let copying = tokio::io::copy_bidirectional(&mut from, &mut server);
            drop(token.run_until_cancelled(copying).await);
            dead.push((from, server));
        }
    });
    (address, silent)
}

#[tokio::test]
async fn a_server_that_goes_silent_is_noticed() {
    let server = serve(ServerConfig::default()).await;
    server.mesh.resources.send_replace(listeners("a"));
    let (address, silent) = relay(server.address).await;
    let config = ClientConfig {
        subscriptions: vec![Subscription::All(Lds)],
        ..ClientConfig::new(Node {
            id: "proxy".to_owned(),
            ..Node::default()
        })
    };
    let keep_alive = KeepAlive {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(200),
    };
    let (subscriber, events, run) = client(config, move || {
        let uri = format!("http://{address}");
        async move { Ok(endpoint(uri.parse()?, keep_alive).connect().await?.into()) }
    });
    let mut proxy = Proxy {
        subscriber,
        events,
        running: tokio::spawn(run),
    };
    proxy.update().await.1.ack();
    silent.cancel();
    proxy.disconnected().await;
    drop(proxy.events);
    timeout(PATIENCE, proxy.running)
        .await
        .expect("the client ends")
        .unwrap();
}

#[tokio::test]
async fn a_client_connects_when_there_is_something_to_ask_for() {
    let server = serve(ServerConfig::default()).await;
    server.mesh.resources.send_replace(listeners("a"));
    let mut proxy = connect(server.address, "proxy", Vec::new());
    let silence = timeout(Duration::from_millis(50), proxy.events.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
    proxy.subscriber.change(Subscription::All(Lds)).await;
    proxy.update().await.1.ack();
}

#[tokio::test]
async fn subscriptions_can_change_in_any_number_while_there_is_no_server() {
    let nowhere = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = connect(nowhere, "proxy", vec![Subscription::All(Lds)]);
    let changes = async {
        for n in 0..1000 {
            let names = vec![n.to_string().into()];
            proxy
                .subscriber
                .change(Subscription::Names(Sds, names))
                .await;
        }
    };
    timeout(PATIENCE, changes)
        .await
        .expect("nobody reads the events, and still nothing blocks");
}
