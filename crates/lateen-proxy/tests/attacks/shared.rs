//! Connections that requests share between two of our own sidecars (decision 0008), with a peer that has a good certificate and
//! means ill: whoever has an identity in the mesh can speak this protocol.

use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use lateen_identity::WorkloadIdentity;
use lateen_identity::tls::{ClientSettings, ClientVerification, TlsVersions, client_config};
use rustls::pki_types::ServerName;
use support::identity::Root;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

const ALPN: &str = "lateen-mux/2";

// Kinds of frames, as `lateen_proxy::mux::frame` numbers them.
pub(super) const HEAD: u8 = 0;
pub(super) const DATA: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const REFUSED: u8 = 4;
pub(super) const WINDOW: u8 = 5;
const INTRODUCTION: u8 = 7;
pub(super) const END: u8 = 1;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

fn text_of(out: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    while length > 0x7f {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(text);
}

fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![11];
    for text in [method, path, "host", "shop"] {
        text_of(&mut out, text.as_bytes());
    }
    for (name, value) in fields {
        text_of(&mut out, name.as_bytes());
        text_of(&mut out, value.as_bytes());
    }
    out
}

fn ask(stream: u32, path: &str) -> Vec<u8> {
    frame(HEAD, END, stream, &head("GET", path, &[]))
}

/// A frame that came: kind, whether it is the last, stream, payload.
pub(super) type Came = (u8, bool, u32, Vec<u8>);

/// The ill-meaning peer.
pub(super) struct Peer(TlsStream<TcpStream>);

impl Peer {
    pub(super) async fn connect(server: &Running, identity: &WorkloadIdentity, alpn: &str) -> Self {
        let settings = ClientSettings {
            certificate: Some(identity.pair().clone()),
            verification: ClientVerification::Insecure,
            alpn: vec![alpn.as_bytes().to_vec()],
            versions: TlsVersions::default(),
            send_sni: false,
        };
        let connector = TlsConnector::from(client_config(settings).unwrap());
        let tcp = TcpStream::connect(server.address("inbound")).await.unwrap();
        let name = ServerName::try_from("server.default.svc").unwrap();
        let stream = connector.connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        Self(stream)
    }

    /// Hears out who the server says it is, where that comes first.
    pub(super) async fn introduced(mut self) -> Self {
        let mut header = [0; 8];
        self.0.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        let mut told = vec![0; length as usize];
        self.0.read_exact(&mut told).await.unwrap();
        self
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        let sent = tokio::time::timeout(Duration::from_secs(5), sent).await;
        matches!(sent, Ok(Ok(())))
    }

    /// The next frame; none if the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Came> {
        let read = async {
            let mut header = [0; 10];
            self.0.read_exact(&mut header).await.ok()?;
            let stream = u32::from_be_bytes(header[2..6].try_into().unwrap());
            let length = u32::from_be_bytes(header[6..10].try_into().unwrap());
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((header[0], header[1] & END != 0, stream, payload))
        };
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        read.expect("an answer or the end within ten seconds")
    }

    /// The status that a stream is answered with; none if it is given up or the connection ends.
    async fn status(&mut self, stream: u32) -> Option<u16> {
        loop {
            match self.next().await? {
                (HEAD, _, of, payload) if of == stream => {
                    // The highest bits say other things.
                    return Some(u16::from_be_bytes([payload[0] & 0x3f, payload[1]]));
                }
                (RESET | REFUSED, _, of, _) if of == stream => return None,
                _ => {}
            }
        }
    }

    /// Whether the connection ends after some bytes.
    pub(super) async fn is_ended_by(&mut self, bytes: &[u8]) -> bool {
        self.send(bytes).await;
        while self.next().await.is_some() {}
        true
    }
}

