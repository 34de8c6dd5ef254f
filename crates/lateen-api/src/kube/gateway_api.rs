//! The Gateway API's HTTPRoute (`gateway.networking.k8s.io/v1`).
//!
//! The other kinds of the group are not read.

use super::HttpHeader;
use crate::schema::object;
use crate::value::Value;

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRoute`.
    pub struct HttpRoute {
        spec: HttpRouteSpec,
        status: Option<Value>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRouteSpec`.
    pub struct HttpRouteSpec {
        parent_refs: Vec<ParentReference>,
        use_default_gateways: String,
        hostnames: Vec<String>,
        rules: Vec<HttpRouteRule>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.ParentReference`.
    pub struct ParentReference {
        /// Absent means the Gateway API's own group.
        group: Option<String>,
        /// Absent means `Gateway`.
        kind: Option<String>,
        namespace: String,
        name: String,
        section_name: String,
        port: Option<u16>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRouteRule`.
    pub struct HttpRouteRule {
        name: String,
        matches: Vec<HttpRouteMatch>,
        filters: Vec<HttpRouteFilter>,
        backend_refs: Vec<HttpBackendRef>,
        timeouts: Option<HttpRouteTimeouts>,
        retry: Option<HttpRouteRetry>,
        session_persistence: Option<Value>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRouteMatch`.
    pub struct HttpRouteMatch {
        path: Option<HttpPathMatch>,
        headers: Vec<HttpNameMatch>,
        query_params: Vec<HttpNameMatch>,
        method: String,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPPathMatch`.
    pub struct HttpPathMatch {
        /// `Exact`, `PathPrefix` or `RegularExpression`; `PathPrefix` if absent.
        r#type: String,
        /// `/` if absent.
        value: String,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPHeaderMatch` and `HTTPQueryParamMatch`.
    pub struct HttpNameMatch {
        /// `Exact` or `RegularExpression`; `Exact` if absent.
        r#type: String,
        name: String,
        value: String,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRouteFilter`: `type` says which field counts.
    pub struct HttpRouteFilter {
        r#type: String,
        request_header_modifier: Option<HttpHeaderFilter>,
        response_header_modifier: Option<HttpHeaderFilter>,
        request_mirror: Option<HttpRequestMirrorFilter>,
        request_redirect: Option<HttpRequestRedirectFilter>,
        url_rewrite: Option<HttpUrlRewriteFilter>,
        cors: Option<Value>,
        external_auth: Option<Value>,
        extension_ref: Option<Value>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPHeaderFilter`.
    pub struct HttpHeaderFilter {
        set: Vec<HttpHeader>,
        add: Vec<HttpHeader>,
        remove: Vec<String>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRequestMirrorFilter`.
    pub struct HttpRequestMirrorFilter {
        backend_ref: BackendObjectReference,
        percent: Option<u32>,
        fraction: Option<MirrorFraction>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.Fraction`.
    pub struct MirrorFraction {
        numerator: u32,
        /// 100 if absent.
        denominator: Option<u32>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRequestRedirectFilter`.
    pub struct HttpRequestRedirectFilter {
        scheme: String,
        hostname: String,
        path: Option<HttpPathModifier>,
        port: Option<u16>,
        /// 302 if absent.
        status_code: Option<u32>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPURLRewriteFilter`.
    pub struct HttpUrlRewriteFilter {
        hostname: String,
        path: Option<HttpPathModifier>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPPathModifier`.
    pub struct HttpPathModifier {
        /// `ReplaceFullPath` or `ReplacePrefixMatch`.
        r#type: String,
        replace_full_path: Option<String>,
        replace_prefix_match: Option<String>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPBackendRef`.
    pub struct HttpBackendRef {
        /// Absent means Kubernetes' core.
        group: String,
        /// `Service` if absent.
        kind: String,
        name: String,
        namespace: String,
        port: Option<u16>,
        /// 1 if absent.
        weight: Option<u32>,
        filters: Vec<HttpRouteFilter>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.BackendObjectReference`.
    pub struct BackendObjectReference {
        group: String,
        kind: String,
        name: String,
        namespace: String,
        port: Option<u16>,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRouteTimeouts`.
    pub struct HttpRouteTimeouts {
        request: String,
        backend_request: String,
    }
}

object! {
    /// `gateway.networking.k8s.io/v1.HTTPRouteRetry`.
    pub struct HttpRouteRetry {
        codes: Vec<u32>,
        attempts: Option<u32>,
        backoff: String,
    }
}
