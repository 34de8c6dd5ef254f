//! Our ends beside those of the `h2` crate, and what a peer can do to one of them frame by frame.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Settings;
use super::frame::{self, PREFACE, Reason, flag, kind};
use super::head::Limits;
use super::hpack::{Decoder, Encoder};
use super::link::{Begun, Incoming, Link};
use crate::streams::Error;
use crate::streams::ends::{drive, pair, run};
use crate::streams::upload::Upload;
use crate::streams::wire::{Link as _, Taken};

/// A server of ours that answers each request with its body and trailers of its own.
fn echo(socket: TcpStream, settings: Settings) -> Rc<Link> {
    let link = Link::server(settings);
    let own = Rc::clone(&link);
    drive(&link, socket, move |begun| {
        let id = begun.outgoing.id();
        let task = spawn_local(async move {
            let Begun {
                head,
                incoming,
                outgoing,
            } = begun;
            let mut headers = head.unwrap().headers;
            headers.remove("content-length");
            headers.insert("x-seen", "yes".parse().unwrap());
            outgoing.respond(StatusCode::OK, &headers, None, false);
            let mut upload = Upload::new(outgoing, incoming);
            let _ = std::future::poll_fn(|cx| upload.poll(cx)).await;
        });
        own.cancels(id, task.abort_handle());
    });
    link
}

/// A server of the `h2` crate that does the same.
fn their_echo(socket: TcpStream, window: u32) {
    spawn_local(async move {
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(window);
        builder.initial_connection_window_size(window);
        let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            spawn_local(async move {
                let response = Response::builder().header("x-seen", "yes").body(());
                let mut body = request.into_body();
                let mut out = respond.send_response(response.unwrap(), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    out.send_data(data, false).unwrap();
                }
                match body.trailers().await {
                    Ok(Some(trailers)) => out.send_trailers(trailers).unwrap(),
                    _ => out.send_data(Bytes::new(), true).unwrap(),
                }
            });
        }
    });
}

