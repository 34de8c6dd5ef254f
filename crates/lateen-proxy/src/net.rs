//! Sockets: listening, connecting, the original destination of a redirected connection, byte streams and copying.

pub(crate) mod address;
pub(crate) mod copy;
mod direct;
pub(crate) mod socket;
pub(crate) mod splice;
pub(crate) mod stream;

pub(crate) use address::HostAddress;
pub(crate) use stream::{Prefixed, Stream};
