//! Development only: runs cases that others wrote against the compiler and the traffic engine, without sockets.
//!
//! [`conformance`] reads a directory of Istio's own cases, [`fuzz`] changes manifests. Nothing here knows a case by name; the binary depends on none of it.

pub mod conformance;
mod engine;
pub mod fuzz;