fn parts(headers: &[(&str, &str)]) -> http::request::Parts {
    let mut request = Request::put("http://a.example/path");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn put(encoder: &mut Encoder, out: &mut BytesMut) {
    super::head::put_request(encoder, out, &parts(&[]), None);
}

/// Sends a body with trailers and reads the answer's head.
async fn ask(client: &Rc<Link>, body: Bytes) -> Result<(HeaderMap, Incoming), Error> {
    let trailers = async {
        Some(Ok(HeaderMap::from_iter([(
            "x-end".parse().unwrap(),
            "1".parse().unwrap(),
        )])))
    };
    let body = Full::new(body).with_trailers(trailers);
    let (mut incoming, outgoing) = client.begin(put, false, false)?;
    let mut upload = Upload::new(outgoing.unwrap(), Box::pin(body));
    spawn_local(async move {
        let _ = std::future::poll_fn(|cx| upload.poll(cx)).await;
    });
    let (status, headers) = std::future::poll_fn(|cx| incoming.poll_head(cx)).await?;
    assert_eq!(status, StatusCode::OK);
    Ok((headers, incoming))
}

fn body(n: u8, length: usize) -> Bytes {
    Bytes::from(vec![n; length])
}

#[test]
fn our_client_and_the_crates_server_understand_each_other() {
    for window in [65_535, 1024 * 1024] {
        run(async {
            let (near, far) = pair().await;
            their_echo(far, window);
            let client = Link::client(Settings::default());
            drive(&client, near, |_| panic!("servers begin no streams"));
            let asked = (0..20_u8).map(|n| {
                let client = Rc::clone(&client);
                spawn_local(async move {
                    let body = body(n, usize::from(n) * 20_011);
                    let (headers, answer) = ask(&client, body.clone()).await.unwrap();
                    assert_eq!(headers["x-seen"], "yes");
                    let answer = answer.collect().await.unwrap();
                    assert_eq!(answer.trailers().unwrap()["x-end"], "1");
                    assert_eq!(answer.to_bytes(), body);
                })
            });
            for asked in asked.collect::<Vec<_>>() {
                asked.await.unwrap();
            }
            assert_eq!(client.active(), 0);
        });
    }
}

#[test]
fn the_crates_client_and_our_server_understand_each_other() {
    for window in [65_535, 1024 * 1024] {
        run(async {
            let (near, far) = pair().await;
            let server = echo(far, Settings::default());
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window);
            let (sender, connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
            spawn_local(connection);
            let asked = (0..20_u8).map(|n| {
                let mut sender = sender.clone();
                spawn_local(async move {
                    let body = body(n, usize::from(n) * 20_011);
                    let long = "v".repeat(usize::from(n) * 1500);
                    let request = Request::put("http://a.example/path").header("x-long", &long);
                    let (response, mut out) = sender
                        .send_request(request.body(()).unwrap(), false)
                        .unwrap();
                    out.send_data(body.clone(), false).unwrap();
                    let trailers = [("x-end".parse().unwrap(), "1".parse().unwrap())];
                    out.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
                    let response = response.await.unwrap();
                    assert_eq!(response.headers()["x-seen"], "yes");
                    assert!(response.headers().contains_key("date"));
                    assert_eq!(response.headers()["x-long"], long);
                    let (mut answer, mut read) = (response.into_body(), BytesMut::new());
                    while let Some(data) = answer.data().await {
                        let data = data.unwrap();
                        answer.flow_control().release_capacity(data.len()).unwrap();
                        read.extend_from_slice(&data);
                    }
                    assert_eq!(read, body);
                    assert_eq!(answer.trailers().await.unwrap().unwrap()["x-end"], "1");
                })
            });
            for asked in asked.collect::<Vec<_>>() {
                asked.await.unwrap();
            }
            tokio::task::yield_now().await;
            assert_eq!(server.active(), 0);
        });
    }
}

#[test]
fn an_answer_that_nobody_reads_stops_its_sender_and_no_other() {
    run(async {
        let (near, far) = pair().await;
        let small = Settings {
            stream_window: 100_000,
            ..Settings::default()
        };
        let _server = echo(far, small);
        let client = Link::client(small);
        drive(&client, near, |_| ());
        let (_, unread) = ask(&client, body(1, 1_500_000)).await.unwrap();
        for n in 0..20 {
            let (_, answer) = ask(&client, body(n, 5000)).await.unwrap();
            assert_eq!(answer.collect().await.unwrap().to_bytes(), body(n, 5000));
        }
        let read = unread.collect().await.unwrap().to_bytes();
        assert_eq!(read.len(), 1_500_000);
    });
}

#[test]
fn a_connection_that_is_told_to_end_finishes_what_it_carries() {
    run(async {
        let (near, far) = pair().await;
        let server = echo(far, Settings::default());
        let client = Link::client(Settings::default());
        drive(&client, near, |_| ());
        let (mut incoming, outgoing) = client.begin(put, false, false).unwrap();
        std::future::poll_fn(|cx| incoming.poll_head(cx))
            .await
            .unwrap();
        server.go_away();
        while client.is_open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut upload = Upload::new(outgoing.unwrap(), Full::new(body(7, 1000)));
        assert!(std::future::poll_fn(|cx| upload.poll(cx)).await.is_ok());
        assert_eq!(incoming.collect().await.unwrap().to_bytes(), body(7, 1000));
        while !server.is_over() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_peer_that_causes_many_answers_and_reads_them_is_served_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const PINGS: usize = 8000;
    run(async {
        let (near, far) = pair().await;
        let server = Link::server(Settings::default());
        drive(&server, far, |_| ());
        let (mut from, mut to) = near.into_split();
        let mut sent = BytesMut::from(PREFACE);
        frame::put(&mut sent, kind::SETTINGS, 0, 0, &[]);
        for _ in 0..PINGS {
            frame::put(&mut sent, kind::PING, 0, 0, b"pingpong");
        }
        spawn_local(async move { to.write_all(&sent).await.map(|()| to) });
        let (mut read, mut pongs) = (BytesMut::new(), 0);
        while pongs < PINGS {
            assert!(from.read_buf(&mut read).await.unwrap() > 0);
            while let Some(header) = frame::Header::read(&read)
                && read.len() >= frame::HEADER + header.length
            {
                pongs += usize::from(header.kind == kind::PING);
                let _ = read.split_to(frame::HEADER + header.length);
            }
        }
    });
}

/// What is put there comes out of a link by hand.
struct ByHand {
    link: Rc<Link>,
    encoder: Encoder,
    decoder: Decoder,
    begun: Vec<Begun>,
}

impl ByHand {
    fn server(settings: Settings) -> Self {
        let mut this = Self {
            link: Link::server(settings),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            begun: Vec::new(),
        };
        let mut hello = BytesMut::from(PREFACE);
        frame::put(&mut hello, kind::SETTINGS, 0, 0, &[]);
        this.give(&hello).unwrap();
        this.said();
        this
    }

    /// Gives it bytes.
    fn give(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut read = BytesMut::from(bytes);
        loop {
            match self.link.take(&mut read)? {
                Taken::More => return Ok(()),
                Taken::Frame => {}
                Taken::Begun(begun) => self.begun.push(begun),
            }
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, kind, flags, id, payload);
        self.give(&bytes)
    }

    fn request(&mut self, id: u32, headers: &[(&str, &str)], end: bool) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        let encoder = &mut self.encoder;
        frame::put_block(&mut bytes, id, end, frame::MOST, |out| {
            super::head::put_request(encoder, out, &parts(headers), None);
        });
        self.give(&bytes)
    }

    /// The frames it wrote: kind, stream, and the first number of the payload.
    fn said(&mut self) -> Vec<(u8, u32, Option<u32>)> {
        let mut out = BytesMut::new();
        let written = self.link.write(|pieces| {
            let before = out.len();
            pieces.iter().for_each(|piece| out.extend_from_slice(piece));
            std::task::Poll::Ready(Ok(out.len() - before))
        });
        assert!(written.is_ready());
        let mut frames = Vec::new();
        while let Some(header) = frame::Header::read(&out) {
            let whole = out.split_to(frame::HEADER + header.length);
            let payload = &whole[frame::HEADER..];
            if header.kind == kind::HEADERS {
                self.decoder.decode(payload, |_, _| ()).unwrap();
            }
            frames.push((
                header.kind,
                header.stream,
                payload.get(..4).and_then(frame::number),
            ));
        }
        frames
    }
}

#[test]
fn a_head_of_too_many_bytes_or_fields_is_told_and_its_fields_are_not_kept() {
    let limits = Limits {
        bytes: 1000,
        fields: 3,
    };
    let mut server = ByHand::server(Settings {
        limits,
        ..Settings::default()
    });
    let long = "v".repeat(900);
    server.request(1, &[("x-a", &long)], true).unwrap();
    let many = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
    server.request(3, &many, true).unwrap();
    server.request(5, &many[..3], true).unwrap();
    let heads: Vec<_> = server
        .begun
        .iter()
        .map(|begun| begun.head.as_ref().map(drop))
        .collect();
    use super::head::Refused;
    assert_eq!(
        heads,
        [Err(&Refused::TooLarge), Err(&Refused::TooMany), Ok(())]
    );
}

#[test]
fn more_data_than_may_be_under_way_is_refused() {
    let mut server = ByHand::server(Settings::default());
    server.request(1, &[], false).unwrap();
    let data = vec![0; frame::MOST];
    for _ in 0..64 {
        server.frame(kind::DATA, 0, 1, &data).unwrap();
    }
    assert!(server.frame(kind::DATA, 0, 1, &data).is_err());
    let said = server.said();
    assert_eq!(said.last().unwrap().0, kind::GOAWAY);
}

#[test]
fn data_for_nobody_does_not_use_the_connection_up() {
    let mut server = ByHand::server(Settings::default());
    server.request(1, &[], false).unwrap();
    server.begun.clear(); // both halves are dropped: the stream is given up
    assert_eq!(
        server.said(),
        [(kind::RST_STREAM, 1, Some(Reason::Internal as u32))]
    );
    let data = vec![0; frame::MOST];
    for _ in 0..500 {
        server.frame(kind::DATA, 0, 1, &data).unwrap();
    }
    let said = server.said();
    assert!(
        said.iter()
            .all(|(kind, id, _)| (*kind, *id) == (kind::WINDOW_UPDATE, 0))
    );
    let told: u32 = said.iter().filter_map(|(.., more)| *more).sum();
    assert!(told as usize >= 499 * frame::MOST - 1024 * 1024, "{told}");
}

#[test]
fn a_peer_that_reads_no_answers_is_not_read_from() {
    let mut server = ByHand::server(Settings::default());
    let mut pings = 0;
    while server.link.may_read() {
        server.frame(kind::PING, 0, 0, &[0; 8]).unwrap();
        pings += 1;
    }
    assert!(pings < 2000, "{pings}");
    server.said();
    assert!(server.link.may_read(), "it goes on once they were written");
}

#[test]
fn frames_that_move_nothing_are_bounded_in_time() {
    let mut server = ByHand::server(Settings::default());
    server.request(1, &[], false).unwrap();
    let taken = (0..200_000).find_map(|_| server.frame(kind::DATA, 0, 1, &[]).err());
    assert!(matches!(taken, Some(Error::Protocol(_))));
    let calm = Some((kind::GOAWAY, 0, Some(1)));
    assert_eq!(server.said().last().copied(), calm);
}

#[test]
fn a_stream_that_is_over_may_be_heard_of_for_a_while() {
    let mut server = ByHand::server(Settings::default());
    server.request(1, &[], false).unwrap();
    let begun = server.begun.pop().unwrap();
    begun
        .outgoing
        .respond(StatusCode::OK, &HeaderMap::new(), None, true);
    drop(begun); // the answer did not wait for the request
    let reset = (kind::RST_STREAM, 1, Some(Reason::None as u32));
    assert!(server.said().contains(&reset));
    server.frame(kind::DATA, 0, 1, b"late").unwrap();
    server
        .frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])
        .unwrap();
    server.request(1, &[], true).unwrap();
    assert_eq!(server.said(), []);
}

#[test]
fn fields_that_say_how_long_a_body_is_are_held_to_it() {
    for (length, data, refused) in [
        ("3", &b"abc"[..], false),
        ("3", b"ab", true),
        ("3", b"abcd", true),
        ("x", b"abc", true),
        ("-3", b"abc", true),
    ] {
        let mut server = ByHand::server(Settings::default());
        server
            .request(1, &[("content-length", length)], false)
            .unwrap();
        server.frame(kind::DATA, flag::END_STREAM, 1, data).unwrap();
        let reset = (kind::RST_STREAM, 1, Some(Reason::Protocol as u32));
        assert_eq!(server.said().contains(&reset), refused, "{length} {data:?}");
    }
}
