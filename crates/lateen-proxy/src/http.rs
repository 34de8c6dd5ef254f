//! HTTP: serving connections, taking requests through the proxy, answering.
//!
//! [`server`] runs a connection; [`exchange`] is a request's way from its first byte to its last, in one function.

pub(crate) mod body;
mod client;
pub(crate) mod date;
pub(crate) mod dimensions;
pub(crate) mod exchange;
mod ext_authz;
mod file_content;
mod filters;
mod forward;
pub(crate) mod grpc;
pub(crate) mod grpc_web;
pub(crate) mod h1;
mod h2;
pub(crate) mod head;
pub(crate) mod headers;
mod jwt;
pub(crate) mod local_reply;
pub(crate) mod log;
pub(crate) mod manager;
mod multiplexed;
mod mux;
mod passage;
pub(crate) mod present;
pub(crate) mod record;
pub(crate) mod reply_format;
mod response;
pub(crate) mod server;
mod source;
mod trace;
mod upgrade;
