//! HTTP/1 towards upstreams, seen from outside: bodies both ways at once, hosts that answer early, ambiguous answers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use support::{Running, cluster, hcm, listener, route_to, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A host that runs a script on each connection.
async fn host<F, S>(script: S) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(TcpStream) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    address
}

async fn until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let Ok(byte) = stream.read_u8().await else {
            break;
        };
        read.push(byte);
    }
    read
}

async fn proxy_to(host: SocketAddr) -> (Running, TcpStream) {
    let chains = json!([{"filters": [hcm(route_to("host", json!({})), json!({}))]}]);
    let list = vec![listener("in", chains), cluster("host", &[host], json!({}))];
    let proxy = start(list).await;
    let client = TcpStream::connect(proxy.address("in")).await.unwrap();
    (proxy, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_framed_as_it_came() {
    let host = host(|mut stream| async move {
        let head = until(&mut stream, b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap();
        let body = if head.contains("transfer-encoding: chunked") {
            until(&mut stream, b"0\r\n\r\n").await
        } else {
            let mut body = vec![0; 11];
            stream.read_exact(&mut body).await.unwrap();
            body
        };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let (_proxy, mut client) = proxy_to(host).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello world")
        .await
        .unwrap();
    let answer = until(&mut client, b"hello world").await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));

    let (_proxy, mut client) = proxy_to(host).await;
    client
        .write_all(
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        )
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = until(&mut client, b"5\r\nhello\r\n0\r\n\r\n").await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_does_not_wait_for_the_rest_of_the_request() {
    // Echoes: answers before it has read the request, and reads it while it answers.
    let host = host(|mut stream| async move {
        until(&mut stream, b"\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n")
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        let mut left = 300_000_u64;
        let mut buffer = vec![0; 4096];
        while left > 0 {
            let n = read.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the upload ended early");
            write.write_all(&buffer[..n]).await.unwrap();
            left -= n as u64;
        }
    })
    .await;
    let (_proxy, client) = proxy_to(host).await;
    let (mut read, mut write) = client.into_split();
    write
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(read.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 200"),
        "the head came before the body was sent"
    );
    let upload = tokio::spawn(async move {
        for _ in 0..300 {
            write.write_all(&[b'x'; 1000]).await.unwrap();
        }
        write
    });
    let mut echoed = vec![0; 300_000];
    tokio::time::timeout(Duration::from_secs(20), read.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    upload.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_long_body_reaches_the_client() {
    let host = host(|mut stream| async move {
        until(&mut stream, b"\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
            .await
            .unwrap();
    })
    .await;
    let (_proxy, mut client) = proxy_to(host).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\npart")
        .await
        .unwrap();
    let answer = until(&mut client, b"big").await;
    assert!(
        answer.starts_with(b"HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_answers_are_refused_and_answer_nobody_else() {
    for bad in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let host = host(move |mut stream| async move {
            until(&mut stream, b"\r\n\r\n").await;
            stream.write_all(bad.as_bytes()).await.unwrap();
            // Kept open: the proxy has to end it.
            until(&mut stream, b"never").await;
        })
        .await;
        let (_proxy, mut client) = proxy_to(host).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let head = until(&mut client, b"\r\n\r\n").await;
        assert!(
            head.starts_with(b"HTTP/1.1 503"),
            "{bad:?}: {}",
            String::from_utf8_lossy(&head)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_its_body_breaks_off_the_upstreams() {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let host = host(move |mut stream| {
        let told = told.clone();
        async move {
            until(&mut stream, b"\r\n\r\n").await;
            let rest = until(&mut stream, b"never").await;
            let _ = told.send(rest);
        }
    })
    .await;
    let (_proxy, mut client) = proxy_to(host).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    let rest = tokio::time::timeout(Duration::from_secs(5), heard.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "a body that broke off was passed off as complete"
    );
}

/// Bytes of which no two pages are the same.
fn bytes(length: u32) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_go_both_ways_as_they_are_on_one_connection() {
    let host = host(|mut stream| async move {
        loop {
            let head = String::from_utf8(until(&mut stream, b"\r\n\r\n").await).unwrap();
            let Some((_, length)) = head.split_once("content-length: ") else {
                return;
            };
            let length = length.split_once("\r\n").unwrap().0.parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    })
    .await;
    let (_proxy, mut client) = proxy_to(host).await;
    for length in [3_000_000, 5, 100_000, 40_000, 3_000_000] {
        let sent = bytes(length);
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&sent).await.unwrap();
        // Whoever reads late holds up the one who sends, and nothing else.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let head = until(&mut client, b"\r\n\r\n").await;
        assert!(head.starts_with(b"HTTP/1.1 200"));
        let mut came = vec![0; sent.len()];
        client.read_exact(&mut came).await.unwrap();
        assert!(
            came == sent,
            "{length} bytes were not the same on their way"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_that_breaks_off_breaks_off_the_clients() {
    let host = host(|mut stream| async move {
        until(&mut stream, b"\r\n\r\n").await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.write_all(&bytes(600_000)).await.unwrap();
    })
    .await;
    let (_proxy, mut client) = proxy_to(host).await;
    let question = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(question).await.unwrap();
    until(&mut client, b"\r\n\r\n").await;
    let mut came = Vec::new();
    // The end is a reset or a close, as the kernel has it.
    let _ = client.read_to_end(&mut came).await;
    assert!(came == bytes(600_000), "{} bytes came", came.len());
}