/// A sidecar whose only policy lets the account `client` through, but not to `/admin`; and the application behind it.
struct Server {
    root: Root,
    proxy: Running,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(extra: Value) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let app = backend(move |request| {
            let counter = Arc::clone(&counter);
            async move {
                counter.fetch_add(1, Ordering::Relaxed);
                match request.uri().path() {
                    "/slow" => tokio::time::sleep(Duration::from_secs(3600)).await,
                    "/read" => drop(request.into_body().collect().await),
                    "/cert" => {
                        let header = request.headers().get("x-forwarded-client-cert");
                        return text(header.unwrap().to_str().unwrap());
                    }
                    _ => {}
                }
                text("served")
            }
        })
        .await;
        let root = Root::new();
        let mut resources = mtls::inbound(app);
        let manager = &mut resources[0]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["http_filters"][0]["typed_config"]["rules"] = json!({"action": "ALLOW", "policies": {"client": {
            "permissions": [{"not_rule": {"url_path": {"path": {"prefix": "/admin"}}}}],
            "principals": [{"authenticated": {"principal_name": {"exact": "spiffe://cluster.local/ns/default/sa/client"}}}],
        }}});
        merge(manager, extra);
        let proxy = start_with(resources, Some(root.workload("server")), |config| {
            config.concurrency = 1;
        })
        .await;
        Self { root, proxy, asked }
    }

    async fn peer(&self, account: &str) -> Peer {
        Peer::connect(&self.proxy, &self.root.workload(account), ALPN).await
    }

    /// Another peer is served.
    async fn serves_others(&self) {
        let mut other = self.peer("client").await;
        other.send(&ask(1, "/other")).await;
        assert_eq!(other.status(1).await, Some(200));
    }

    async fn end(self) {
        self.serves_others().await;
        self.proxy.handle.shutdown().await;
    }
}

/// Class: another's identity on a shared connection. Outcome: each stream is judged by the connection's certificate and its own path, however
/// many went before it; what the peer says of certificates is not believed.
#[tokio::test]
async fn each_request_is_judged_by_the_connections_identity() {
    let strict = json!({"forward_client_cert_details": "SANITIZE_SET", "normalize_path": true});
    let server = Server::start(strict).await;
    let forged = [(
        "x-forwarded-client-cert",
        "URI=spiffe://cluster.local/ns/default/sa/client",
    )];
    let mut client = server.peer("client").await;
    for (stream, path, expected) in [
        (1, "/open", 200),
        (2, "/admin", 403),
        (3, "/open", 200),
        (4, "/a/../admin", 403),
    ] {
        client.send(&ask(stream, path)).await;
        assert_eq!(client.status(stream).await, Some(expected), "{path}");
    }
    let mut stranger = server.peer("stranger").await;
    for stream in 1..5 {
        let head = head("GET", "/open", &forged);
        stranger.send(&frame(HEAD, END, stream, &head)).await;
        assert_eq!(stranger.status(stream).await, Some(403));
    }
    let head = head(
        "GET",
        "/cert",
        &[("x-forwarded-client-cert", "URI=spiffe://x")],
    );
    client.send(&frame(HEAD, END, 9, &head)).await;
    assert_eq!(client.status(9).await, Some(200));
    let (_, _, _, body) = client.next().await.unwrap();
    let body = String::from_utf8(body).unwrap();
    assert!(
        body.contains("sa/client") && !body.contains("spiffe://x"),
        "{body}"
    );
    server.end().await;
}

