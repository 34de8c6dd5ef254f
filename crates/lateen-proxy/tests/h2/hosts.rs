//! The other side: what RFC 9113 and RFC 7541 ask of a client, asked of our proxy by a host that speaks frame by frame.
//!
//! Every demand has a host and a cluster of its own, and one request. What comes of the request is looked at, and what the host is told.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::cases::{
    COMPRESSION_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PADDED, PROTOCOL_ERROR, PUSH_PROMISE,
    STREAM_CLOSED, WITH_PRIORITY,
};
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, indexed, literal, parse,
};
use super::support::*;

/// How long a host is listened to for what it has to be told.
const LONGEST: Duration = Duration::from_secs(8);

/// What becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// It is answered with 200 and `hello`.
    Answer,
    /// It is answered with an error of the proxy's, or its answer breaks off.
    Failure,
}

/// What the host is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    Nothing,
    /// Its ping comes back.
    Pong,
    /// The stream is reset for this reason, or the connection is.
    Stream(u32),
    /// The connection is ended for this reason.
    Connection(u32),
}

#[derive(Clone, Debug)]
struct Demand {
    section: &'static str,
    name: &'static str,
    /// What the host says before the request, and once it has read it.
    greeting: Vec<u8>,
    says: Vec<u8>,
    comes: Comes,
    told: Told,
}

fn head(fields: &[Vec<u8>]) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS,
        1,
        &[indexed(8), fields.concat()].concat(),
    )
}

fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

/// An answer to the first request.
fn answer() -> Vec<u8> {
    [head(&[]), data(END_STREAM, b"hello")].concat()
}

fn demand(
    section: &'static str,
    name: &'static str,
    says: &[Vec<u8>],
    comes: Comes,
    told: Told,
) -> Demand {
    Demand {
        section,
        name,
        greeting: frame(SETTINGS, 0, 0, &[]),
        says: says.concat(),
        comes,
        told,
    }
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&[0, id][..], &value.to_be_bytes()].concat(),
    )
}

fn demands() -> Vec<Demand> {
    [
        usual(),
        malformed(),
        unfinished(),
        broken(),
        demanding(),
        unreadable(),
        control(),
    ]
    .concat()
}

/// What any server may do.
fn usual() -> Vec<Demand> {
    let served =
        |section, name, says: &[Vec<u8>]| demand(section, name, says, Comes::Answer, Told::Nothing);
    let informed = frame(HEADERS, END_HEADERS, 1, &literal(b":status", b"103"));
    let parts = [
        frame(HEADERS, 0, 1, &indexed(8)),
        frame(CONTINUATION, 0, 1, &literal(b"x-a", b"a")),
        frame(CONTINUATION, END_HEADERS, 1, &literal(b"x-b", b"b")),
        data(END_STREAM, b"hello"),
    ];
    let trailers = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &literal(b"x-end", b"1"),
    );
    let padded = frame(
        HEADERS,
        END_HEADERS | PADDED,
        1,
        &[&[2][..], &indexed(8), &[0; 2]].concat(),
    );
    let weighted = frame(
        HEADERS,
        END_HEADERS | WITH_PRIORITY,
        1,
        &[&[0, 0, 0, 0, 9][..], &indexed(8)].concat(),
    );
    vec![
        served("8.1", "an answer", &[answer()]),
        served("8.1", "an interim answer before", &[informed, answer()]),
        served("8.1", "trailers", &[head(&[]), data(0, b"hello"), trailers]),
        served("6.10", "a head in parts", &parts),
        served(
            "6.1",
            "padding",
            &[padded, data(PADDED | END_STREAM, b"\x03hello\0\0\0")],
        ),
        served("6.2", "a priority", &[weighted, data(END_STREAM, b"hello")]),
        served(
            "5.5",
            "an unknown frame",
            &[frame(0xff, 7, 1, b"?"), answer()],
        ),
        served("6.5.2", "an unknown setting", &[setting(0xff, 1), answer()]),
        served(
            "6.8",
            "GOAWAY after the request",
            &[frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), answer()],
        ),
        served("6.3 (HPACK)", "a smaller table", &[setting(1, 0), answer()]),
        served(
            "4.2",
            "DATA without bytes",
            &[head(&[]), data(0, b""), data(END_STREAM, b"hello")],
        ),
    ]
}

