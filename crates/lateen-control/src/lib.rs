//! The control plane server: snapshots to connected proxies, the CA service, debug endpoints.
