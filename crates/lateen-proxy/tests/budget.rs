//! What the hot paths may cost, in allocations: counts, not seconds, so that any machine can hold a change to them.
//!
//! A number here may go down. One that has to go up is a decision, made in the commit that raises it; `docs/performance.md` says
//! how the cost of a change is looked into.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use support::{cluster, filter, hcm, listener, route_to, start_with};

/// Counts what is allocated by threads that do not opt out.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A host on a thread of its own: answers every head with `answer`, or echoes if that is empty.
fn host(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        UNCOUNTED.set(true);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                UNCOUNTED.set(true);
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let answer = if answer.is_empty() {
                        &buffer[..n]
                    } else {
                        answer
                    };
                    stream.write_all(answer).unwrap();
                }
            });
        }
    });
    address
}

/// Allocations of the proxy for each of many exchanges on one connection, the first ones left out.
fn per_exchange(proxy: SocketAddr, question: &[u8], end: &[u8]) -> f64 {
    const MANY: u32 = 500;
    let mut stream = TcpStream::connect(proxy).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut exchange = || {
        stream.write_all(question).unwrap();
        let mut have = 0;
        while !buffer[..have].ends_with(end) {
            let n = stream.read(&mut buffer[have..]).unwrap();
            assert!(
                n > 0,
                "the proxy closed: {}",
                String::from_utf8_lossy(&buffer[..have])
            );
            have += n;
        }
    };
    for _ in 0..50 {
        exchange();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..MANY {
        exchange();
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / f64::from(MANY)
}

/// Allocations of the proxy for each of many requests on one HTTP/2 connection, the first ones left out.
fn per_request_h2(proxy: SocketAddr) -> f64 {
    const MANY: u32 = 500;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut before = 0;
        for at in 0..MANY + 50 {
            if at == 50 {
                before = ALLOCATIONS.load(Ordering::Relaxed);
            }
            let request = http::Request::get("http://a.example/path")
                .header("user-agent", "test")
                .body(())
                .unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let mut body = response.await.unwrap().into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
        }
        (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / f64::from(MANY)
    })
}

/// Holds a cost to its budget, and says so when there is room for a smaller one.
fn hold(what: &str, cost: f64, budget: f64) {
    println!("{what}: {cost:.1} allocations, budget {budget}");
    assert!(
        cost <= budget,
        "{what} costs {cost:.1} allocations, the budget is {budget}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn hot_paths_stay_within_their_budgets() {
    UNCOUNTED.set(true);
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";
    let web = host(ANSWER);
    let echo = host(b"");
    let proxy = filter(
        "tcp",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": "echo",
        }),
    );
    let list = vec![
        listener(
            "web",
            json!([{"filters": [hcm(route_to("web", json!({"timeout": "15s"})), json!({"codec_type": "HTTP1"}))]}]),
        ),
        listener(
            "web2",
            json!([{"filters": [hcm(route_to("web", json!({"timeout": "15s"})), json!({"codec_type": "HTTP2"}))]}]),
        ),
        listener("tcp", json!([{"filters": [proxy]}])),
        cluster("web", &[web], json!({})),
        cluster("echo", &[echo], json!({})),
    ];
    let proxy = start_with(list, None, |config| config.concurrency = 1).await;
    let (web, tcp) = (proxy.address("web"), proxy.address("tcp"));
    let web2 = proxy.address("web2");
    let (http1, http2, bytes) = tokio::task::spawn_blocking(move || {
        UNCOUNTED.set(true);
        let question =
            b"GET /path HTTP/1.1\r\nhost: a.example\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
        let http1 = per_exchange(web, question, b"hello");
        let http2 = per_request_h2(web2);
        (http1, http2, per_exchange(tcp, b"question", b"question"))
    })
    .await
    .unwrap();
    hold("an HTTP/1.1 request", http1, HTTP1);
    hold("an HTTP/2 request", http2, HTTP2);
    hold("a TCP message", bytes, TCP);
}

/// Allocations of an HTTP/1.1 request and its answer, on kept connections.
const HTTP1: f64 = 17.2;
/// Allocations of an HTTP/2 request to an HTTP/1.1 host and its answer; one of them is tokio's, for futures as large as unoptimised builds
/// make them.
const HTTP2: f64 = 27.1;
/// Allocations of a message each way on a TCP connection.
const TCP: f64 = 0.1;