/// The stream is reset.
fn refused(section: &'static str, name: &'static str, says: &[Vec<u8>]) -> Demand {
    let told = Told::Stream(PROTOCOL_ERROR);
    demand(section, name, says, Comes::Failure, told)
}

/// The connection is ended.
fn ended(section: &'static str, name: &'static str, says: &[Vec<u8>], code: u32) -> Demand {
    let told = Told::Connection(code);
    demand(section, name, says, Comes::Failure, told)
}

/// A message that is a head alone.
fn without(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
}

/// The head of an answer with a field.
fn with(name: &[u8], value: &[u8]) -> Vec<u8> {
    head(&[literal(name, value)])
}

fn rest() -> Vec<u8> {
    data(END_STREAM, b"hello")
}

/// Heads that a client may not take for those of answers (section 8.1.1).
fn malformed() -> Vec<Demand> {
    vec![
        refused("8.3.2", "no status", &[without(&literal(b"x-a", b"a"))]),
        refused(
            "8.3.2",
            "two statuses",
            &[without(&[indexed(8), indexed(8)].concat())],
        ),
        refused(
            "8.3.2",
            "a status that is none",
            &[without(&literal(b":status", b"2x0"))],
        ),
        refused(
            "8.6",
            "status 101",
            &[without(&literal(b":status", b"101"))],
        ),
        refused(
            "8.3",
            "a request's pseudo-header",
            &[with(b":path", b"/"), rest()],
        ),
        refused(
            "8.3",
            "a pseudo-header after a header",
            &[without(&[literal(b"x-a", b"a"), indexed(8)].concat())],
        ),
        refused("8.2.1", "an upper-case name", &[with(b"X-A", b"a"), rest()]),
        refused(
            "8.2.1",
            "a line break in a value",
            &[with(b"x-a", b"a\r\nx-b: b"), rest()],
        ),
        refused(
            "8.2.2",
            "connection",
            &[with(b"connection", b"close"), rest()],
        ),
        refused(
            "8.2.2",
            "transfer-encoding",
            &[with(b"transfer-encoding", b"chunked"), rest()],
        ),
    ]
}

/// Answers that are malformed beyond their heads.
fn unfinished() -> Vec<Demand> {
    vec![
        refused(
            "8.1.1",
            "less content than was said",
            &[with(b"content-length", b"9"), rest()],
        ),
        refused(
            "8.1.1",
            "more content than was said",
            &[with(b"content-length", b"2"), rest()],
        ),
        refused(
            "8.1",
            "an interim answer that ends",
            &[without(&literal(b":status", b"103"))],
        ),
        refused(
            "8.1",
            "a second head that does not end",
            &[head(&[]), data(0, b"h"), head(&[])],
        ),
        refused(
            "8.1",
            "a pseudo-header among the trailers",
            &[head(&[]), data(0, b"h"), without(&indexed(8))],
        ),
        refused("8.1", "DATA before the head", &[rest()]),
    ]
}

