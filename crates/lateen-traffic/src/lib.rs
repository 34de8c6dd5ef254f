//! The traffic engine: Envoy resources to a Program, and decisions with reasons.
