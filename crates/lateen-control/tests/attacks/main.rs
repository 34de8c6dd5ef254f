//! What an attacker inside the mesh does to the control plane, by class; each test says what is tried and what has to come of it.
//!
//! Who attacks is a workload with an identity of its own, or somebody who merely reaches the ports. What proxies withstand is in
//! `lateen-proxy/tests/attacks`; the limits are listed in `docs/reference/limits.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by it"
)]

mod certificates;
mod identities;
mod plane;
mod streams;
mod tenants;
