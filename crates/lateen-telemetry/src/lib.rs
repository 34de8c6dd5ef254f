//! Metrics registry, access log and spans of the data plane.
//!
//! Answers "what happened, how often, and how long did it take" in the words Envoy and Istio use: stat names and
//! tags, Istio's standard metrics, access-log command operators and response flags. It measures and formats; it
//! decides nothing, opens no listener and knows no Envoy message. Callers own the clock.

pub mod access_log;
pub mod metrics;
pub mod response_flags;
pub mod trace;

pub use response_flags::{ResponseFlag, ResponseFlags};
