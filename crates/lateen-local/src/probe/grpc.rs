//! `grpc.health.v1.Health/Check`, by hand: two messages with one field each need no generated code.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// More than any answer; guards against a peer that is no health service.
const MAX_ANSWER: usize = 16 << 10;

/// Whether the service says that it serves.
pub(super) async fn is_serving(pod: IpAddr, port: u16, service: &str) -> bool {
    ask(pod, port, service)
        .await
        .is_some_and(|status| status == SERVING)
}

async fn ask(pod: IpAddr, port: u16, service: &str) -> Option<u64> {
    let stream = TcpStream::connect((pod, port)).await.ok()?;
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.ok()?;
    let authority = std::net::SocketAddr::new(pod, port);
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(encode(service)))
        .ok()?;
    let answer = async move {
        let answer = sender.send_request(request).await.ok()?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .ok()?;
        decode(&body.to_bytes())
    };
    // The connection ends when its sender and the answer are dropped: no task is left behind.
    tokio::join!(answer, connection).0
}

/// A gRPC frame with `HealthCheckRequest { service = 1 }`.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// `status` (field 1) of an uncompressed frame with `HealthCheckResponse`; 0 when the field is absent.
fn decode(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    if frame[0] != 0 {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, rest @ ..] => varint(rest),
        _ => None,
    }
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_frame_with_the_services_name() {
        assert_eq!(encode("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(encode("").as_ref(), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn only_a_whole_answer_counts() {
        assert_eq!(decode(&[0, 0, 0, 0, 2, 0x08, 1]), Some(SERVING));
        assert_eq!(decode(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(decode(&[1, 0, 0, 0, 2, 0x08, 1]), None, "compressed");
        assert_eq!(decode(&[0, 0]), None);
        assert_eq!(decode(&[0, 0, 0, 0, 2, 0x08, 0x80]), None);
    }
}
