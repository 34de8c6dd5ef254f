//! Where configuration comes from: watched files of YAML, and the pods and addresses their manifests describe.

pub mod addresses;
pub mod cron;
pub mod defaults;
pub mod files;
pub mod mesh;
pub mod plan;
pub mod pods;
pub mod watch;
