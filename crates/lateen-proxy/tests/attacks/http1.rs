//! Request smuggling and exhaustion over HTTP/1.1.

use super::*;

/// A request inside another one's body.
const SECOND: &str = "GET /admin HTTP/1.1\r\nhost: a\r\nx-smuggled: 1\r\n\r\n";

/// What is wrong, the headers, and the body before [`SECOND`]. `WHOLE` is the body's length.
const FRAMINGS: &[(&str, &str, &str)] = &[
    (
        "TE and CL",
        "content-length: WHOLE\r\ntransfer-encoding: chunked",
        END,
    ),
    (
        "CL and TE",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        END,
    ),
    ("two lengths", "content-length: 0\r\ncontent-length: 60", ""),
    ("a list of lengths", "content-length: 0, 60", ""),
    ("a signed length", "content-length: +0", ""),
    ("an unknown coding", "transfer-encoding: xchunked", END),
    ("two codings", "transfer-encoding: gzip, chunked", END),
    (
        "chunked twice",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        END,
    ),
    (
        "chunked not last",
        "transfer-encoding: chunked, identity",
        END,
    ),
    (
        "coding with vertical tab",
        "transfer-encoding: \x0bchunked",
        END,
    ),
    ("space before colon", "content-length : 0", ""),
    ("obs-fold", "x-a: b\r\n content-length: 50", ""),
    ("NUL in a header", "x-a: b\0c", ""),
    ("bare CR in a header", "x-a: b\rcontent-length: 50", ""),
    ("chunk size with sign", CHUNKED, "+0\r\n\r\n"),
    ("chunk size with prefix", CHUNKED, "0x0\r\n\r\n"),
    (
        "chunk size overflow",
        CHUNKED,
        "10000000000000000\r\nab\r\n0\r\n\r\n",
    ),
    (
        "chunk longer than it says",
        CHUNKED,
        "2\r\nabXX\r\n0\r\n\r\n",
    ),
    (
        "line feed in chunk extension",
        CHUNKED,
        "2;\nx\r\nab\r\n0\r\n\r\n",
    ),
];
const CHUNKED: &str = "transfer-encoding: chunked";
/// The last chunk.
const END: &str = "0\r\n\r\n";

/// Class: request smuggling by disagreement about a body's length. Outcome: 4xx or 501, or one request that is framed anew; what follows is
/// never sent on as the client wrote it, and `/admin` never reaches the backend.
#[tokio::test]
async fn framings_that_can_be_read_in_two_ways_are_refused_or_made_one() {
    for (name, headers, before) in FRAMINGS {
        let headers = headers.replace("WHOLE", &(before.len() + SECOND.len()).to_string());
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{before}{SECOND}");
        let (backend, seen) = recorder(OK).await;
        let proxy = guarded(backend, json!({})).await;
        let answered = raw(proxy.address("in"), request.as_bytes()).await;
        let passed = text_of(&seen);
        assert!(
            !passed.contains("/admin") && !passed.contains("x-smuggled"),
            "{name}: {passed}"
        );
        let refused = answered.starts_with("HTTP/1.1 4") || answered.starts_with("HTTP/1.1 501");
        // What is read as one whole request is followed by another, which the proxy reads itself: its 403 is its own.
        let reframed = answers(&answered, 200) <= 1 && answers(&answered, 403) <= 1;
        assert!(
            refused || answered.is_empty() || reframed,
            "{name}: {answered}"
        );
        let headers = passed.to_ascii_lowercase();
        assert!(
            !(headers.contains("transfer-encoding:") && headers.contains("content-length:")),
            "{name}: {passed}"
        );
        proxy.handle.shutdown().await;
    }
}

/// Class: line terminators. Outcome: a bare LF ends a line, as RFC 9112 section 2.2 allows, and is never passed on: the upstream gets CRLF.
#[tokio::test]
async fn bare_line_feeds_are_not_passed_on() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, json!({})).await;
    let answered = raw(proxy.address("in"), b"GET /x HTTP/1.1\nhost: a\nx-a: b\n\n").await;
    let passed = text_of(&seen);
    if answers(&answered, 200) == 1 {
        assert!(passed.starts_with("GET /x HTTP/1.1\r\n"), "{passed}");
        assert!(!passed.replace("\r\n", "").contains('\n'), "{passed}");
    } else {
        assert!(
            answered.is_empty() || answered.starts_with("HTTP/1.1 400"),
            "{answered}"
        );
    }
    proxy.handle.shutdown().await;
}

