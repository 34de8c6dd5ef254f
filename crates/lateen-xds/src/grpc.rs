//! ADS over gRPC: adaptors between tonic's streams and the state machines of this crate.

mod admission;
pub mod client;
mod peer;
pub mod secrets;
pub mod server;

pub use admission::AdmissionConfig;
pub use client::{
    Acknowledge, Backoff, ClientConfig, ClientEvent, KeepAlive, Link, Subscriber, Subscription,
};
pub use peer::{PeerInfo, PeerStream};
pub use server::{AdsServer, ConnectRequest, Connection, Discovery, ServerConfig, StreamEvent};
