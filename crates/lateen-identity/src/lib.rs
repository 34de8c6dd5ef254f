//! Workload identity: the certificate authority, CSRs, SPIFFE identities, trust bundles, rotation.
