//! Two ends of a connection over loopback, and what one can do to the other.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::frame::{self, Kind};
use super::introduction::Introduction;
use super::link::{Begun, Incoming, Link, Side};
use super::{Carries, Error, MOST_STREAMS, MOST_WINDOW, Tunnel, WINDOW, head};
use crate::streams::ends::{drive, pair, run};
use crate::streams::serving::Serving as _;
use crate::streams::upload::Upload;
use crate::streams::wire::Link as _;

/// A client, and its server, which does this with what is begun.
async fn served(mut begun: impl FnMut(&Rc<Link>, Begun) + 'static) -> (Rc<Link>, Rc<Link>) {
    let (near, far) = pair().await;
    let (client, server) = (
        Link::new(Side::Client, Carries::Http),
        Link::new(Side::Server, Carries::Http),
    );
    drive(&client, near, |_| panic!("servers begin no streams"));
    let own = Rc::clone(&server);
    drive(&server, far, move |stream| begun(&own, stream));
    (client, server)
}

/// A client whose server answers each request with its body, and 200.
async fn echo() -> (Rc<Link>, Rc<Link>) {
    served(|own, begun| {
        let id = begun.outgoing.id();
        let task = spawn_local(async move {
            let Begun {
                incoming, outgoing, ..
            } = begun;
            outgoing.respond(&Response::new(()).into_parts().0, false);
            let mut upload = Upload::new(outgoing, incoming);
            let _ = std::future::poll_fn(|cx| upload.poll(cx)).await;
        });
        own.cancels(id, task.abort_handle());
    })
    .await
}

fn request(body: usize) -> http::request::Parts {
    let request = Request::put("/").header("content-length", body);
    request.body(()).unwrap().into_parts().0
}

fn put(body: usize) -> impl FnOnce(&mut BytesMut, bool) {
    move |out, introduced| head::put_request(out, &request(body), introduced)
}

/// Sends a body and reads the answer's head.
async fn ask(client: &Rc<Link>, body: Bytes) -> Result<Incoming, Error> {
    let (mut incoming, outgoing) = client.begin(None, put(body.len()), body.is_empty())?;
    if let Some(outgoing) = outgoing {
        let mut upload = Upload::new(outgoing, Full::new(body));
        spawn_local(async move {
            let _ = std::future::poll_fn(|cx| upload.poll(cx)).await;
        });
    }
    let head = std::future::poll_fn(|cx| incoming.poll_head(cx)).await?;
    assert_eq!(
        head::response(head, 10, None).unwrap().status,
        StatusCode::OK
    );
    Ok(incoming)
}

#[test]
fn bodies_larger_than_what_may_be_under_way_go_both_ways_beside_each_other() {
    run(async {
        let (client, server) = echo().await;
        let bodies = (0..8_u8).map(|n| Bytes::from(vec![n; WINDOW as usize * 3 + usize::from(n)]));
        let asked = bodies.map(|body| {
            let client = Rc::clone(&client);
            spawn_local(async move {
                let answer = ask(&client, body.clone()).await.unwrap();
                assert_eq!(answer.collect().await.unwrap().to_bytes(), body);
            })
        });
        for asked in asked.collect::<Vec<_>>() {
            asked.await.unwrap();
        }
        assert_eq!(client.active(), 0);
        tokio::task::yield_now().await;
        assert_eq!(server.active(), 0);
    });
}

#[test]
fn an_answer_that_nobody_reads_stops_its_sender_and_no_other() {
    run(async {
        let (client, _server) = echo().await;
        let stuck = Bytes::from(vec![1; WINDOW as usize * 4]);
        let unread = ask(&client, stuck).await.unwrap();
        for _ in 0..20 {
            let answer = ask(&client, Bytes::from_static(b"hello")).await.unwrap();
            assert_eq!(answer.collect().await.unwrap().to_bytes(), "hello");
        }
        assert_eq!(client.active(), 1);
        drop(unread);
    });
}

#[test]
fn a_stream_that_is_given_up_ends_on_both_sides() {
    run(async {
        let (client, server) = echo().await;
        let (incoming, outgoing) = client.begin(None, put(10), false).unwrap();
        while server.active() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop((incoming, outgoing));
        while server.active() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(client.active(), 0);
        let answer = ask(&client, Bytes::from_static(b"next")).await.unwrap();
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "next");
    });
}

#[test]
fn more_streams_than_there_is_room_for_are_refused_and_harm_nobody() {
    run(async {
        let (client, server) = echo().await;
        let held: Vec<_> = (0..MOST_STREAMS)
            .map(|_| client.begin(None, put(1), false).unwrap())
            .collect();
        let refused = ask(&client, Bytes::from_static(b"x")).await;
        assert_eq!(refused.unwrap_err(), Error::Refused);
        drop(held);
        while server.active() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(ask(&client, Bytes::from_static(b"x")).await.is_ok());
    });
}

