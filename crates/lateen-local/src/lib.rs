//! Runs workloads with sidecars on one machine: a small kubelet, network plug-in and service proxy.
//!
//! It makes namespaces, interfaces, rules and processes, and nothing of that outlives the supervisor: namespaces are
//! anonymous, rules and interfaces live in them, and every process has a pid namespace and a death signal above it.
//! What is to run is planned elsewhere (`lateen-sources`); what a proxy is to do comes from the control plane.

pub mod addresses;
pub mod exec;
pub mod images;
pub mod netlink;
pub mod node;
pub mod pod;
mod podspec;
pub mod probe;
pub mod publish;
pub mod redirect;
pub mod sandbox;
pub mod services;
pub mod state;
pub mod supervisor;

mod logs;
mod rules;
mod sys;
