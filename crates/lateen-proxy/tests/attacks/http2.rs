//! Floods and smuggling over HTTP/2.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, connect, frame, get, indexed, literal, parse, remembered,
};
use super::*;

/// Whether the other side has ended the connection, in whatever way, within five seconds.
async fn ended(stream: &mut TcpStream) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .is_ok()
}

async fn serves_others(proxy: &Running) {
    assert_eq!(support::get(proxy.address("in"), "/other").await.0, 200);
}

fn h2() -> Value {
    json!({"codec_type": "AUTO"})
}

/// Class: rapid reset (CVE-2023-44487). Limit: 500 requests taken back within a second of their arrival, if they are most of all. Outcome:
/// the connection ends, and the upstream has not seen many times as many requests.
#[tokio::test]
async fn a_connection_that_takes_its_requests_back_is_ended() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let backend = backend(move |request| {
        let counter = Arc::clone(&counter);
        async move {
            if request.uri().path() != "/other" {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            text("ok")
        }
    })
    .await;
    let proxy = guarded(backend, h2()).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    for request in 0..5000_u32 {
        let id = request * 2 + 1;
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, id, &get("/slow"));
        let reset = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
        if stream.write_all(&headers).await.is_err() {
            break;
        }
        // Now and then it waits, so that requests are accepted before they are taken back.
        if request % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if stream.write_all(&reset).await.is_err() {
            break;
        }
    }
    assert!(ended(&mut stream).await);
    assert!(asked.load(Ordering::Relaxed) < 1500, "{asked:?}");
    serves_others(&proxy).await;
    proxy.handle.shutdown().await;
}

/// Class: resets that a client causes (CVE-2025-8671). Limit: as for those of its own. Outcome: the connection ends.
#[tokio::test]
async fn a_connection_that_has_its_requests_reset_is_ended() {
    let backend = backend(|_| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        text("ok")
    })
    .await;
    let proxy = guarded(backend, h2()).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    let mut wrote = 0;
    for request in 0..5000_u32 {
        let id = request * 2 + 1;
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, id, &get("/slow"));
        let wrong = frame(WINDOW_UPDATE, 0, id, &[0; 4]);
        if stream.write_all(&[headers, wrong].concat()).await.is_err() {
            break;
        }
        wrote += 1;
        if request % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert!(ended(&mut stream).await, "{wrote} requests were taken");
    assert!(wrote < 5000, "it went on to the end");
    proxy.handle.shutdown().await;
}

/// Class: CONTINUATION flood (CVE-2024-27919). Limit: 60 KiB of decoded head. Outcome: the connection ends.
#[tokio::test]
async fn a_head_without_end_is_not_gathered() {
    let (backend, _) = recorder(OK).await;
    let proxy = guarded(backend, h2()).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    let field = literal(b"x-a", &[b'v'; 8000]);
    let _ = stream
        .write_all(&frame(HEADERS, END_STREAM, 1, &get("/")))
        .await;
    let mut sent = 0;
    for _ in 0..5000 {
        if stream
            .write_all(&frame(CONTINUATION, 0, 1, &field))
            .await
            .is_err()
        {
            break;
        }
        sent += field.len();
    }
    assert!(ended(&mut stream).await, "{sent} bytes were taken");
    serves_others(&proxy).await;
    proxy.handle.shutdown().await;
}

/// Class: empty CONTINUATION frames. Outcome: the connection ends.
#[tokio::test]
async fn empty_continuations_are_not_counted_forever() {
    let (backend, _) = recorder(OK).await;
    let proxy = guarded(backend, h2()).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    let _ = stream
        .write_all(&frame(HEADERS, END_STREAM, 1, &get("/")))
        .await;
    for _ in 0..20_000 {
        if stream
            .write_all(&frame(CONTINUATION, 0, 1, &[]))
            .await
            .is_err()
        {
            break;
        }
    }
    assert!(ended(&mut stream).await);
    serves_others(&proxy).await;
    proxy.handle.shutdown().await;
}

/// Class: HPACK bombs, cookie crumbs (CVE-2026-47774). Limit: 60 KiB of decoded head. Outcome: the request is refused, though it is small on
/// the wire, and never reaches the upstream.
#[tokio::test]
async fn heads_are_measured_decoded() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, h2()).await;
    for name in [&b"cookie"[..], b"x-bomb"] {
        let mut stream = connect(proxy.address("in"), &[]).await;
        let value = vec![b'c'; 3000];
        let mut block = get("/");
        block.extend(remembered(name, &value));
        for _ in 0..3000 {
            block.extend(indexed(62));
        }
        assert!(block.len() < 10_000, "small on the wire");
        stream
            .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))
            .await
            .unwrap();
        let received = parse(&read_all(&mut stream).await);
        let refused = received
            .iter()
            .any(|(kind, ..)| matches!(*kind, RST_STREAM | GOAWAY | HEADERS));
        assert!(refused, "{received:?}");
    }
    assert_eq!(text_of(&seen), "");
    serves_others(&proxy).await;
    proxy.handle.shutdown().await;
}

