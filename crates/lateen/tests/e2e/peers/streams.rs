//! Traffic of every kind, kept up: requests over HTTP/1.1 and HTTP/2, gRPC streams, WebSockets. Counts what worked and tells what broke.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::grpc::{Client, text};

/// Between two messages or requests of one task.
const PAUSE: Duration = Duration::from_millis(25);
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are told; all are counted.
const TOLD: usize = 8;

#[derive(Default)]
struct Tally {
    ok: u64,
    failed: u64,
    told: Vec<String>,
}

type Tallies = Rc<RefCell<BTreeMap<&'static str, Tally>>>;

/// Keeps traffic up until standard input ends, and gives what became of it.
pub(super) async fn until_input_ends(http: &str, grpc: &str) -> Value {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut rest);
        stopping.cancel();
    });
    keep_up(http, grpc, stop).await
}

/// Keeps traffic up until it is stopped. Authorities are `HOST:PORT`; that of HTTP serves what httpbin does.
pub(crate) async fn keep_up(http: &str, grpc: &str, stop: CancellationToken) -> Value {
    let tallies = Tallies::default();
    let tasks = LocalSet::new();
    for _ in 0..3 {
        let (http, grpc) = (http.to_owned(), format!("http://{grpc}"));
        let with = || (tallies.clone(), stop.clone());
        let (own, stopping) = with();
        tasks.spawn_local(requests(own, stopping, http.clone(), false));
        let (own, stopping) = with();
        tasks.spawn_local(requests(own, stopping, http.clone(), true));
        let (own, stopping) = with();
        tasks.spawn_local(websocket(own, stopping, http));
        let (own, stopping) = with();
        tasks.spawn_local(grpc_stream(own, stopping, grpc.clone()));
        let (own, stopping) = with();
        tasks.spawn_local(grpc_unary(own, stopping, grpc));
    }
    tasks.await;
    let tallies = tallies.borrow();
    let parts = tallies.iter().map(|(kind, tally)| {
        let told = json!({"ok": tally.ok, "failed": tally.failed, "told": tally.told});
        ((*kind).to_owned(), told)
    });
    Value::Object(parts.collect())
}

fn note(tallies: &Tallies, kind: &'static str, outcome: &Result<(), String>) {
    let mut all = tallies.borrow_mut();
    let tally = all.entry(kind).or_default();
    match outcome {
        Ok(()) => tally.ok += 1,
        Err(why) => {
            tally.failed += 1;
            if tally.told.len() < TOLD {
                tally.told.push(why.clone());
            }
        }
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn in_time<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = tokio::time::timeout(PATIENCE, what).await;
    done.unwrap_or_else(|_| Err(format!("nothing within {PATIENCE:?}")))
}

/// A connection that sends one request after another.
enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    async fn open(authority: &str, second: bool) -> Result<Self, String> {
        let stream = TcpStream::connect(authority).await.map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        let io = TokioIo::new(stream);
        if second {
            let made = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, driver) = made.map_err(told)?;
            tokio::task::spawn_local(driver);
            return Ok(Self::Http2(sender));
        }
        let (sender, driver) = http1::handshake(io).await.map_err(told)?;
        tokio::task::spawn_local(driver);
        Ok(Self::Http1(sender))
    }

    /// Whether it still takes a request: the peer may have said that it will not.
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn request(&mut self, authority: &str) -> Result<(), String> {
        let request = match self {
            Self::Http1(_) => http::Request::get("/status/204").header("host", authority),
            Self::Http2(_) => http::Request::get(format!("http://{authority}/status/204")),
        };
        let request = request.body(Empty::new()).map_err(told)?;
        let response = match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let response = response.map_err(|error| format!("{error:?}"))?;
        let status = response.status().as_u16();
        response.into_body().collect().await.map_err(told)?;
        if status == 204 {
            return Ok(());
        }
        Err(format!("status {status}"))
    }
}

