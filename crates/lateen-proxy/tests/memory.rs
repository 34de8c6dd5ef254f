//! What a connection holds while nobody uses it, in bytes of the heap: counts, so that any machine can hold a change to them.
//!
//! A budget here may go down. One that has to go up is a decision, made in the commit that raises it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/mtls.rs"]
mod mtls;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mtls::{inbound, outbound};
use support::identity::Root;
use support::start_with;

/// Counts the bytes of threads that do not opt out. What one thread frees for another is counted where it is freed.
struct Counting;

/// Bytes there are now.
static LIVE: AtomicI64 = AtomicI64::new(0);
/// Pieces there are now, by their size in steps of [`STEP`].
static PIECES: [AtomicI64; 1024] = [const { AtomicI64::new(0) }; 1024];
const STEP: usize = 128;

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count(size: usize, sign: i64) {
    if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
        LIVE.fetch_add(sign * i64::try_from(size).unwrap_or(0), Ordering::Relaxed);
        let at = (size / STEP).min(PIECES.len() - 1);
        PIECES[at].fetch_add(sign, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Connections that are held at once.
const MANY: usize = 100;
/// Bytes of the heap for one idle mTLS connection between two sidecars and the plain one that each of them has beside it.
const PAIR: i64 = 42_000;

/// An application that thinks for a moment before it answers, so that requests do not share connections.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        UNCOUNTED.set(true);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                UNCOUNTED.set(true);
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    std::thread::sleep(Duration::from_secs(2));
                    let body = "x".repeat(1024);
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    address
}

/// Makes connections that each carry a request at the same time as the others, and keeps them.
fn clients(proxy: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = || {
        let mut stream = TcpStream::connect(proxy).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
            .unwrap();
        stream
    };
    let mut all: Vec<TcpStream> = (0..count).map(|_| connect()).collect();
    for stream in &mut all {
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        while !read.ends_with(&[b'x'; 1024]) {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..n]);
        }
    }
    all
}

#[tokio::test(flavor = "current_thread")]
async fn idle_connections_stay_within_their_budget() {
    UNCOUNTED.set(true);
    let root = Root::new();
    let server = start_with(
        inbound(application()),
        Some(root.workload("server")),
        |config| config.concurrency = 1,
    )
    .await;
    let client = start_with(
        outbound(server.address("inbound"), "server"),
        Some(root.workload("client")),
        |config| config.concurrency = 1,
    )
    .await;
    let address = client.address("outbound");
    // What is made once is made before the count begins.
    let first = on_a_thread(move || clients(address, 1)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before: Vec<i64> = PIECES.iter().map(|p| p.load(Ordering::Relaxed)).collect();
    let bytes = LIVE.load(Ordering::Relaxed);
    let held = on_a_thread(move || clients(address, MANY)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (LIVE.load(Ordering::Relaxed) - bytes) / i64::try_from(MANY).unwrap();
    for (at, before) in before.iter().enumerate() {
        let new = PIECES[at].load(Ordering::Relaxed) - before;
        if new >= i64::try_from(MANY / 2).unwrap() {
            println!("{new} pieces of {} to {} bytes", at * STEP, (at + 1) * STEP);
        }
    }
    println!("{each} bytes for each of {MANY} connections, budget {PAIR}");
    assert!(each <= PAIR, "{each} bytes, the budget is {PAIR}");
    drop((first, held));
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(move || {
        UNCOUNTED.set(true);
        work()
    })
    .await
    .unwrap()
}
