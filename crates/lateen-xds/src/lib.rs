//! The xDS protocol: ADS and delta, client and server, as state machines with thin gRPC adaptors.
//!
//! [`server`] and [`client`] hold every rule of the protocol and do no I/O, so NACKs, reorderings and reconnects are plain unit
//! tests. [`grpc`] owns streams, time and back-pressure, and knows nothing of the rules.

pub mod client;
pub mod grpc;
pub mod server;

/// The type by which a proxy's agent says how its workload is: a request that subscribes to nothing, with an error if it is not well.
/// Source: Istio, `HealthInfoType`.
pub const HEALTH_INFORMATION: &str = "type.googleapis.com/istio.v1.HealthInformation";
