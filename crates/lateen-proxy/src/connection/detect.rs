//! The listener filters: reading a connection's first bytes until they say what it speaks.

use std::time::Duration;

use bytes::BytesMut;
use lateen_traffic::Listener;
use lateen_traffic::listener::Inspection;
use lateen_traffic::request::TransportProtocol;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Facts, Refused};
use crate::inspect::{MAX_INSPECTED, Verdict, client_hello, http, proxy_protocol};

/// How detection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    /// All inspectors know, or there are none, or their time is over and the listener says to go on.
    Done,
    /// The client said nothing for the time given, and inspectors still wait.
    Silent,
}

/// The inspectors that run on a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Inspectors {
    proxy: Option<bool>,
    tls: bool,
    http: bool,
}

/// Reads into `seen` until the listener's inspectors know what the connection speaks. May be called again with what it has.
pub(super) async fn detect(
    tcp: &mut TcpStream,
    listener: &Listener,
    facts: &mut Facts,
    seen: &mut BytesMut,
    silence: Duration,
) -> Result<Detected, Refused> {
    let mut inspectors = Inspectors::of(listener, facts.local.port());
    if facts.direct_remote != facts.remote {
        inspectors.proxy = None; // its header was read in an earlier call
    }
    let deadline = listener
        .listener_filters_timeout
        .filter(|t| !t.is_zero())
        .map(|t| Instant::now() + t);
    loop {
        if !inspectors.inspect(seen, facts)? {
            return Ok(Detected::Done);
        }
        let wait = wait_of(deadline, silence, seen.is_empty());
        seen.reserve(2048);
        let read = tcp.read_buf(seen);
        let read = match wait {
            None => read.await,
            Some(wait) => match tokio::time::timeout(wait, read).await {
                Ok(read) => read,
                Err(_) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    return Ok(Detected::Silent);
                }
                Err(_) if listener.continue_on_listener_filters_timeout => {
                    return Ok(Detected::Done);
                }
                Err(_) => return Err(Refused::DetectionTimeout),
            },
        };
        match read {
            // What a half-closed client sent may still be a whole request of a protocol of its own.
            Ok(0) if !seen.is_empty() => return Ok(Detected::Done),
            Ok(0) | Err(_) => return Err(Refused::ClientGone),
            Ok(_) => {}
        }
    }
}

/// How long to wait for bytes: until the deadline, but only the time of silence while nothing came at all.
fn wait_of(deadline: Option<Instant>, silence: Duration, nothing_seen: bool) -> Option<Duration> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if nothing_seen && silence != Duration::MAX {
        return Some(left.map_or(silence, |left| left.min(silence)));
    }
    left
}

impl Inspectors {
    fn of(listener: &Listener, port: u16) -> Self {
        let Inspection {
            proxy_protocol,
            tls,
            http,
        } = listener.inspection(port);
        Self {
            proxy: proxy_protocol,
            tls,
            http,
        }
    }

    /// Looks at the bytes; whether more are needed. What is known is noted and not asked again.
    fn inspect(&mut self, seen: &mut BytesMut, facts: &mut Facts) -> Result<bool, Refused> {
        if let Some(allow_without) = self.proxy {
            match proxy_protocol::parse(seen) {
                Verdict::NeedMore => return Ok(true),
                Verdict::Found(header) => {
                    let _ = seen.split_to(header.length);
                    if let Some((source, destination)) = header.addresses {
                        facts.remote = source;
                        facts.local = destination;
                    }
                    self.proxy = None;
                }
                Verdict::NotThis if allow_without => self.proxy = None,
                Verdict::NotThis => return Err(Refused::NoProxyHeader),
            }
        }
        if self.tls && self.inspect_tls(seen, facts) {
            return Ok(true);
        }
        Ok(self.http && self.inspect_http(seen, facts))
    }

    fn inspect_tls(&mut self, seen: &BytesMut, facts: &mut Facts) -> bool {
        match client_hello::parse(seen) {
            Verdict::NeedMore => return seen.len() < MAX_INSPECTED,
            Verdict::Found(hello) => {
                facts.transport = TransportProtocol::Tls;
                facts.server_name = hello.server_name;
                let readable = hello
                    .protocols
                    .into_iter()
                    .filter_map(|p| String::from_utf8(p).ok());
                facts.protocols = readable.collect();
                self.http = false; // what is inside cannot be seen
            }
            Verdict::NotThis => {}
        }
        self.tls = false;
        false
    }

    fn inspect_http(&mut self, seen: &BytesMut, facts: &mut Facts) -> bool {
        match http::parse(seen) {
            Verdict::NeedMore => return seen.len() < MAX_INSPECTED,
            Verdict::Found(version) => {
                facts.protocols = vec![version.application_protocol().to_owned()]
            }
            Verdict::NotThis => {}
        }
        self.http = false;
        false
    }
}
