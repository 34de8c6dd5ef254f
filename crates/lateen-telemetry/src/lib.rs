//! Metrics registry and access log of the data plane.
