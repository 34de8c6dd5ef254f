//! Frames as they come, cut anywhere; peers that say something else, nothing, or too much.

use std::future::poll_fn;
use std::time::Duration;

use lateen_envoy::pb::envoy::config::core::v3::Node;
use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::node::Identity;

fn identity() -> Identity {
    let metadata = json!({"WORKLOAD_NAME": "reviews-v1", "NAMESPACE": "shop"});
    Identity::of(&Node {
        id: "sidecar~10.0.0.1~reviews.shop~shop.svc.cluster.local".to_owned(),
        metadata: metadata.as_object().map(lateen_envoy::struct_from_json),
        ..Node::default()
    })
}

/// Reads to the end through a listener.
async fn read(listening: &mut Listening, stream: &mut DuplexStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut space = [0; 7]; // smaller than what may be left behind a frame
        let mut buf = ReadBuf::new(&mut space);
        poll_fn(|cx| listening.poll_read(Pin::new(&mut *stream), cx, &mut buf)).await?;
        if buf.filled().is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(buf.filled());
    }
}

async fn heard(pieces: &[&[u8]]) -> (io::Result<Vec<u8>>, Option<Peer>) {
    let (mut far, mut near) = duplex(1 << 20);
    let mut listening = Listening::default();
    let send = async {
        for piece in pieces {
            far.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(far);
    };
    let (_, bytes) = tokio::join!(send, read(&mut listening, &mut near));
    (bytes, listening.introduction().peer().cloned())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #[test]
    fn wherever_it_is_cut_a_frame_is_taken_off_and_every_other_byte_arrives(
        cut in 1usize..40, data in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let identity = identity();
        let stream = [&frame(&identity.told)[..], &data].concat();
        let pieces: Vec<&[u8]> = stream.chunks(cut).collect();
        let (bytes, peer) = run(heard(&pieces));
        prop_assert_eq!(bytes.unwrap(), data);
        prop_assert_eq!(peer, Some(identity.peer));
    }

    #[test]
    fn what_is_no_frame_arrives_as_it_is(data in proptest::collection::vec(any::<u8>(), 0..60)) {
        prop_assume!(!data.starts_with(&MAGIC.to_be_bytes()));
        let pieces: Vec<&[u8]> = data.chunks(3).collect();
        let (bytes, peer) = run(heard(&pieces));
        prop_assert_eq!(bytes.unwrap(), data);
        prop_assert_eq!(peer, None);
    }
}

#[test]
fn a_peer_that_ends_within_its_frame_is_nobody_and_loses_no_byte() {
    let frame = frame(&identity().told);
    let (bytes, peer) = run(heard(&[&frame[..11]]));
    assert_eq!(bytes.unwrap(), &frame[..11]);
    assert_eq!(peer, None);
}

#[test]
fn a_frame_of_nonsense_is_nobody_and_is_taken_off() {
    let (bytes, peer) = run(heard(&[&frame(b"\xff\xff\xff"), b"hello"]));
    assert_eq!(bytes.unwrap(), b"hello");
    assert_eq!(peer, None);
}

#[test]
fn a_frame_longer_than_any_that_is_read_ends_the_connection() {
    let mut header = MAGIC.to_be_bytes().to_vec();
    header.extend(u32::MAX.to_be_bytes());
    let (bytes, _) = run(heard(&[&header]));
    assert_eq!(bytes.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn who_waits_for_the_introduction_learns_of_it() {
    run(async {
        let (mut far, mut near) = duplex(4096);
        let mut listening = Listening::default();
        let introduction = Arc::clone(listening.introduction());
        let waits = tokio::time::timeout(Duration::from_secs(5), introduction.settled());
        let send = async {
            far.write_all(&frame(&identity().told)).await.unwrap();
            drop(far);
        };
        let (waited, (), _) = tokio::join!(waits, send, read(&mut listening, &mut near));
        waited.unwrap();
        assert_eq!(introduction.peer().unwrap().namespace, "shop");
    });
}