/// Class: cookie crumbs towards HTTP/1.1. Outcome: the upstream gets one `cookie` (RFC 9113 section 8.2.3).
#[tokio::test]
async fn crumbs_are_one_cookie_upstream() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, h2()).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    let block = [
        get("/"),
        literal(b"cookie", b"a=1"),
        literal(b"cookie", b"b=2"),
    ]
    .concat();
    stream
        .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))
        .await
        .unwrap();
    read_all(&mut stream).await;
    assert!(
        text_of(&seen).contains("cookie: a=1; b=2\r\n"),
        "{}",
        text_of(&seen)
    );
    proxy.handle.shutdown().await;
}

/// Class: exhaustion by headers. Limit: 100 headers. Outcome: 431.
#[tokio::test]
async fn headers_are_bounded_in_number() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, h2()).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    let mut block = get("/");
    for n in 0..101 {
        block.extend(literal(format!("x-{n}").as_bytes(), b"v"));
    }
    stream
        .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))
        .await
        .unwrap();
    let received = parse(&read_all(&mut stream).await);
    assert!(
        received
            .iter()
            .any(|(kind, stream, _)| *kind == HEADERS && *stream == 1),
        "{received:?}"
    );
    assert_eq!(text_of(&seen), "");
    proxy.handle.shutdown().await;
}

/// Class: SETTINGS, PING, WINDOW_UPDATE and empty DATA floods by a client that reads nothing. Limit: answers are not queued without end.
/// Outcome: the connection stalls or ends, and others are served.
#[tokio::test]
async fn floods_of_control_frames_hold_up_nobody_else() {
    let (backend, _) = recorder(OK).await;
    let proxy = guarded(backend, h2()).await;
    let setting = [0, 3, 0, 0, 0, 100];
    for (kind, stream_id, payload) in [
        (SETTINGS, 0, setting.to_vec()),
        (PING, 0, vec![0; 8]),
        (WINDOW_UPDATE, 0, 1_u32.to_be_bytes().to_vec()),
    ] {
        let mut stream = connect(proxy.address("in"), &[]).await;
        let flood = frame(kind, 0, stream_id, &payload).repeat(1000);
        let writing = async {
            for _ in 0..200 {
                if stream.write_all(&flood).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), writing).await;
        serves_others(&proxy).await;
    }
    let mut stream = connect(proxy.address("in"), &[]).await;
    let _ = stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &get("/")))
        .await;
    let flood = frame(DATA, 0, 1, &[]).repeat(1000);
    let writing = async {
        for _ in 0..100 {
            if stream.write_all(&flood).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), writing).await;
    serves_others(&proxy).await;
    proxy.handle.shutdown().await;
}

/// Class: window abuse. Limit: what is buffered for a stream whose window is shut is bounded. Outcome: the upstream is held back.
#[tokio::test]
async fn a_shut_window_holds_the_upstream_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
                let _ = stream.write_all(head).await;
                let chunk = vec![b'x'; 64 * 1024];
                while stream.write_all(&chunk).await.is_ok() {
                    counter.fetch_add(chunk.len(), Ordering::Relaxed);
                }
            });
        }
    });
    let proxy = guarded(backend, h2()).await;
    let shut = [0, 4, 0, 0, 0, 0];
    let mut stream = connect(proxy.address("in"), &shut).await;
    for n in 0..20_u32 {
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &get("/big"));
        stream.write_all(&headers).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = sent.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = sent.load(Ordering::Relaxed);
    assert!(
        first == second && second < 20 * 10 * 1024 * 1024,
        "{first} {second}"
    );
    proxy.handle.shutdown().await;
}

/// Class: stream churn. Limit: the connection manager's `max_concurrent_streams`. Outcome: streams beyond it are refused.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let backend = backend(|_| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        text("ok")
    })
    .await;
    let options =
        json!({"codec_type": "AUTO", "http2_protocol_options": {"max_concurrent_streams": 10}});
    let proxy = guarded(backend, options).await;
    let mut stream = connect(proxy.address("in"), &[]).await;
    for n in 0..20_u32 {
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &get("/slow"));
        stream.write_all(&headers).await.unwrap();
    }
    let received = parse(&read_all(&mut stream).await);
    let refused = received
        .iter()
        .filter(|(kind, ..)| *kind == RST_STREAM)
        .count();
    let over = received.iter().any(|(kind, ..)| *kind == GOAWAY);
    assert!(refused >= 9 || over, "{received:?}");
    proxy.handle.shutdown().await;
}