/// Frames that no server may send.
fn broken() -> Vec<Demand> {
    let promise = frame(
        PUSH_PROMISE,
        END_HEADERS,
        1,
        &[&[0, 0, 0, 2][..], &indexed(2)].concat(),
    );
    let long = vec![0; 16_385];
    vec![
        ended(
            "8.4",
            "a push that was declined",
            &[promise],
            PROTOCOL_ERROR,
        ),
        ended(
            "5.1.1",
            "a stream of the server's",
            &[frame(HEADERS, END_HEADERS, 2, &indexed(8))],
            PROTOCOL_ERROR,
        ),
        ended(
            "5.1",
            "HEADERS on an idle stream",
            &[frame(HEADERS, END_HEADERS, 3, &indexed(8))],
            PROTOCOL_ERROR,
        ),
        ended(
            "5.1",
            "DATA on an idle stream",
            &[frame(DATA, 0, 3, b"x")],
            PROTOCOL_ERROR,
        ),
        ended(
            "5.1",
            "RST_STREAM on an idle stream",
            &[frame(RST_STREAM, 0, 3, &[0; 4])],
            PROTOCOL_ERROR,
        ),
        ended(
            "4.2",
            "a frame that is too long",
            &[data(0, &long)],
            FRAME_SIZE_ERROR,
        ),
        ended(
            "6.5",
            "SETTINGS of 5 bytes",
            &[frame(SETTINGS, 0, 0, &[0; 5])],
            FRAME_SIZE_ERROR,
        ),
    ]
}

/// Settings and windows that no server may ask for.
fn demanding() -> Vec<Demand> {
    vec![
        ended(
            "6.5.2",
            "a server that allows pushes",
            &[setting(2, 1)],
            PROTOCOL_ERROR,
        ),
        ended(
            "6.5.2",
            "a window that is too large",
            &[setting(4, 0x8000_0000)],
            FLOW_CONTROL_ERROR,
        ),
        ended(
            "6.5.2",
            "a frame size that is too small",
            &[setting(5, 1)],
            PROTOCOL_ERROR,
        ),
        ended(
            "6.9",
            "WINDOW_UPDATE by nothing",
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            PROTOCOL_ERROR,
        ),
        ended(
            "6.9.1",
            "a window that overflows",
            &[frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            FLOW_CONTROL_ERROR,
        ),
    ]
}

/// Blocks and beginnings that are none.
fn unreadable() -> Vec<Demand> {
    vec![
        ended(
            "6.10",
            "CONTINUATION of nothing",
            &[frame(CONTINUATION, END_HEADERS, 1, &indexed(8))],
            PROTOCOL_ERROR,
        ),
        ended(
            "6.10",
            "a head that is interrupted",
            &[frame(HEADERS, 0, 1, &indexed(8)), data(0, b"x")],
            PROTOCOL_ERROR,
        ),
        ended(
            "6.1",
            "more padding than bytes",
            &[head(&[]), data(PADDED, &[9, 0])],
            PROTOCOL_ERROR,
        ),
        ended(
            "6.8",
            "GOAWAY of 4 bytes",
            &[frame(GOAWAY, 0, 0, &[0; 4])],
            FRAME_SIZE_ERROR,
        ),
        ended(
            "2.3.3 (HPACK)",
            "an index beyond the table",
            &[head(&[indexed(99)])],
            COMPRESSION_ERROR,
        ),
        ended(
            "6.3 (HPACK)",
            "a table larger than is allowed",
            &[frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe1, 0x7f, 0x88])],
            COMPRESSION_ERROR,
        ),
        Demand {
            greeting: frame(PING, 0, 0, &[0; 8]),
            ..ended("3.4", "no SETTINGS at first", &[answer()], PROTOCOL_ERROR)
        },
        Demand {
            greeting: b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec(),
            ..demand("3.4", "HTTP/1.1", &[], Comes::Failure, Told::Nothing)
        },
    ]
}

fn control() -> Vec<Demand> {
    let late = [answer(), data(END_STREAM, b"more")];
    vec![
        demand(
            "6.7",
            "PING",
            &[frame(PING, 0, 0, b"pingpong"), answer()],
            Comes::Answer,
            Told::Pong,
        ),
        demand(
            "5.1",
            "DATA after the end",
            &late,
            Comes::Answer,
            Told::Stream(STREAM_CLOSED),
        ),
        demand(
            "6.4",
            "RST_STREAM",
            &[frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])],
            Comes::Failure,
            Told::Nothing,
        ),
        demand(
            "7",
            "RST_STREAM for an unknown reason",
            &[frame(RST_STREAM, 0, 1, &[0, 0, 1, 0])],
            Comes::Failure,
            Told::Nothing,
        ),
        demand(
            "6.9.1",
            "more data than was asked for is never sent",
            &[setting(4, 0), answer()],
            Comes::Answer,
            Told::Nothing,
        ),
    ]
}

