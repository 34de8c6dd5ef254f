//! Services, their endpoints, and Ingress.

use std::collections::BTreeMap;

use super::ObjectReference;
use crate::schema::object;
use crate::value::{IntOrString, Value};

object! {
    /// `v1.Service`.
    pub struct Service {
        spec: ServiceSpec,
        status: ServiceStatus,
    }
}

object! {
    /// `v1.ServiceSpec`.
    pub struct ServiceSpec {
        r#type: String,
        selector: BTreeMap<String, String>,
        ports: Vec<ServicePort>,
        /// An address, `None` for a headless service, or empty for one that is assigned.
        cluster_ip: String = "clusterIP",
        cluster_ips: Vec<String> = "clusterIPs",
        external_ips: Vec<String> = "externalIPs",
        external_name: String,
        session_affinity: String,
        session_affinity_config: Option<Value>,
        load_balancer_ip: String = "loadBalancerIP",
        load_balancer_source_ranges: Vec<String>,
        load_balancer_class: String,
        allocate_load_balancer_node_ports: Option<bool>,
        external_traffic_policy: String,
        internal_traffic_policy: String,
        health_check_node_port: Option<u16>,
        publish_not_ready_addresses: bool,
        ip_families: Vec<String>,
        ip_family_policy: String,
        traffic_distribution: String,
    }
}

object! {
    /// `v1.ServicePort`.
    pub struct ServicePort {
        name: String,
        protocol: String,
        app_protocol: String,
        port: u16,
        /// Absent means the same as `port`.
        target_port: Option<IntOrString>,
        node_port: Option<u16>,
    }
}

object! {
    /// `v1.ServiceStatus`.
    pub struct ServiceStatus {
        load_balancer: LoadBalancerStatus,
        conditions: Option<Value>,
    }
}

object! {
    /// `v1.LoadBalancerStatus`.
    pub struct LoadBalancerStatus {
        ingress: Vec<LoadBalancerIngress>,
    }
}

object! {
    /// `v1.LoadBalancerIngress`.
    pub struct LoadBalancerIngress {
        ip: String,
        hostname: String,
        ip_mode: String,
        ports: Option<Value>,
    }
}

object! {
    /// `discovery.k8s.io/v1.EndpointSlice`. Its service is named by the label `kubernetes.io/service-name`.
    pub struct EndpointSlice {
        /// `IPv4`, `IPv6` or `FQDN`.
        address_type: String,
        endpoints: Vec<Endpoint>,
        ports: Vec<EndpointPort>,
    }
}

object! {
    /// `discovery.k8s.io/v1.Endpoint`.
    pub struct Endpoint {
        addresses: Vec<String>,
        conditions: EndpointConditions,
        hostname: String,
        target_ref: Option<ObjectReference>,
        deprecated_topology: BTreeMap<String, String>,
        node_name: String,
        zone: String,
        hints: Option<Value>,
    }
}

object! {
    /// `discovery.k8s.io/v1.EndpointConditions`; absent `ready` counts as ready.
    pub struct EndpointConditions {
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    }
}

object! {
    /// `discovery.k8s.io/v1.EndpointPort` and `v1.EndpointPort`.
    pub struct EndpointPort {
        name: String,
        port: Option<u16>,
        protocol: String,
        app_protocol: String,
    }
}

object! {
    /// `v1.Endpoints`, the older form of [`EndpointSlice`].
    pub struct Endpoints {
        subsets: Vec<EndpointSubset>,
    }
}

object! {
    /// `v1.EndpointSubset`.
    pub struct EndpointSubset {
        addresses: Vec<EndpointAddress>,
        not_ready_addresses: Vec<EndpointAddress>,
        ports: Vec<EndpointPort>,
    }
}

object! {
    /// `v1.EndpointAddress`.
    pub struct EndpointAddress {
        ip: String,
        hostname: String,
        node_name: String,
        target_ref: Option<ObjectReference>,
    }
}

object! {
    /// `networking.k8s.io/v1.Ingress`.
    pub struct Ingress {
        spec: IngressSpec,
        status: Option<Value>,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressSpec`.
    pub struct IngressSpec {
        ingress_class_name: Option<String>,
        default_backend: Option<IngressBackend>,
        tls: Vec<IngressTls>,
        rules: Vec<IngressRule>,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressTLS`.
    pub struct IngressTls {
        hosts: Vec<String>,
        secret_name: String,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressRule`.
    pub struct IngressRule {
        host: String,
        http: Option<HttpIngressRuleValue>,
    }
}

object! {
    /// `networking.k8s.io/v1.HTTPIngressRuleValue`.
    pub struct HttpIngressRuleValue {
        paths: Vec<HttpIngressPath>,
    }
}

object! {
    /// `networking.k8s.io/v1.HTTPIngressPath`.
    pub struct HttpIngressPath {
        path: String,
        /// `Exact`, `Prefix` or `ImplementationSpecific`.
        path_type: String,
        backend: IngressBackend,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressBackend`.
    pub struct IngressBackend {
        service: Option<IngressServiceBackend>,
        resource: Option<Value>,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressServiceBackend`.
    pub struct IngressServiceBackend {
        name: String,
        port: ServiceBackendPort,
    }
}

object! {
    /// `networking.k8s.io/v1.ServiceBackendPort`: a name or a number.
    pub struct ServiceBackendPort {
        name: String,
        number: Option<u16>,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressClass`.
    pub struct IngressClass {
        spec: IngressClassSpec,
    }
}

object! {
    /// `networking.k8s.io/v1.IngressClassSpec`.
    pub struct IngressClassSpec {
        controller: String,
        parameters: Option<Value>,
    }
}