#[test]
fn a_connection_that_is_to_end_finishes_what_it_carries() {
    run(async {
        let (client, server) = echo().await;
        let (mut incoming, outgoing) = client.begin(None, put(5), false).unwrap();
        let _ = std::future::poll_fn(|cx| incoming.poll_head(cx)).await;
        server.go_away();
        while client.is_open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut upload = Upload::new(outgoing.unwrap(), Full::new(Bytes::from_static(b"whole")));
        assert!(std::future::poll_fn(|cx| upload.poll(cx)).await.is_ok());
        drop(upload);
        assert_eq!(incoming.collect().await.unwrap().to_bytes(), "whole");
        assert!(client.is_over());
    });
}

#[test]
fn a_body_that_is_not_as_long_as_its_head_says_is_an_error() {
    run(async {
        let (client, _server) = echo().await;
        let mut answer = ask(&client, Bytes::from_static(b"four")).await.unwrap();
        let mut says = HeaderMap::new();
        says.insert("content-length", HeaderValue::from_static("5"));
        answer.expect(&says, false).unwrap();
        let error = answer.collect().await.unwrap_err();
        assert_eq!(error, Error::Protocol("body is shorter than its head says"));
    });
}

#[test]
fn a_broken_connection_fails_what_it_carries() {
    run(async {
        let (near, far) = pair().await;
        let client = Link::new(Side::Client, Carries::Http);
        let ended = drive(&client, near, |_| ());
        let (mut incoming, _) = client.begin(None, put(0), true).unwrap();
        drop(far);
        assert!(
            std::future::poll_fn(|cx| incoming.poll_head(cx))
                .await
                .is_err()
        );
        assert_ne!(ended.await.unwrap(), Error::Reset);
        assert!(client.begin(None, put(0), true).is_err());
    });
}

#[test]
fn a_connection_that_was_silent_while_a_request_waited_is_not_used_again() {
    run(async {
        let (near, _far) = pair().await;
        let dead = Link::new(Side::Client, Carries::Http);
        drive(&dead, near, |_| ());
        let (live, _server) = echo().await;
        let waiting = [&dead, &live].map(|link| link.begin(None, put(1), false).unwrap());
        tokio::time::sleep(Duration::from_millis(1100)).await;
        // Bytes of another stream show that the peer is there, however long this one takes.
        assert!(ask(&live, Bytes::from_static(b"x")).await.is_ok());
        drop(waiting);
        assert!(!dead.is_open());
        assert!(live.is_open());
    });
}

/// What a server says to frames that a peer of ours would never send.
fn verdict(write: impl FnOnce(&mut BytesMut)) -> Error {
    let verdict = Rc::new(RefCell::new(None));
    let told = Rc::clone(&verdict);
    let mut bytes = BytesMut::new();
    write(&mut bytes);
    run(async move {
        let (near, far) = pair().await;
        let server = Link::new(Side::Server, Carries::Http);
        let held = Rc::new(RefCell::new(Vec::new()));
        let ended = drive(&server, far, move |begun| held.borrow_mut().push(begun));
        near.writable().await.unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            near.writable().await.unwrap();
            if let Ok(n) = near.try_write(&bytes[sent..]) {
                sent += n;
            }
        }
        *told.borrow_mut() = Some(ended.await.unwrap());
    });
    let verdict = verdict.borrow_mut().take();
    verdict.expect("a verdict")
}

fn begin(out: &mut BytesMut, id: u32) {
    frame::put(out, Kind::Head, id, false, |out| {
        head::put_request(out, &request(0), false);
    });
}

#[test]
fn what_breaks_a_rule_ends_the_connection() {
    let introduce = |out: &mut BytesMut| {
        frame::put(out, Kind::Introduction, 0, false, |out| {
            out.put_slice(b"\x01a\x01b");
        });
    };
    let cases: [(&str, Error); 9] = [
        (
            "introduced twice",
            verdict(|out| {
                introduce(out);
                introduce(out);
            }),
        ),
        (
            "half an introduction",
            verdict(|out| {
                frame::put(out, Kind::Introduction, 0, false, |out| {
                    out.put_slice(b"\x01a");
                });
            }),
        ),
        (
            "an introduction of a stream",
            verdict(|out| {
                begin(out, 1);
                frame::put(out, Kind::Introduction, 1, false, |out| {
                    out.put_slice(b"\x01a\x01b");
                });
            }),
        ),
        (
            "data of no stream",
            verdict(|out| frame::put(out, Kind::Data, 1, false, |out| out.put_u8(1))),
        ),
        (
            "begun twice",
            verdict(|out| {
                begin(out, 1);
                begin(out, 1);
            }),
        ),
        (
            "after the end",
            verdict(|out| {
                begin(out, 1);
                frame::put(out, Kind::Data, 1, true, |out| out.put_u8(1));
                frame::put(out, Kind::Data, 1, false, |out| out.put_u8(2));
            }),
        ),
        (
            "more than the window",
            verdict(|out| {
                begin(out, 1);
                let part = [0; frame::MOST_DATA];
                for _ in 0..=WINDOW as usize / part.len() {
                    frame::put(out, Kind::Data, 1, false, |out| out.put_slice(&part));
                }
            }),
        ),
        (
            "a window of nothing",
            verdict(|out| {
                begin(out, 1);
                frame::put(out, Kind::Window, 1, false, |out| out.put_u32(0));
            }),
        ),
        (
            "a window beyond all measure",
            verdict(|out| {
                begin(out, 1);
                frame::put(out, Kind::Window, 1, false, |out| out.put_u32(u32::MAX));
            }),
        ),
    ];
    for (case, verdict) in cases {
        assert!(matches!(verdict, Error::Protocol(_)), "{case}: {verdict:?}");
    }
}