async fn requests(tallies: Tallies, stop: CancellationToken, authority: String, second: bool) {
    let kind = if second { "http/2" } else { "http/1.1" };
    let mut connection: Option<Connection> = None;
    while !stop.is_cancelled() {
        let exchange = async {
            let usable = match &mut connection {
                Some(connection) => connection.is_ready().await,
                None => false,
            };
            if !usable {
                connection = Some(Connection::open(&authority, second).await?);
            }
            let connection = connection.as_mut().ok_or("no connection")?;
            connection.request(&authority).await
        };
        let outcome = in_time(exchange).await;
        if outcome.is_err() {
            connection = None;
        }
        note(&tallies, kind, &outcome);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn grpc_unary(tallies: Tallies, stop: CancellationToken, url: String) {
    let mut client = Client::new(&url);
    while !stop.is_cancelled() {
        let said = in_time(async {
            let said = client.say("hello").await;
            said.map(drop)
                .map_err(|s| format!("{:?}: {}", s.code(), s.message()))
        });
        note(&tallies, "grpc unary", &said.await);
        tokio::time::sleep(PAUSE).await;
    }
}

/// One stream for the whole time; a broken one is a failure, and replaced.
async fn grpc_stream(tallies: Tallies, stop: CancellationToken, url: String) {
    let mut client = Client::new(&url);
    while !stop.is_cancelled() {
        let outcome = talk(&tallies, &stop, &mut client).await;
        if outcome.is_err() {
            note(&tallies, "grpc stream", &outcome);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn talk(
    tallies: &Tallies,
    stop: &CancellationToken,
    client: &mut Client,
) -> Result<(), String> {
    let opened = in_time(async { client.echo().await.map_err(told) });
    let (sender, mut echoes) = opened.await?;
    let mut turn = 0_u64;
    while !stop.is_cancelled() {
        turn += 1;
        let word = text(turn.to_string());
        in_time(async {
            let sent = sender.send(word.clone()).await;
            sent.map_err(|_| "the stream has ended".to_owned())?;
            match echoes.message().await {
                Ok(Some(echo)) if echo == word => Ok(()),
                Ok(other) => Err(format!("{other:?} in place of {turn}")),
                Err(status) => Err(format!(
                    "after {turn}: {:?}: {}",
                    status.code(),
                    status.message()
                )),
            }
        })
        .await?;
        note(tallies, "grpc stream", &Ok(()));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn websocket(tallies: Tallies, stop: CancellationToken, authority: String) {
    while !stop.is_cancelled() {
        let outcome = chat(&tallies, &stop, &authority).await;
        if outcome.is_err() {
            note(&tallies, "websocket", &outcome);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn chat(tallies: &Tallies, stop: &CancellationToken, authority: &str) -> Result<(), String> {
    let mut stream = in_time(upgraded(authority)).await?;
    let mut turn = 0_u64;
    while !stop.is_cancelled() {
        turn += 1;
        in_time(said_back(&mut stream, turn)).await?;
        note(tallies, "websocket", &Ok(()));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A WebSocket (RFC 6455) after its handshake.
async fn upgraded(authority: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(authority).await.map_err(told)?;
    let head = format!(
        "GET /websocket/echo HTTP/1.1\r\nhost: {authority}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.map_err(told)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.map_err(told)?);
    }
    if answer.starts_with(b"HTTP/1.1 101 ") {
        return Ok(stream);
    }
    Err(String::from_utf8_lossy(&answer).into_owned())
}

async fn said_back(stream: &mut TcpStream, turn: u64) -> Result<(), String> {
    let word = turn.to_string();
    let length = u8::try_from(word.len()).map_err(told)?;
    // The last fragment of a text, masked by zeros.
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend(word.as_bytes());
    stream.write_all(&frame).await.map_err(told)?;
    let mut echo = vec![0; 2 + word.len()];
    let read = stream.read_exact(&mut echo).await;
    read.map_err(|error| format!("after {turn}: {error}"))?;
    if echo.ends_with(word.as_bytes()) {
        return Ok(());
    }
    Err(format!("{echo:?} in place of {turn}"))
}