/// Class: smuggling by downgrade to HTTP/1.1. Outcome: line breaks and NUL in any field, fields that speak of the connection, and bodies that
/// do not have the length they say reset the stream; nothing of them reaches the upstream.
#[tokio::test]
async fn what_http1_would_read_otherwise_is_not_downgraded() {
    let smuggled = b"v\r\nx-smuggled: 1";
    let named = |name: &[u8], value: &[u8]| {
        [
            indexed(2),
            indexed(6),
            literal(b":path", b"/"),
            literal(b":authority", b"a"),
            literal(name, value),
        ]
        .concat()
    };
    let pseudo = |method: &[u8], path: &[u8], authority: &[u8]| {
        [
            literal(b":method", method),
            indexed(6),
            literal(b":path", path),
            literal(b":authority", authority),
        ]
        .concat()
    };
    let cases = [
        ("line break in a value", named(b"x-a", smuggled)),
        ("NUL in a value", named(b"x-a", b"a\0b")),
        ("line break in a name", named(b"x-a: b\r\nx-smuggled", b"1")),
        ("upper case name", named(b"X-Smuggled", b"1")),
        ("colon in a name", named(b"x-smuggled:", b"1")),
        (
            "line break in the path",
            pseudo(b"GET", b"/ HTTP/1.1\r\nx-smuggled: 1", b"a"),
        ),
        (
            "space in the path",
            pseudo(b"GET", b"/ HTTP/1.1 x-smuggled", b"a"),
        ),
        (
            "line break in the method",
            pseudo(b"GET / HTTP/1.1\r\nx-smuggled: 1\r\n", b"/", b"a"),
        ),
        (
            "line break in the authority",
            pseudo(b"GET", b"/", b"a\r\nx-smuggled: 1"),
        ),
        ("transfer-encoding", named(b"transfer-encoding", b"chunked")),
        ("connection", named(b"connection", b"x-smuggled")),
        ("upgrade", named(b"upgrade", b"x-smuggled")),
        (
            "two paths",
            [
                pseudo(b"GET", b"/", b"a"),
                literal(b":path", b"/x-smuggled"),
            ]
            .concat(),
        ),
        (
            "pseudo-header after headers",
            [
                pseudo(b"GET", b"/", b"a"),
                literal(b"x-a", b"b"),
                literal(b":scheme", b"x-smuggled"),
            ]
            .concat(),
        ),
    ];
    for (name, block) in cases {
        let (backend, seen) = recorder(OK).await;
        let proxy = guarded(backend, h2()).await;
        let mut stream = connect(proxy.address("in"), &[]).await;
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        stream.write_all(&request).await.unwrap();
        read_all(&mut stream).await;
        let passed = text_of(&seen);
        assert!(
            !passed.to_ascii_lowercase().contains("x-smuggled"),
            "{name}: {passed}"
        );
        assert!(!passed.contains("chunked"), "{name}: {passed}");
        proxy.handle.shutdown().await;
    }
}

/// Class: bodies that are longer or shorter than they say (CVE-2026-48743). Outcome: the stream is reset; the upstream's connection is not
/// left with bytes that would be read as another request.
#[tokio::test]
async fn a_length_that_lies_is_not_passed_on() {
    for (length, body) in [
        ("3", &b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n"[..]),
        ("500", b"short"),
    ] {
        let (backend, seen) = recorder(OK).await;
        let proxy = guarded(backend, h2()).await;
        let mut stream = connect(proxy.address("in"), &[]).await;
        let block = [
            literal(b":method", b"POST"),
            indexed(6),
            literal(b":path", b"/"),
            literal(b":authority", b"a"),
            literal(b"content-length", length.as_bytes()),
        ]
        .concat();
        stream
            .write_all(&frame(HEADERS, END_HEADERS, 1, &block))
            .await
            .unwrap();
        stream
            .write_all(&frame(DATA, END_STREAM, 1, body))
            .await
            .unwrap();
        let received = parse(&read_all(&mut stream).await);
        assert!(
            received
                .iter()
                .any(|(kind, ..)| matches!(*kind, RST_STREAM | GOAWAY | HEADERS)),
            "{received:?}"
        );
        assert!(!text_of(&seen).contains("/admin"), "{}", text_of(&seen));
        proxy.handle.shutdown().await;
    }
}
