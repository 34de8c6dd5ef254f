//! What may differ between messages that compile alike.
//!
//! Whoever makes the compiler look at one of these fields takes it out of here.

use super::{Kind, Part, Shape, Times, Told};

const fn once(number: u32, kind: Kind) -> Part {
    part(number, Times::Once, kind)
}

const fn many(number: u32, kind: Kind) -> Part {
    part(number, Times::Many, kind)
}

const fn each(number: u32, kind: Kind) -> Part {
    part(number, Times::Each, kind)
}

const fn part(number: u32, times: Times, kind: Kind) -> Part {
    Part {
        number,
        times,
        kind,
    }
}

/// `envoy.config.cluster.v3.Cluster`
pub(super) static CLUSTER: &Shape = &[
    once(1, Kind::Told(Told::Cluster)),    // name
    once(3, Kind::Message(EDS)),           // eds_cluster_config
    once(24, Kind::Message(SOCKET)),       // transport_socket
    once(25, Kind::Metadata),              // metadata
    once(28, Kind::Text),                  // alt_stat_name
    many(43, Kind::Message(SOCKET_MATCH)), // transport_socket_matches
];

/// `envoy.config.cluster.v3.Cluster.EdsClusterConfig`
static EDS: &Shape = &[once(2, Kind::Told(Told::Service))]; // service_name

/// `envoy.config.cluster.v3.Cluster.TransportSocketMatch`
static SOCKET_MATCH: &Shape = &[once(3, Kind::Message(SOCKET))]; // transport_socket

/// `envoy.config.core.v3.TransportSocket`
static SOCKET: &Shape = &[once(3, Kind::Packed(UPSTREAM_TLS_URL, UPSTREAM_TLS))]; // typed_config

const UPSTREAM_TLS_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`
static UPSTREAM_TLS: &Shape = &[
    once(1, Kind::Message(COMMON_TLS)), // common_tls_context
    once(2, Kind::Text),                // sni
];

/// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`
static COMMON_TLS: &Shape = &[once(8, Kind::Message(COMBINED))]; // combined_validation_context

/// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext`
static COMBINED: &Shape = &[once(1, Kind::Message(VALIDATION))]; // default_validation_context

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`
static VALIDATION: &Shape = &[
    each(9, Kind::Message(TEXT_MATCHER)), // match_subject_alt_names
    each(15, Kind::Message(SAN_MATCHER)), // match_typed_subject_alt_names
];

/// `envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher`
static SAN_MATCHER: &Shape = &[once(2, Kind::Message(TEXT_MATCHER))]; // matcher

/// `envoy.type.matcher.v3.StringMatcher`
static TEXT_MATCHER: &Shape = &[once(1, Kind::Text)]; // exact

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`
pub(super) static ASSIGNMENT: &Shape = &[
    once(1, Kind::Text),              // cluster_name
    each(2, Kind::Message(LOCALITY)), // endpoints
];

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`
static LOCALITY: &Shape = &[
    once(1, Kind::Message(PLACE)),       // locality
    each(2, Kind::Message(LB_ENDPOINT)), // lb_endpoints
    once(9, Kind::Metadata),             // metadata
];

/// `envoy.config.core.v3.Locality`
static PLACE: &Shape = &[
    once(1, Kind::Text), // region
    once(2, Kind::Text), // zone
    once(3, Kind::Text), // sub_zone
];

/// `envoy.config.endpoint.v3.LbEndpoint`
static LB_ENDPOINT: &Shape = &[
    once(1, Kind::Message(ENDPOINT)), // endpoint
    once(3, Kind::Metadata),          // metadata
];

/// `envoy.config.endpoint.v3.Endpoint`
static ENDPOINT: &Shape = &[
    once(1, Kind::Message(ADDRESS)), // address
    once(3, Kind::Text),             // hostname
];

/// `envoy.config.core.v3.Address`
static ADDRESS: &Shape = &[once(1, Kind::Message(SOCKET_ADDRESS))]; // socket_address

/// `envoy.config.core.v3.SocketAddress`
static SOCKET_ADDRESS: &Shape = &[
    once(2, Kind::Address), // address
    once(3, Kind::Port),    // port_value
];

/// `envoy.config.route.v3.VirtualHost`
pub(super) static HOST: &Shape = &[
    once(1, Kind::Text),               // name
    many(2, Kind::Told(Told::Domain)), // domains
    many(3, Kind::Message(ROUTE)),     // routes
    once(24, Kind::Metadata),          // metadata
];

/// `envoy.config.route.v3.Route`
static ROUTE: &Shape = &[
    once(2, Kind::Message(ROUTE_ACTION)), // route
    once(4, Kind::Metadata),              // metadata
    once(5, Kind::Message(DECORATOR)),    // decorator
    once(14, Kind::Text),                 // name
];

/// `envoy.config.route.v3.RouteAction`
static ROUTE_ACTION: &Shape = &[
    once(1, Kind::Text),              // cluster
    once(3, Kind::Message(WEIGHTED)), // weighted_clusters
];

/// `envoy.config.route.v3.WeightedCluster`
static WEIGHTED: &Shape = &[many(1, Kind::Message(WEIGHT))]; // clusters

/// `envoy.config.route.v3.WeightedCluster.ClusterWeight`
static WEIGHT: &Shape = &[once(1, Kind::Text)]; // name

/// `envoy.config.route.v3.Decorator`
static DECORATOR: &Shape = &[once(1, Kind::Text)]; // operation