/// Class: chunk extensions. Outcome: they are dropped, and 16 KiB of them end the connection.
#[tokio::test]
async fn chunk_extensions_are_dropped_and_bounded() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, json!({})).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let request = format!("{head}2;name=\"v\"\r\nab\r\n0;x=y\r\n\r\n");
    let answered = raw(proxy.address("in"), request.as_bytes()).await;
    assert_eq!(answers(&answered, 200), 1, "{answered}");
    assert!(!text_of(&seen).contains("name="), "{}", text_of(&seen));
    let request = format!("{head}2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(200 * 1024));
    let answered = raw(proxy.address("in"), request.as_bytes()).await;
    assert_eq!(answers(&answered, 200), 0, "{answered}");
    proxy.handle.shutdown().await;
}

/// Class: early data after an upgrade that is refused (CVE-2025-64763). Outcome: what follows the request is the next request, and goes
/// through routing and access control like any; the upstream gets nothing of it before it has agreed to the upgrade.
#[tokio::test]
async fn what_follows_a_refused_upgrade_is_a_request_of_its_own() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(
        backend,
        json!({"upgrade_configs": [{"upgrade_type": "websocket"}]}),
    )
    .await;
    let request = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
        GET /admin HTTP/1.1\r\nhost: a\r\nx-smuggled: 1\r\n\r\n";
    let answered = raw(proxy.address("in"), request.as_bytes()).await;
    let passed = text_of(&seen);
    assert!(passed.contains("/chat"), "{passed}");
    assert!(
        !passed.contains("/admin") && !passed.contains("x-smuggled"),
        "{passed}"
    );
    assert_eq!(answers(&answered, 200), 1, "{answered}");
    proxy.handle.shutdown().await;
}

/// Class: exhaustion by heads. Limits: 60 KiB and 100 headers. Outcome: 431.
#[tokio::test]
async fn heads_are_bounded_in_bytes_and_in_number() {
    let (backend, _) = recorder(OK).await;
    let proxy = guarded(backend, json!({})).await;
    let request = |headers: String| format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let many: String = (0..101).map(|n| format!("x-{n}: v\r\n")).collect();
    let answered = raw(proxy.address("in"), request(many).as_bytes()).await;
    assert!(answered.starts_with("HTTP/1.1 431"), "{answered}");
    let long = format!("x-long: {}\r\n", "v".repeat(61 * 1024));
    let answered = raw(proxy.address("in"), request(long).as_bytes()).await;
    assert!(answered.starts_with("HTTP/1.1 431"), "{answered}");
    let fine: String = (0..98).map(|n| format!("x-{n}: v\r\n")).collect();
    let answered = raw(proxy.address("in"), request(fine).as_bytes()).await;
    assert_eq!(answers(&answered, 200), 1, "{answered}");
    proxy.handle.shutdown().await;
}

/// Class: slow senders. Limit: `request_headers_timeout` of the connection manager. Outcome: the connection ends.
#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let (backend, _) = recorder(OK).await;
    let proxy = guarded(backend, json!({"request_headers_timeout": "0.3s"})).await;
    let mut stream = TcpStream::connect(proxy.address("in")).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-a: ")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .unwrap()
        .unwrap();
    proxy.handle.shutdown().await;
}

/// Class: requests without end ahead of their turn. Limit: 16 KiB are read, the rest waits with its sender. Outcome: it cannot send more than
/// sockets hold.
#[tokio::test]
async fn requests_ahead_of_their_turn_wait_with_their_sender() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = guarded(silent.local_addr().unwrap(), json!({})).await;
    let mut stream = TcpStream::connect(proxy.address("in")).await.unwrap();
    let many = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(4096);
    let mut sent = 0;
    let quiet = Duration::from_millis(500);
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(quiet, stream.write(many.as_bytes())).await {
        sent += n;
        assert!(sent < 20 << 20, "{sent} bytes were taken");
    }
    proxy.handle.shutdown().await;
}

