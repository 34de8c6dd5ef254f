//! The agent in a pod, beside either proxy, with a small istiod in the test's process.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod external_ca;
mod own_proxy;
mod support;
mod with_envoy;
