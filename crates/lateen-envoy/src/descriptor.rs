//! The descriptors of every message Lateen can name: Envoy's, Google's and Istio's.

use std::sync::{Mutex, PoisonError};

use prost_reflect::{DescriptorPool, MessageDescriptor};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// The pool of all descriptors, decoded at first use (tens of milliseconds) and kept until [`forget`] is called.
pub fn pool() -> DescriptorPool {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_with(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("protoc wrote the set when this crate was built")
    })
    .clone()
}

/// Gives up the pool, which takes tens of megabytes. A process that seldom prints a message calls this afterwards; the next use decodes it
/// again. Descriptors that are held stay valid.
pub fn forget() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The descriptor of a full message name or a type URL.
pub fn find(name_or_url: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(name_or_url.rsplit('/').next().unwrap_or_default())
}
