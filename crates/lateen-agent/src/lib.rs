//! What stands beside a data plane: identity, SDS, DNS, health and probes, and running a stock Envoy.
