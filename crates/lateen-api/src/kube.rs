//! Kubernetes kinds.

/// `v1.PodSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodSpec {}
