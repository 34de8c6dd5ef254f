//! Development only: runs cases that others wrote against the compiler and the traffic engine, without sockets.
//!
//! [`conformance`] reads a directory of Istio's own cases. Nothing here knows a case by name; the binary depends on none of it.

pub mod conformance;