/// Class: a body that nobody waits for. Limits: 1 s and 1 MiB after the answer. Outcome: the client is told, then the connection ends.
#[tokio::test]
async fn what_is_sent_after_an_answer_that_did_not_wait_for_it_has_an_end() {
    let (backend, _) = recorder(OK).await;
    let proxy = guarded(backend, json!({})).await;
    let mut stream = TcpStream::connect(proxy.address("in")).await.unwrap();
    let head = "POST /admin HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut sent = 0;
    let chunk = vec![b'x'; 64 * 1024];
    let ends = async {
        while let Ok(n @ 1..) = stream.write(&chunk).await {
            sent += n;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ends)
        .await
        .expect("the connection ends");
    assert!(sent < 40 << 20, "{sent} bytes were taken");
    proxy.handle.shutdown().await;
}

/// Class: slow readers. Limit: what is buffered for a client is bounded by flow control. Outcome: the upstream is held back.
#[tokio::test]
async fn a_client_that_does_not_read_holds_the_upstream_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
            .await;
        let chunk = vec![b'x'; 64 * 1024];
        while stream.write_all(&chunk).await.is_ok() {
            counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let proxy = guarded(backend, json!({})).await;
    let mut stream = TcpStream::connect(proxy.address("in")).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = sent.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = sent.load(std::sync::atomic::Ordering::Relaxed);
    // Socket buffers of two connections, and a little of the proxy's own.
    assert!(
        first == second && second < 40 * 1024 * 1024,
        "{first} {second}"
    );
    proxy.handle.shutdown().await;
}

/// Class: host confusion. Outcome: a request has one host, and routing and the upstream see the same.
#[tokio::test]
async fn a_request_has_one_host() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, json!({})).await;
    for head in [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
    ] {
        let answered = raw(proxy.address("in"), head.as_bytes()).await;
        assert!(answered.starts_with("HTTP/1.1 400"), "{head}: {answered}");
    }
    assert_eq!(text_of(&seen), "");
    let absolute = b"GET http://one.example/ HTTP/1.1\r\nhost: other.example\r\n\r\n";
    raw(proxy.address("in"), absolute).await;
    let passed = text_of(&seen);
    assert!(
        passed.contains("host: one.example") && !passed.contains("other.example"),
        "{passed}"
    );
    proxy.handle.shutdown().await;
}

/// Class: path confusion. Outcome: a rule for `/admin` holds however the path is spelt, as far as the configured normalisation goes, and a
/// path that is still ambiguous then is refused.
#[tokio::test]
async fn a_guarded_path_cannot_be_spelt_around() {
    let (backend, seen) = recorder(OK).await;
    let strict = json!({
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
    });
    let proxy = guarded(backend, strict).await;
    for path in [
        "/admin",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/%61dmin",
        "/x/..%2fadmin",
        "/x/..%5cadmin",
        "/x\\..\\admin",
        "/admin?x",
        "/admin#x",
        "/admin/../admin",
        "/x/.%2E/admin",
        "/%2fadmin",
        "http://a/admin",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answered = raw(proxy.address("in"), request.as_bytes()).await;
        let refused = ["403", "400", "307"]
            .iter()
            .any(|s| answered.starts_with(&format!("HTTP/1.1 {s}")));
        assert!(refused, "{path}: {answered}");
    }
    let passed = text_of(&seen);
    assert_eq!(passed, "", "nothing reached the backend");
    for path in ["/%00admin", "/\u{0}x"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answered = raw(proxy.address("in"), request.as_bytes()).await;
        assert!(answered.starts_with("HTTP/1.1 400"), "{path:?}: {answered}");
    }
    proxy.handle.shutdown().await;
}

/// Class: hop-by-hop abuse. Outcome: `Connection` cannot take away what the next hop relies on.
#[tokio::test]
async fn a_client_cannot_have_protected_headers_taken_away() {
    let (backend, seen) = recorder(OK).await;
    let proxy = guarded(backend, json!({"use_remote_address": true})).await;
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: mine\r\nx-drop: 1\r\n\
        connection: x-forwarded-for, x-forwarded-proto, authorization, x-drop, content-length, close\r\n\r\n";
    raw(proxy.address("in"), request).await;
    let passed = text_of(&seen);
    for kept in [
        "x-forwarded-for: 127.",
        "x-forwarded-proto: http",
        "authorization: mine",
    ] {
        assert!(passed.contains(kept), "{kept}: {passed}");
    }
    assert!(!passed.contains("x-drop"), "{passed}");
    proxy.handle.shutdown().await;
}
