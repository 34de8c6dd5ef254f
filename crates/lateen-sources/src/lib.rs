//! Where configuration comes from: a watched directory of YAML, and the pods its manifests describe.

pub mod addresses;
pub mod plan;
