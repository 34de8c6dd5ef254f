//! The configuration compiler: snapshots of resources to Envoy resources.