/// A client whose server introduces itself as it was introduced to, and says in how many bytes it was asked.
async fn mirror() -> (Rc<Link>, Rc<Link>) {
    served(|own, begun| {
        let length = begun.head.len();
        let head = head::request(begun.head, 10, own.heard()).unwrap();
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.headers = head.headers;
        parts.headers.insert("length", length.into());
        begun.outgoing.respond(&parts, true);
    })
    .await
}

#[test]
fn who_a_peer_is_goes_over_a_connection_once() {
    let introduced = |metadata: &'static str| {
        let mut parts = Request::new(()).into_parts().0;
        let mut say = |name, value| parts.headers.insert(name, HeaderValue::from_static(value));
        say("x-envoy-peer-metadata", metadata);
        say("x-envoy-peer-metadata-id", "sidecar~10.0.0.1~a.b~b.svc");
        parts
    };
    run(async move {
        let (client, _server) = mirror().await;
        let mut lengths = Vec::new();
        for metadata in ["who", "who", "somebody else", "who"] {
            let asked = introduced(metadata);
            let introduction = Introduction::of(asked.headers.iter());
            let put = |out: &mut BytesMut, left_out| head::put_request(out, &asked, left_out);
            let (mut incoming, _) = client.begin(introduction, put, true).unwrap();
            let head = std::future::poll_fn(|cx| incoming.poll_head(cx)).await;
            let answer = head::response(head.unwrap(), 10, client.heard()).unwrap();
            let length = answer.headers["length"].to_str().unwrap().parse::<usize>();
            lengths.push(length.unwrap());
            for (name, value) in &asked.headers {
                assert_eq!(answer.headers[name], value);
            }
        }
        let bare = lengths[0];
        assert!(bare < 10, "{lengths:?}");
        assert_eq!(lengths[1], bare);
        assert!(lengths[2] > 80, "who is somebody else says so");
        assert_eq!(lengths[3], bare);
    });
}

/// Two ends of a connection that carries TCP; the server reads what it is sent if `reads`.
async fn carried(reads: bool) -> (Rc<Link>, Rc<Link>) {
    let (near, far) = pair().await;
    let client = Link::new(Side::Client, Carries::Tcp);
    let server = Link::new(Side::Server, Carries::Tcp);
    drive(&client, near, |_| panic!("servers begin no streams"));
    drive(&server, far, move |begun| {
        begun.outgoing.accept();
        spawn_local(async move {
            let mut tunnel = Tunnel::new(begun.incoming, begun.outgoing);
            let mut buffer = vec![0; 64 * 1024];
            if !reads {
                return std::future::pending().await;
            }
            while tunnel.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        });
    });
    (client, server)
}

/// What a peer may have under way, once it has sent so much or may send no more.
async fn under_way(reads: bool, bytes: usize) -> usize {
    let (client, _server) = carried(reads).await;
    let (incoming, outgoing) = client.begin_tunnel().unwrap();
    let mut tunnel = Tunnel::new(incoming, outgoing);
    let chunk = vec![0; 64 * 1024];
    let mut sent = 0;
    while sent < bytes {
        let write = tokio::time::timeout(Duration::from_millis(300), tunnel.write(&chunk)).await;
        match write {
            Ok(written) => sent += written.unwrap(),
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn a_transfer_whose_reader_keeps_up_is_given_more_room() {
    run(async {
        let (client, server) = carried(true).await;
        let (incoming, outgoing) = client.begin_tunnel().unwrap();
        let mut tunnel = Tunnel::new(incoming, outgoing);
        tunnel.write_all(&vec![0; 16 << 20]).await.unwrap();
        wait_until(|| server.window(1) == Some(MOST_WINDOW)).await;
        drop(tunnel);
        wait_until(|| server.window(1).is_none()).await;
    });
}

#[test]
fn a_reader_that_does_not_keep_up_is_sent_a_window_and_no_more() {
    run(async {
        let sent = under_way(false, 64 << 20).await;
        assert_eq!(sent, WINDOW as usize);
    });
}

#[test]
fn windows_of_a_worker_grow_by_so_much_together() {
    run(async {
        let (client, server) = carried(true).await;
        let mut open = Vec::new();
        for _ in 0..8 {
            let (incoming, outgoing) = client.begin_tunnel().unwrap();
            let mut tunnel = Tunnel::new(incoming, outgoing);
            tunnel.write_all(&vec![0; 16 << 20]).await.unwrap();
            open.push(tunnel);
        }
        let grown: u32 = (1..=8)
            .filter_map(|id| server.window(id))
            .map(|size| size - WINDOW)
            .sum();
        assert!(grown <= 16 << 20, "{grown}");
        assert!(grown > 8 << 20, "{grown}");
    });
}

async fn wait_until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
