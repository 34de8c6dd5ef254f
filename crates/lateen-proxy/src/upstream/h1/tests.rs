//! Connections to hosts that answer well, badly, in pieces, early or not at all.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::net::Prefixed;
use crate::upstream::UpstreamError;

/// A host that reads a head and answers with these pieces, for each connection, then closes it if told to.
async fn host(pieces: &'static [&'static [u8]], closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                while read_head(&mut stream).await.is_some() {
                    for piece in pieces {
                        stream.write_all(piece).await.unwrap();
                        stream.flush().await.unwrap();
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    if closes {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}

async fn connect(address: SocketAddr) -> Connection {
    let tcp = TcpStream::connect(address).await.unwrap();
    let stream = Stream::Plain(Prefixed::new(Bytes::new(), tcp));
    let wire = Rc::new(RefCell::new(Wire::new(stream, 100, false)));
    Connection {
        info: Rc::new(ConnectionFacts {
            local: None,
            peer: None,
            session: None,
            principal: Cell::default(),
            made: crate::clock::now(),
            requests: Cell::new(0),
            _open: None,
        }),
        wire,
    }
}

fn get() -> http::request::Builder {
    Request::get("/path?query").header("host", "a.example")
}

async fn answer(
    connection: &mut Connection,
    request: http::request::Builder,
) -> Result<(u16, Bytes), UpstreamError> {
    let request = request.body(RequestBody::Empty).unwrap();
    let response = connection
        .send(request)
        .await
        .map_err(|failed| failed.error)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, body))
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn responses_come_in_any_pieces_and_connections_carry_many() {
    local(async {
        let pieces: &[&[u8]] = &[
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHT",
            b"TP/1.1 200 OK\r\ncontent-le",
            b"ngth: 5\r\n\r\nhe",
            b"llo",
        ];
        let mut connection = connect(host(pieces, false).await).await;
        for _ in 0..3 {
            let (status, body) = answer(&mut connection, get()).await.unwrap();
            assert_eq!((status, &body[..]), (200, &b"hello"[..]));
            assert!(connection.is_usable());
        }
    })
    .await;
}

#[tokio::test]
async fn a_chunked_response_leaves_the_connection_usable() {
    local(async {
        let pieces: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            b"lo\r\n0\r",
            b"\n\r\n",
        ];
        let mut connection = connect(host(pieces, false).await).await;
        for _ in 0..2 {
            assert_eq!(answer(&mut connection, get()).await.unwrap().1, "hello");
        }
        assert!(connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn a_response_until_the_close_is_the_connections_last() {
    local(async {
        let mut connection =
            connect(host(&[b"HTTP/1.1 200 OK\r\n\r\nall", b" of it"], true).await).await;
        assert_eq!(answer(&mut connection, get()).await.unwrap().1, "all of it");
        assert!(!connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn bytes_after_a_response_answer_no_later_request() {
    local(async {
        let smuggled: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        ];
        let mut connection = connect(host(smuggled, false).await).await;
        assert_eq!(answer(&mut connection, get()).await.unwrap().1, "ok");
        assert!(!connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn bytes_that_come_between_two_requests_end_the_connection() {
    local(async {
        let late: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ];
        let mut connection = connect(host(late, false).await).await;
        assert_eq!(answer(&mut connection, get()).await.unwrap().1, "ok");
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn truncated_and_malformed_responses_are_errors() {
    local(async {
        type Case = (&'static [&'static [u8]], fn(&UpstreamError) -> bool);
        let cases: &[Case] = &[
            (
                &[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"],
                |e| matches!(e, UpstreamError::H1(Error::Closed)),
            ),
            (
                &[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhe"],
                |e| matches!(e, UpstreamError::H1(Error::Closed)),
            ),
            (
                &[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
                |e| matches!(e, UpstreamError::H1(Error::Chunked(_))),
            ),
            (&[b"HTTP/1.1 200"], |e| {
                matches!(e, UpstreamError::H1(Error::Closed))
            }),
            (&[b"220 mail.example ESMTP\r\n"], |e| {
                matches!(e, UpstreamError::H1(Error::Head))
            }),
            (&[b""], |e| matches!(e, UpstreamError::H1(Error::Closed))),
        ];
        for (pieces, expected) in cases {
            let mut connection = connect(host(pieces, true).await).await;
            let error = answer(&mut connection, get()).await.unwrap_err();
            assert!(expected(&error), "{pieces:?}: {error:?}");
            assert!(!connection.is_usable());
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_request_has_no_body_to_wait_for() {
    local(async {
        let mut connection =
            connect(host(&[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"], false).await).await;
        let head = Request::head("/").header("host", "a");
        assert_eq!(answer(&mut connection, head).await.unwrap().1, "");
        assert!(connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn an_abandoned_response_makes_the_connection_unusable() {
    local(async {
        let mut connection = connect(
            host(
                &[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1234"],
                false,
            )
            .await,
        )
        .await;
        let request = get().body(RequestBody::Empty).unwrap();
        drop(connection.send(request).await.unwrap());
        assert!(!connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn a_connection_the_host_closed_is_noticed_before_it_is_used() {
    local(async {
        let mut connection = connect(host(&[b"HTTP/1.1 204 No Content\r\n\r\n"], true).await).await;
        answer(&mut connection, get()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_hands_over_the_stream_with_what_was_read_of_it() {
    local(async {
        let pieces: &[&[u8]] = &[
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nfirst",
        ];
        let mut connection = connect(host(pieces, true).await).await;
        let request = get().header("upgrade", "x").header("connection", "upgrade");
        let request = request.body(RequestBody::Empty).unwrap();
        let response = connection.send(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let Some(Upgraded::Stream(mut stream)) = connection.upgrade() else {
            panic!("no stream");
        };
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"first");
    })
    .await;
}

#[tokio::test]
async fn a_promise_of_a_body_that_is_not_there_is_not_sent() {
    local(async {
        let mut connection = connect(host(&[], false).await).await;
        let request = get()
            .header("content-length", "5")
            .body(RequestBody::Empty)
            .unwrap();
        let failed = connection.send(request).await.unwrap_err();
        assert!(failed.unsent);
    })
    .await;
}
