//! The descriptors of every message Lateen can name: Envoy's, Google's and Istio's.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS).expect("protoc wrote the set when this crate was built")
});

/// The pool of all descriptors, decoded at first use (tens of milliseconds) and kept.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a full message name or a type URL.
pub fn find(name_or_url: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(name_or_url.rsplit('/').next().unwrap_or_default())
}