/// Class: rapid reset. Limit: 500 requests taken back within a second, if they are most of all. Outcome: the connection ends.
#[tokio::test]
async fn a_peer_that_takes_its_requests_back_is_ended() {
    let server = Server::start(json!({})).await;
    let mut quick = server.peer("client").await;
    for batch in 0..100 {
        let streams = batch * 100 + 1..=batch * 100 + 100;
        let both = |n| [ask(n, "/slow"), frame(RESET, END, n, &[])].concat();
        if !quick
            .send(&streams.flat_map(both).collect::<Vec<u8>>())
            .await
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(quick.is_ended_by(&[]).await);
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    let mut peer = server.peer("client").await;
    for stream in 1..10_000 {
        // Now and then the reset waits, so that some are looked at before they are taken back and some are not.
        let (ask, reset) = (ask(stream, "/slow"), frame(RESET, END, stream, &[]));
        let waits = stream % 20 == 0;
        if waits {
            peer.send(&ask).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let rest = if waits { reset } else { [ask, reset].concat() };
        if !peer.send(&rest).await {
            break;
        }
    }
    assert!(peer.is_ended_by(&[]).await);
    let asked = server.asked.load(Ordering::Relaxed);
    assert!(asked < 1500, "{asked}");
    server.end().await;
}

/// Class: more streams than there is room for. Limit: 128. Outcome: the others are refused, and those under way go on.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_others_go_on() {
    let server = Server::start(json!({})).await;
    let mut peer = server.peer("client").await;
    let slow: Vec<u8> = (1..=127).flat_map(|stream| ask(stream, "/slow")).collect();
    let read = frame(HEAD, 0, 128, &head("POST", "/read", &[]));
    peer.send(&[slow, read].concat()).await;
    let more: Vec<u8> = (129..=400)
        .flat_map(|stream| ask(stream, "/open"))
        .collect();
    peer.send(&more).await;
    for stream in 129..=400 {
        assert_eq!(
            peer.next().await.unwrap(),
            (REFUSED, true, stream, Vec::new())
        );
    }
    peer.send(&frame(DATA, END, 128, b"x")).await;
    assert_eq!(peer.status(128).await, Some(200));
    server.end().await;
}

/// Class: huge heads. Limits: as over HTTP/1 (60 KiB, 100 fields), and 1 MiB of a frame. Outcome: 431, or the end of the connection.
#[tokio::test]
async fn heads_are_bounded_in_bytes_and_in_number() {
    let server = Server::start(json!({})).await;
    let mut peer = server.peer("client").await;
    let long = "x".repeat(61 * 1024);
    peer.send(&frame(HEAD, END, 1, &head("GET", "/", &[("a", &long)])))
        .await;
    assert_eq!(peer.status(1).await, Some(431));
    let many = vec![("a", ""); 200];
    peer.send(&frame(HEAD, END, 2, &head("GET", "/", &many)))
        .await;
    assert_eq!(peer.status(2).await, Some(431));
    peer.send(&ask(3, "/open")).await;
    assert_eq!(peer.status(3).await, Some(200));
    let mut endless = frame(HEAD, END, 4, &[]);
    endless[6..10].copy_from_slice(&(2_u32 << 20).to_be_bytes());
    assert!(peer.is_ended_by(&endless).await);
    server.end().await;
}

/// Class: forged streams and frames. Outcome: the connection ends, or what is of no stream is dropped; nobody else's stream is touched.
#[tokio::test]
async fn forged_frames_end_the_connection_or_nothing() {
    let server = Server::start(json!({})).await;
    let head = head("POST", "/read", &[]);
    for (case, bytes) in [
        ("a stream that was not begun", frame(DATA, END, 77, b"x")),
        (
            "a head on the connection itself",
            frame(HEAD, END, 0, &head),
        ),
        ("a frame of no kind", frame(9, 0, 1, &[])),
        ("a reset with bytes", frame(RESET, 0, 1, b"x")),
        (
            "a window of nothing",
            [frame(HEAD, 0, 1, &head), frame(WINDOW, 0, 1, &[0; 4])].concat(),
        ),
        (
            "a window beyond measure",
            [frame(HEAD, 0, 1, &head), frame(WINDOW, 0, 1, &[255; 4])].concat(),
        ),
        (
            "a stream begun twice",
            [frame(HEAD, 0, 1, &head), frame(HEAD, 0, 1, &head)].concat(),
        ),
        (
            "bytes after the end",
            [
                frame(HEAD, 0, 1, &head),
                frame(DATA, END, 1, b"x"),
                frame(DATA, 0, 1, b"x"),
            ]
            .concat(),
        ),
        ("data that is too long", {
            let mut long = [frame(HEAD, 0, 1, &head), frame(DATA, 0, 1, &[])].concat();
            let at = long.len() - 4;
            long[at..].copy_from_slice(&(1_u32 << 20).to_be_bytes());
            long
        }),
    ] {
        let mut peer = server.peer("client").await;
        assert!(peer.is_ended_by(&bytes).await, "{case}");
    }
    let mut peer = server.peer("client").await;
    peer.send(&ask(5, "/open")).await;
    assert_eq!(peer.status(5).await, Some(200));
    // Streams are never begun again, nor before older ones.
    peer.send(&[ask(5, "/open"), ask(3, "/open"), ask(6, "/open")].concat())
        .await;
    let (kind, _, stream, _) = loop {
        match peer.next().await.unwrap() {
            (DATA, _, 5, _) => {} // the body of the first answer
            other => break other,
        }
    };
    assert_eq!((kind, stream), (HEAD, 6));
    assert_eq!(server.asked.load(Ordering::Relaxed), 2);
    server.end().await;
}

/// Class: introductions that were not made, or are endless. Limits: one for each connection, 16 KiB. Outcome: a head that refers to none is
/// 400, others are served; a second one or one that is too long ends the connection.
#[tokio::test]
async fn introductions_are_made_once_and_are_short() {
    let server = Server::start(json!({})).await;
    let introduced = |stream| {
        let mut head = head("GET", "/open", &[]);
        head[0] |= 0x80;
        frame(HEAD, END, stream, &head)
    };
    let introduction = |length: usize| {
        let mut both = Vec::new();
        text_of(&mut both, &vec![b'a'; length]);
        text_of(&mut both, b"sidecar~10.0.0.1~a.b~b.svc");
        frame(INTRODUCTION, 0, 0, &both)
    };
    let mut peer = server.peer("client").await;
    peer.send(&introduced(1)).await;
    assert_eq!(peer.status(1).await, Some(400));
    peer.send(&[introduction(8000), introduced(2)].concat())
        .await;
    assert_eq!(peer.status(2).await, Some(200));
    assert!(peer.is_ended_by(&introduction(10)).await, "a second one");
    for (case, bytes) in [
        ("too long", introduction(16 * 1024)),
        ("of a stream", frame(INTRODUCTION, 0, 1, b"\x01a\x01b")),
        ("half of one", frame(INTRODUCTION, 0, 0, b"\x01a")),
        (
            "no header's value",
            frame(INTRODUCTION, 0, 0, b"\x01\n\x01b"),
        ),
    ] {
        let mut peer = server.peer("client").await;
        assert!(peer.is_ended_by(&bytes).await, "{case}");
    }
    server.end().await;
}

/// Class: a body beyond its window. Limit: 256 KiB that nobody took. Outcome: the connection ends.
#[tokio::test]
async fn more_of_a_body_than_was_asked_for_ends_the_connection() {
    let server = Server::start(json!({})).await;
    let mut peer = server.peer("client").await;
    peer.send(&frame(HEAD, 0, 1, &head("POST", "/slow", &[])))
        .await;
    let part = frame(DATA, 0, 1, &[0; 64 * 1024]);
    let mut parts = 0;
    while parts < 10_000 && peer.send(&part).await {
        parts += 1;
    }
    assert!(parts < 10_000, "a body that nobody takes has no end");
    server.end().await;
}

/// Class: a peer that reads nothing. Limits: 256 KiB of each body, 128 KiB waiting to be written. Outcome: the upstream is held back.
#[tokio::test]
async fn a_peer_that_reads_nothing_holds_the_upstream_back() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
                let _ = stream.write_all(endless).await;
                let chunk = vec![b'x'; 64 * 1024];
                while stream.write_all(&chunk).await.is_ok() {
                    counter.fetch_add(chunk.len(), Ordering::Relaxed);
                }
            });
        }
    });
    let root = Root::new();
    let proxy = start_with(
        mtls::inbound(app),
        Some(root.workload("server")),
        |config| {
            config.concurrency = 1;
        },
    )
    .await;
    let mut peer = Peer::connect(&proxy, &root.workload("client"), ALPN).await;
    let asked: Vec<u8> = (1..=20).flat_map(|stream| ask(stream, "/")).collect();
    peer.send(&asked).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let first = sent.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = sent.load(Ordering::Relaxed);
    // Twenty bodies, each with its window and the socket buffers of a connection.
    assert!(
        first == second && second < 20 * 8 * 1024 * 1024,
        "{first} {second}"
    );
    drop(peer);
    proxy.handle.shutdown().await;
}

