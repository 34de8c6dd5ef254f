//! Istio and Kubernetes resource types: YAML with spans, defaulting and validation to diagnostics.

pub mod kube;
