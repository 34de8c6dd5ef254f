//! The xDS protocol: ADS and delta, client and server, as state machines with thin gRPC adaptors.