/// Class: smuggling through frames. Outcome: what would frame a body in HTTP/1 is refused, and a length that lies never reaches the application
/// as a whole request.
#[tokio::test]
async fn what_frames_a_body_in_http1_is_refused() {
    let server = Server::start(json!({})).await;
    let mut peer = server.peer("client").await;
    let mut stream = 0;
    for (method, fields) in [
        ("POST", vec![("transfer-encoding", "chunked")]),
        ("POST", vec![("connection", "close")]),
        (
            "GET",
            vec![("connection", "upgrade"), ("upgrade", "websocket")],
        ),
        (
            "POST",
            vec![("content-length", "5"), ("content-length", "6")],
        ),
        ("POST", vec![("content-length", "+5")]),
        ("GET", vec![("a", "b\r\nc: d")]),
        ("GET", vec![("a b", "c")]),
        ("GET", vec![("A", "c")]),
        ("GET", vec![("host", "other")]),
        ("CONNECT", vec![]),
    ] {
        stream += 1;
        let head = head(method, "/open", &fields);
        peer.send(&frame(HEAD, END, stream, &head)).await;
        assert_eq!(peer.status(stream).await, Some(400), "{method} {fields:?}");
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    for (length, body) in [("3", "too long"), ("100", "too short")] {
        stream += 1;
        let head = head("POST", "/read", &[("content-length", length)]);
        let bytes = [
            frame(HEAD, 0, stream, &head),
            frame(DATA, END, stream, body.as_bytes()),
        ];
        peer.send(&bytes.concat()).await;
        let status = peer.status(stream).await;
        assert!(
            status.is_none_or(|status| status >= 400),
            "{length}: {status:?}"
        );
    }
    server.end().await;
}
