//! Load balancing: which host of a cluster takes a request.
//!
//! [`HostSet`] is what is fixed between changes of membership or health: levels, panics, localities, hash tables. It is built
//! off the request path and shared. [`LbState`] is what changes with every pick; each worker owns one per host set, and replaces
//! it together with the set.
//!
//! Source: Envoy's documentation "Load balancing" (priority levels, degraded endpoints, panic threshold, locality weighted).

mod edf;
mod hash_table;
mod host_set;
mod pick;

mod priority;
mod utilization;
mod zones;

pub use hash_table::{HashTable, PRIME_DEFAULT};
pub use host_set::{HostSet, LocalitySlice, PriorityLevel};
pub use pick::{LbState, NoHost, Pick, PickRequest};
pub use priority::{HealthShare, PriorityLoad, priority_load};
pub use utilization::{LoadReport, Metric, UtilizationWeights};
pub use zones::Vicinity;

use crate::endpoint::HealthStatus;

/// A host's health, all sources taken together: the control plane's word, active checks, outlier ejection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostHealth {
    /// Takes requests.
    #[default]
    Healthy,
    /// Takes requests if not enough healthy hosts are left.
    Degraded,
    /// Takes requests only in a panic.
    Unhealthy,
    /// The same, and does not count when it is asked how many hosts are healthy: nothing is known of it yet.
    Excluded,
}

impl From<HealthStatus> for HostHealth {
    fn from(status: HealthStatus) -> Self {
        match status {
            HealthStatus::Unknown | HealthStatus::Healthy => Self::Healthy,
            HealthStatus::Degraded => Self::Degraded,
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => {
                Self::Unhealthy
            }
        }
    }
}

/// Which hosts of a level were eligible for a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The healthy ones.
    Healthy,
    /// The degraded ones.
    Degraded,
    /// All, as too few are healthy (panic).
    Panic,
}

#[cfg(test)]
mod tests;
