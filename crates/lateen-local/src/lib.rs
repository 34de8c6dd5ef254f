//! Runs workloads with sidecars on one machine: network namespaces, redirection, processes, probes.
