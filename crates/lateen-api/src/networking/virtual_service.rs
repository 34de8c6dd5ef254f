//! The fields of `networking.v1alpha3` (virtual service), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::schema::{enumeration, object};
use crate::value::{Bytes, Double, StringMatch};

object! {
    /// `networking.v1alpha3.VirtualService` of Istio's API.
    pub struct VirtualService {
        hosts: Vec<String>,
        gateways: Vec<String>,
        http: Vec<HttpRoute>,
        tls: Vec<TlsRoute>,
        tcp: Vec<TcpRoute>,
        export_to: Vec<String>,
    }
}

object! {
    /// `networking.v1alpha3.Destination` of Istio's API.
    pub struct Destination {
        host: String [REQUIRED],
        subset: String,
        port: Option<PortSelector>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPRoute` of Istio's API.
    pub struct HttpRoute {
        name: String,
        r#match: Vec<HttpMatchRequest>,
        route: Vec<HttpRouteDestination>,
        redirect: Option<HttpRedirect>,
        direct_response: Option<HttpDirectResponse>,
        delegate: Option<Delegate>,
        rewrite: Option<HttpRewrite>,
        timeout: Option<Duration> [MILLISECOND],
        retries: Option<HttpRetry>,
        fault: Option<HttpFaultInjection>,
        mirror: Option<Destination>,
        mirrors: Vec<HttpMirrorPolicy>,
        mirror_percent: Option<u32> = "mirrorPercent" | "mirror_percent",
        mirror_percentage: Option<Percent>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }
}

object! {
    /// `networking.v1alpha3.Delegate` of Istio's API.
    pub struct Delegate {
        name: String,
        namespace: String,
    }
}

object! {
    /// `networking.v1alpha3.Headers` of Istio's API.
    pub struct Headers {
        request: Option<HeaderOperations>,
        response: Option<HeaderOperations>,
    }
}

object! {
    /// `networking.v1alpha3.Headers.HeaderOperations` of Istio's API.
    pub struct HeaderOperations {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
}

object! {
    /// `networking.v1alpha3.TLSRoute` of Istio's API.
    pub struct TlsRoute {
        r#match: Vec<TlsMatchAttributes> [REQUIRED],
        route: Vec<RouteDestination>,
    }
}

object! {
    /// `networking.v1alpha3.TCPRoute` of Istio's API.
    pub struct TcpRoute {
        r#match: Vec<L4MatchAttributes>,
        route: Vec<RouteDestination>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPMatchRequest` of Istio's API.
    pub struct HttpMatchRequest {
        name: String,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        headers: BTreeMap<String, StringMatch>,
        port: u32,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        query_params: BTreeMap<String, StringMatch>,
        ignore_uri_case: bool,
        without_headers: BTreeMap<String, StringMatch>,
        source_namespace: String,
        stat_prefix: String,
    }
}

object! {
    /// `networking.v1alpha3.HTTPRouteDestination` of Istio's API.
    pub struct HttpRouteDestination {
        destination: Option<Destination> [REQUIRED],
        weight: i32,
        headers: Option<Headers>,
    }
}

object! {
    /// `networking.v1alpha3.RouteDestination` of Istio's API.
    pub struct RouteDestination {
        destination: Option<Destination> [REQUIRED],
        weight: i32,
    }
}

object! {
    /// `networking.v1alpha3.L4MatchAttributes` of Istio's API.
    pub struct L4MatchAttributes {
        destination_subnets: Vec<String>,
        port: u32,
        source_subnet: String,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: String,
    }
}

object! {
    /// `networking.v1alpha3.TLSMatchAttributes` of Istio's API.
    pub struct TlsMatchAttributes {
        sni_hosts: Vec<String> [REQUIRED],
        destination_subnets: Vec<String>,
        port: u32,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: String,
    }
}

object! {
    /// `networking.v1alpha3.HTTPRedirect` of Istio's API.
    pub struct HttpRedirect [AtMostOne(&["port", "derivePort"])] {
        uri: String,
        authority: String,
        port: Option<u32>,
        derive_port: Option<RedirectPortSelection>,
        scheme: String,
        redirect_code: u32,
        prefix_rewrite: String,
    }
}

enumeration! {
    /// `networking.v1alpha3.HTTPRedirect.RedirectPortSelection` of Istio's API.
    pub enum RedirectPortSelection {
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        FromRequestPort = "FROM_REQUEST_PORT",
    }
}

object! {
    /// `networking.v1alpha3.HTTPDirectResponse` of Istio's API.
    pub struct HttpDirectResponse {
        status: u32 [REQUIRED],
        body: Option<HttpBody>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPBody` of Istio's API.
    pub struct HttpBody [AtMostOne(&["string", "bytes"])] {
        string: Option<String>,
        bytes: Option<Bytes>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPRewrite` of Istio's API.
    pub struct HttpRewrite {
        uri: String,
        authority: String,
        uri_regex_rewrite: Option<RegexRewrite>,
    }
}

object! {
    /// `networking.v1alpha3.RegexRewrite` of Istio's API.
    pub struct RegexRewrite {
        r#match: String,
        rewrite: String,
    }
}

object! {
    /// `networking.v1alpha3.HTTPRetry` of Istio's API.
    pub struct HttpRetry {
        attempts: i32,
        per_try_timeout: Option<Duration> [MILLISECOND],
        retry_on: String,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<Duration> [MILLISECOND],
    }
}

object! {
    /// `networking.v1alpha3.CorsPolicy` of Istio's API.
    pub struct CorsPolicy {
        allow_origin: Vec<String>,
        allow_origins: Vec<StringMatch>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<Duration> [MILLISECOND],
        allow_credentials: Option<bool>,
        unmatched_preflights: UnmatchedPreflights,
    }
}

enumeration! {
    /// `networking.v1alpha3.CorsPolicy.UnmatchedPreflights` of Istio's API.
    pub enum UnmatchedPreflights {
        Unspecified = "UNSPECIFIED",
        Forward = "FORWARD",
        Ignore = "IGNORE",
    }
}

object! {
    /// `networking.v1alpha3.HTTPFaultInjection` of Istio's API.
    pub struct HttpFaultInjection {
        delay: Option<FaultDelay>,
        abort: Option<FaultAbort>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPFaultInjection.Delay` of Istio's API.
    pub struct FaultDelay [AtMostOne(&["fixedDelay", "exponentialDelay"])] {
        percent: i32,
        fixed_delay: Option<Duration> [MILLISECOND],
        exponential_delay: Option<Duration> [MILLISECOND],
        percentage: Option<Percent>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPFaultInjection.Abort` of Istio's API.
    pub struct FaultAbort [AtMostOne(&["httpStatus", "grpcStatus", "http2Error"])] {
        http_status: Option<i32>,
        grpc_status: Option<String>,
        http2_error: Option<String>,
        percentage: Option<Percent>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPMirrorPolicy` of Istio's API.
    pub struct HttpMirrorPolicy {
        destination: Option<Destination> [REQUIRED],
        percentage: Option<Percent>,
    }
}

object! {
    /// `networking.v1alpha3.PortSelector` of Istio's API.
    pub struct PortSelector {
        number: u32,
    }
}

object! {
    /// `networking.v1alpha3.Percent` of Istio's API.
    pub struct Percent {
        value: Double,
    }
}