/// Serves one connection as a demand says, then tells what it heard.
async fn host(demand: Demand, listener: TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = vec![0; b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()];
    stream.read_exact(&mut heard).await.unwrap();
    heard.clear();
    let _ = stream.write_all(&demand.greeting).await;
    let is_request = |heard: &[u8]| parse(heard).iter().any(|(kind, ..)| *kind == HEADERS);
    while !is_request(&heard) && more(&mut stream, &mut heard).await {}
    let _ = stream.write_all(&demand.says).await;
    let _ = tokio::time::timeout(LONGEST, async {
        while !is_told(demand.told, &heard) && more(&mut stream, &mut heard).await {}
    })
    .await;
    heard
}

async fn more(stream: &mut TcpStream, heard: &mut Vec<u8>) -> bool {
    stream.read_buf(heard).await.is_ok_and(|count| count > 0)
}

fn is_told(told: Told, heard: &[u8]) -> bool {
    let says = |payload: &[u8], at: usize, wanted: u32| {
        payload.get(at..at + 4) == Some(&wanted.to_be_bytes()[..])
    };
    match told {
        Told::Nothing => true,
        Told::Pong => parse(heard)
            .iter()
            .any(|(kind, _, bytes)| *kind == PING && bytes == b"pingpong"),
        Told::Stream(reason) => parse(heard).iter().any(|(kind, _, bytes)| {
            (*kind == RST_STREAM && says(bytes, 0, reason))
                || (*kind == GOAWAY && says(bytes, 4, reason))
        }),
        Told::Connection(reason) => parse(heard)
            .iter()
            .any(|(kind, _, bytes)| *kind == GOAWAY && says(bytes, 4, reason)),
    }
}

/// One request; what came of it.
async fn ask(proxy: SocketAddr, at: usize) -> Comes {
    let request = Request::get(format!("/{at}/"))
        .header("host", "test.example")
        .body(Full::<Bytes>::default())
        .unwrap();
    let asked = async {
        let response = client(proxy).await.send_request(request).await.ok()?;
        let is_ok = response.status() == 200;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        (is_ok && body == "hello").then_some(())
    };
    match tokio::time::timeout(LONGEST, asked).await {
        Ok(Some(())) => Comes::Answer,
        Ok(None) => Comes::Failure,
        Err(_) => panic!("no end of request {at}"),
    }
}

fn route(at: usize) -> Value {
    json!({
        "match": {"prefix": format!("/{at}/")},
        "route": {"cluster": format!("host-{at}"), "timeout": "5s"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_held_to_the_rules_of_http2() {
    let (mut hosts, mut routes, mut list) = (Vec::new(), Vec::new(), Vec::new());
    for (at, demand) in demands().into_iter().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        list.push(cluster(
            &format!("host-{at}"),
            &[listener.local_addr().unwrap()],
            http2(),
        ));
        routes.push(route(at));
        hosts.push((demand.clone(), tokio::spawn(host(demand, listener))));
    }
    list.push(listener(
        "front",
        json!([{"filters": [hcm(json!(routes), json!({}))]}]),
    ));
    let proxy = start(list).await;
    let mut failed = Vec::new();
    for (at, (demand, host)) in hosts.into_iter().enumerate() {
        let came = ask(proxy.address("front"), at).await;
        let heard = tokio::time::timeout(LONGEST * 2, host)
            .await
            .unwrap()
            .unwrap();
        if came != demand.comes || !is_told(demand.told, &heard) {
            let (section, name) = (demand.section, demand.name);
            failed.push(format!(
                "FAIL {section} {name}: {came:?}, not {:?}; the host was to be told {:?} and heard {:?}",
                demand.comes,
                demand.told,
                parse(&heard)
            ));
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    proxy.handle.shutdown().await;
}
