//! Mistakes that people really make, and what they meant.
//!
//! Collected from Istio's issue tracker, from its documentation's warnings, and from tutorials that were never run.
//! To add one, add a line to its type's list.

/// What to do instead.
#[derive(Clone, Copy)]
enum Help {
    /// Another field of the same object.
    Mean(&'static str),
    /// Another field of the same object, and a list.
    List(&'static str),
    /// The field belongs into this one.
    Under(&'static str),
    /// The field belongs into an entry of this list.
    Into(&'static str),
    /// The field belongs one level up, beside this one.
    Up(&'static str),
    /// The field belongs into the object beside this one, of this name.
    Beside(&'static str),
    /// Anything else.
    Say(&'static str),
}

use Help::{Beside, Into, List, Mean, Say, Under, Up};

/// The help for the field `key` of the type `object`.
pub(crate) fn find(object: &str, key: &str) -> Option<String> {
    let (_, fields) = TABLE.iter().find(|(name, _)| *name == object)?;
    let (_, help) = fields.iter().find(|(name, _)| *name == key)?;
    Some(match help {
        Mean(name) => format!("did you mean `{name}`?"),
        List(name) => format!("did you mean `{name}`? It is a list"),
        Under(name) => format!("move `{key}` under `{name}`"),
        Into(name) => format!("move `{key}` into an entry of `{name}`"),
        Up(name) => format!("`{key}` stands one level up, beside `{name}`"),
        Beside(name) => format!("`{key}` belongs under `{name}`, one level up"),
        Say(text) => (*text).to_owned(),
    })
}

/// The enum value that another spelling means: metrics by their Prometheus names, modes by other meshes' words.
pub(crate) fn value(text: &str) -> Option<&'static str> {
    let bare = text.strip_prefix("istio_").unwrap_or(text);
    VALUES
        .iter()
        .find(|(from, _)| from.eq_ignore_ascii_case(bare))
        .map(|(_, to)| *to)
}

const VALUES: &[(&str, &str)] = &[
    ("requests_total", "REQUEST_COUNT"),
    ("request_duration_milliseconds", "REQUEST_DURATION"),
    ("request_duration_seconds", "REQUEST_DURATION"),
    ("request_bytes", "REQUEST_SIZE"),
    ("response_bytes", "RESPONSE_SIZE"),
    ("tcp_connections_opened_total", "TCP_OPENED_CONNECTIONS"),
    ("tcp_connections_closed_total", "TCP_CLOSED_CONNECTIONS"),
    ("tcp_sent_bytes_total", "TCP_SENT_BYTES"),
    ("tcp_received_bytes_total", "TCP_RECEIVED_BYTES"),
    ("request_messages_total", "GRPC_REQUEST_MESSAGES"),
    ("response_messages_total", "GRPC_RESPONSE_MESSAGES"),
    ("mtls", "ISTIO_MUTUAL"),
    ("mtls_permissive", "PERMISSIVE"),
    ("on", "STRICT"),
    ("enabled", "STRICT"),
    ("off", "DISABLE"),
    ("disabled", "DISABLE"),
    ("none", "DISABLE"),
    ("external", "MESH_EXTERNAL"),
    ("internal", "MESH_INTERNAL"),
    ("least_connections", "LEAST_REQUEST"),
    ("least_connection", "LEAST_REQUEST"),
    ("rr", "ROUND_ROBIN"),
    ("block", "DENY"),
    ("reject", "DENY"),
    ("permit", "ALLOW"),
    ("accept", "ALLOW"),
];

type Field = (&'static str, Help);

const TABLE: &[(&str, &[Field])] = &[
    ("DestinationRule", DESTINATION_RULE),
    ("TrafficPolicy", TRAFFIC_POLICY),
    ("PortTrafficPolicy", TRAFFIC_POLICY),
    ("Subset", SUBSET),
    ("LoadBalancerSettings", LOAD_BALANCER),
    (
        "ConsistentHashLb",
        &[
            ("httpHeader", Mean("httpHeaderName")),
            ("httpHeaders", Mean("httpHeaderName")),
        ],
    ),
    ("ConnectionPoolSettings", CONNECTION_POOL),
    ("TcpSettings", TCP_SETTINGS),
    ("HttpSettings", HTTP_SETTINGS),
    ("OutlierDetection", OUTLIER_DETECTION),
    (
        "ClientTlsSettings",
        &[
            ("caCertificate", Mean("caCertificates")),
            ("serverName", Mean("sni")),
        ],
    ),
    ("VirtualService", VIRTUAL_SERVICE),
    ("HttpRoute", HTTP_ROUTE),
    ("HttpRouteDestination", ROUTE_DESTINATION),
    ("RouteDestination", ROUTE_DESTINATION),
    ("Destination", DESTINATION),
    ("HttpMatchRequest", HTTP_MATCH),
    ("HttpRetry", HTTP_RETRY),
    (
        "FaultDelay",
        &[
            ("delay", Mean("fixedDelay")),
            ("duration", Mean("fixedDelay")),
        ],
    ),
    (
        "FaultAbort",
        &[("status", Mean("httpStatus")), ("code", Mean("httpStatus"))],
    ),
    (
        "HttpRedirect",
        &[
            ("code", Mean("redirectCode")),
            ("host", Mean("authority")),
            ("path", Mean("uri")),
        ],
    ),
    (
        "HttpRewrite",
        &[
            ("host", Mean("authority")),
            ("path", Mean("uri")),
            ("prefix", Mean("uri")),
        ],
    ),
    (
        "CorsPolicy",
        &[
            ("allowedOrigins", Mean("allowOrigins")),
            ("allowedMethods", Mean("allowMethods")),
            ("allowedHeaders", Mean("allowHeaders")),
        ],
    ),
    (
        "HeaderOperations",
        &[("append", Mean("add")), ("delete", Mean("remove"))],
    ),
    (
        "Headers",
        &[("add", HEADERS), ("set", HEADERS), ("remove", HEADERS)],
    ),
    ("StringMatch", STRING_MATCH),
    ("Gateway", GATEWAY),
    (
        "Server",
        &[
            ("host", List("hosts")),
            ("protocol", Under("port")),
            ("number", Under("port")),
        ],
    ),
    ("ServerTlsSettings", SERVER_TLS),
    ("ServiceEntry", SERVICE_ENTRY),
    (
        "Sidecar",
        &[
            ("selector", Mean("workloadSelector")),
            ("hosts", Say("write `egress: [{hosts: […]}]`")),
        ],
    ),
    ("EnvoyFilter", ENVOY_FILTER),
    ("PeerAuthentication", PEER_AUTHENTICATION),
    ("RequestAuthentication", REQUEST_AUTHENTICATION),
    ("JwtRule", &[("audience", List("audiences"))]),
    ("AuthorizationPolicy", AUTHORIZATION_POLICY),
    (
        "Rule",
        &[
            ("operation", Say("write `to: [{operation: {…}}]`")),
            ("source", Say("write `from: [{source: {…}}]`")),
            ("conditions", Mean("when")),
        ],
    ),
    ("RuleFrom", RULE_FROM),
    ("RuleTo", RULE_TO),
    ("Source", SOURCE),
    ("Operation", OPERATION),
    ("WorkloadSelector", WORKLOAD_SELECTOR),
    (
        "Telemetry",
        &[
            ("accessLog", Mean("accessLogging")),
            ("accessLogs", Mean("accessLogging")),
            ("metric", Mean("metrics")),
        ],
    ),
    (
        "AccessLogging",
        &[
            ("format", LOG_FORMAT),
            ("encoding", LOG_FORMAT),
            ("logFormat", LOG_FORMAT),
        ],
    ),
    (
        "Metrics",
        &[("dimensions", TAGS), ("tags", TAGS), ("tagOverrides", TAGS)],
    ),
    (
        "Tracing",
        &[
            ("samplingPercentage", Mean("randomSamplingPercentage")),
            ("sampling", Mean("randomSamplingPercentage")),
        ],
    ),
    (
        "WasmPlugin",
        &[
            ("config", Mean("pluginConfig")),
            (
                "image",
                Say("did you mean `url`, as in oci://registry/image:tag?"),
            ),
        ],
    ),
    (
        "ObjectMeta",
        &[
            ("label", Mean("labels")),
            ("annotation", Mean("annotations")),
        ],
    ),
    (
        "ServiceSpec",
        &[
            ("port", List("ports")),
            (
                "matchLabels",
                Say("write the labels directly under `selector`"),
            ),
        ],
    ),
    (
        "ServicePort",
        &[
            ("containerPort", Mean("targetPort")),
            ("number", Mean("port")),
        ],
    ),
    (
        "Container",
        &[
            ("port", List("ports")),
            (
                "volumes",
                Say(
                    "`volumes` belongs to the pod, beside `containers`; a container has `volumeMounts`",
                ),
            ),
        ],
    ),
    ("DeploymentSpec", &[("containers", Under("template.spec"))]),
    (
        "PodSpec",
        &[
            (
                "replicas",
                Say("`replicas` belongs to the Deployment's `spec`"),
            ),
            ("labels", Say("labels belong to the pod's `metadata`")),
        ],
    ),
];

const CIRCUIT_BREAKER: Help = Say(
    "Istio has no `circuitBreaker`: under `trafficPolicy` write `connectionPool` for limits and `outlierDetection` for \
     taking bad hosts out",
);
const RETRIES: Help =
    Say("retries are set in a VirtualService: `http: [{route: …, retries: {attempts: …}}]`");
const TIMEOUT: Help = Say(
    "a request's timeout is set in a VirtualService: `http: [{route: …, timeout: 5s}]`; \
     `connectionPool: {tcp: {connectTimeout: …}}` is for connecting",
);
const ENFORCING: Help = Say("this is Envoy's; Istio always enforces what outlier detection finds");
const SELECTOR_LABEL: Help = Say(
    "write the label under `matchLabels` (in Sidecar, EnvoyFilter, ServiceEntry: under `labels`)",
);
const HEADERS: Help = Say("write it under `request` or `response`");
const LOG_FORMAT: Help = Say(
    "the format is the provider's: set it in MeshConfig, as `accessLogFormat` or in an entry of `extensionProviders`",
);
const TAGS: Help = Say("write `overrides: [{tagOverrides: {name: {value: \"…\"}}}]`");
const SIMPLE_LB: Help = Say("write `simple: ROUND_ROBIN` (or LEAST_REQUEST, RANDOM, PASSTHROUGH)");
const ISTIO_MUTUAL: Help = Say("write `trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}`");

const DESTINATION_RULE: &[Field] = &[
    ("circuitBreaker", CIRCUIT_BREAKER),
    ("connectionPool", Under("trafficPolicy")),
    ("hosts", Say("a DestinationRule has one `host`, not a list")),
    ("loadBalancer", Under("trafficPolicy")),
    ("mtls", ISTIO_MUTUAL),
    (
        "name",
        Say("the service goes into `host`; the object's own name into `metadata`"),
    ),
    ("outlierDetection", Under("trafficPolicy")),
    ("portLevelSettings", Under("trafficPolicy")),
    ("retries", RETRIES),
    ("timeout", TIMEOUT),
    ("tls", Under("trafficPolicy")),
    ("versions", Mean("subsets")),
];

const TRAFFIC_POLICY: &[Field] = &[
    ("circuitBreaker", CIRCUIT_BREAKER),
    ("circuitBreakers", CIRCUIT_BREAKER),
    ("http", Under("connectionPool")),
    (
        "maxConnections",
        Say("write `connectionPool: {tcp: {maxConnections: …}}`"),
    ),
    ("mtls", Say("write `tls: {mode: ISTIO_MUTUAL}`")),
    ("retries", RETRIES),
    ("subsets", Up("trafficPolicy")),
    ("tcp", Under("connectionPool")),
    ("timeout", TIMEOUT),
    ("workloadSelector", Up("trafficPolicy")),
];

const SUBSET: &[Field] = &[
    (
        "host",
        Say("a subset has no host of its own: it is of the rule's `host`"),
    ),
    ("matchLabels", Mean("labels")),
    ("selector", Mean("labels")),
    ("version", Say("write `labels: {version: …}`")),
    (
        "weight",
        Say("weights are set in a VirtualService, beside each `destination`"),
    ),
];

const LOAD_BALANCER: &[Field] = &[
    ("algorithm", SIMPLE_LB),
    ("localityLoadBalancer", Mean("localityLbSetting")),
    ("localityLoadBalancerSetting", Mean("localityLbSetting")),
    ("mode", SIMPLE_LB),
    ("type", SIMPLE_LB),
    ("warmupDuration", Say("write `warmup: {duration: …}`")),
];

const CONNECTION_POOL: &[Field] = &[
    ("baseEjectionTime", OUTLIER),
    ("connectTimeout", Under("tcp")),
    ("consecutive5xxErrors", OUTLIER),
    ("consecutiveGatewayErrors", OUTLIER),
    ("http1MaxPendingRequests", Under("http")),
    ("http2MaxRequests", Under("http")),
    ("maxConnections", Under("tcp")),
    ("maxRequestsPerConnection", Under("http")),
];

const TCP_SETTINGS: &[Field] = &[
    ("http1MaxPendingRequests", Beside("http")),
    ("http2MaxRequests", Beside("http")),
    ("maxRequestsPerConnection", Beside("http")),
    ("timeout", Mean("connectTimeout")),
];

const OUTLIER: Help = Say("this belongs under `trafficPolicy.outlierDetection`");

const HTTP_SETTINGS: &[Field] = &[
    ("baseEjectionTime", OUTLIER),
    ("consecutive5xxErrors", OUTLIER),
    ("consecutiveErrors", OUTLIER),
    ("consecutiveGatewayErrors", OUTLIER),
    ("interval", OUTLIER),
    ("maxEjectionPercent", OUTLIER),
    ("connectTimeout", Beside("tcp")),
    ("h2MaxRequests", Mean("http2MaxRequests")),
    ("maxConnections", Beside("tcp")),
    ("maxPendingRequests", Mean("http1MaxPendingRequests")),
    ("maxRequests", Mean("http2MaxRequests")),
    ("retries", RETRIES),
    ("timeout", TIMEOUT),
];

const OUTLIER_DETECTION: &[Field] = &[
    (
        "consecutiveErrors",
        Say(
            "Istio removed `consecutiveErrors`: write `consecutive5xxErrors` or `consecutiveGatewayErrors`",
        ),
    ),
    ("ejectionTime", Mean("baseEjectionTime")),
    ("enforcingConsecutive5xx", ENFORCING),
    ("enforcingSuccessRate", ENFORCING),
    ("maxEjectionPercentage", Mean("maxEjectionPercent")),
    (
        "splitExternalAndLocalErrors",
        Mean("splitExternalLocalOriginErrors"),
    ),
];

const VIRTUAL_SERVICE: &[Field] = &[
    (
        "destination",
        Say("write `http: [{route: [{destination: {…}}]}]`"),
    ),
    ("gateway", List("gateways")),
    ("host", List("hosts")),
    (
        "https",
        Say("did you mean `http`, or `tls` for TLS that is passed through?"),
    ),
    ("match", Into("http")),
    ("retries", Into("http")),
    ("route", Into("http")),
    ("routes", Say("write `http: [{route: […]}]`")),
    (
        "subsets",
        Say("subsets are defined in a DestinationRule for the same host"),
    ),
    ("timeout", Into("http")),
    (
        "trafficPolicy",
        Say("`trafficPolicy` belongs into a DestinationRule for the same host"),
    ),
];

const HTTP_ROUTE: &[Field] = &[
    (
        "circuitBreaker",
        Say(
            "circuit breaking is set in a DestinationRule: `connectionPool` and `outlierDetection` under `trafficPolicy`",
        ),
    ),
    ("cors", Mean("corsPolicy")),
    ("destination", Say("write `route: [{destination: {…}}]`")),
    (
        "destinations",
        Say("write `route: [{destination: {…}}, …]`"),
    ),
    ("faultInjection", Mean("fault")),
    ("mirrorTo", Mean("mirror")),
    (
        "outlierDetection",
        Say("`outlierDetection` belongs into a DestinationRule, under `trafficPolicy`"),
    ),
    ("perTryTimeout", Under("retries")),
    ("retry", Mean("retries")),
    ("retryPolicy", Mean("retries")),
    (
        "timeouts",
        Say("did you mean `timeout`? It is one duration, such as 5s"),
    ),
    ("uri", Into("match")),
    (
        "weight",
        Say("move `weight` into the entry of `route`, beside `destination`"),
    ),
];

const ROUTE_DESTINATION: &[Field] = &[
    ("host", Under("destination")),
    ("match", Up("route")),
    (
        "port",
        Say("write `destination: {host: …, port: {number: …}}`"),
    ),
    ("retries", Up("route")),
    ("subset", Under("destination")),
    ("timeout", Up("route")),
];

const DESTINATION: &[Field] = &[
    (
        "labels",
        Say("labels are given to a `subset` in the DestinationRule"),
    ),
    ("name", Mean("host")),
    (
        "namespace",
        Say("write the namespace into `host`: name.namespace.svc.cluster.local"),
    ),
    ("service", Mean("host")),
    (
        "version",
        Say("did you mean `subset`? Its labels are in the DestinationRule"),
    ),
    ("weight", Up("destination")),
];

const HTTP_MATCH: &[Field] = &[
    (
        "cookies",
        Say("match the header: `headers: {cookie: {regex: …}}`"),
    ),
    ("exact", Say("write `uri: {exact: …}`")),
    ("header", Mean("headers")),
    ("host", Mean("authority")),
    ("hosts", Mean("authority")),
    ("path", Mean("uri")),
    ("prefix", Say("write `uri: {prefix: …}`")),
    ("query", Mean("queryParams")),
    ("queryParameters", Mean("queryParams")),
    ("regex", Say("write `uri: {regex: …}`")),
    (
        "source",
        Say("did you mean `sourceLabels`, or `sourceNamespace`?"),
    ),
];

const HTTP_RETRY: &[Field] = &[
    ("count", Mean("attempts")),
    ("maxAttempts", Mean("attempts")),
    ("retries", Mean("attempts")),
    ("retryBackoff", Mean("backoff")),
    (
        "retryOnStatus",
        Say("write the codes into `retryOn`, as in \"503,gateway-error\""),
    ),
    ("timeout", Mean("perTryTimeout")),
];

const STRING_MATCH: &[Field] = &[
    (
        "contains",
        Say("there is no such match: write `regex: \".*text.*\"`"),
    ),
    (
        "suffix",
        Say("there is no suffix match: write `regex: \".*suffix\"`"),
    ),
    ("value", Mean("exact")),
];

const GATEWAY: &[Field] = &[
    (
        "gatewayClassName",
        Say("this is the Gateway API's Gateway: write `apiVersion: gateway.networking.k8s.io/v1`"),
    ),
    ("hosts", Into("servers")),
    (
        "listeners",
        Say(
            "Istio's Gateway has `servers`; `listeners` is the Gateway API's (`apiVersion: gateway.networking.k8s.io/v1`)",
        ),
    ),
    ("server", List("servers")),
    ("tls", Into("servers")),
];

const SERVER_TLS: &[Field] = &[
    (
        "certificateRefs",
        Say("this is the Gateway API's; write `credentialName: SECRET`"),
    ),
    (
        "credentialNamespace",
        Say("the secret has to be in the gateway workload's namespace"),
    ),
    ("secretName", Mean("credentialName")),
];

const SERVICE_ENTRY: &[Field] = &[
    ("endpoint", List("endpoints")),
    ("host", List("hosts")),
    ("port", List("ports")),
    ("protocol", Into("ports")),
    ("selector", Mean("workloadSelector")),
];

const ENVOY_FILTER: &[Field] = &[
    (
        "filters",
        Say("Istio removed `filters`: write `configPatches`"),
    ),
    ("selector", Say("write `workloadSelector: {labels: {…}}`")),
    (
        "workloadLabels",
        Say("Istio removed `workloadLabels`: write `workloadSelector: {labels: {…}}`"),
    ),
];

const PEER_AUTHENTICATION: &[Field] = &[
    ("mode", Say("write `mtls: {mode: …}`")),
    (
        "peers",
        Say("`peers` was the removed Policy's; write `mtls: {mode: STRICT}`"),
    ),
    ("ports", Mean("portLevelMtls")),
    ("tls", Mean("mtls")),
];

const REQUEST_AUTHENTICATION: &[Field] = &[
    ("audiences", Into("jwtRules")),
    ("issuer", Into("jwtRules")),
    ("jwksUri", Into("jwtRules")),
    ("jwt", List("jwtRules")),
    ("rules", Mean("jwtRules")),
];

const AUTHORIZATION_POLICY: &[Field] = &[
    ("from", Into("rules")),
    ("rule", List("rules")),
    ("to", Into("rules")),
    ("when", Into("rules")),
    (
        "workloadSelector",
        Say("write `selector: {matchLabels: {…}}`"),
    ),
];

const RULE_FROM: &[Field] = &[
    ("ipBlocks", Under("source")),
    ("namespaces", Under("source")),
    ("principals", Under("source")),
    ("requestPrincipals", Under("source")),
    ("serviceAccounts", Under("source")),
];

const RULE_TO: &[Field] = &[
    ("hosts", Under("operation")),
    ("methods", Under("operation")),
    ("paths", Under("operation")),
    ("ports", Under("operation")),
];

const SOURCE: &[Field] = &[
    ("cidr", Mean("ipBlocks")),
    ("ips", Mean("ipBlocks")),
    (
        "labels",
        Say(
            "a source is known by its identity: `principals`, `serviceAccounts` or `namespaces`, not by labels",
        ),
    ),
    (
        "user",
        Say("did you mean `principals`, or `requestPrincipals` for a JWT's?"),
    ),
];

const OPERATION: &[Field] = &[
    (
        "headers",
        Say(
            "match headers with a condition: `when: [{key: \"request.headers[name]\", values: […]}]`",
        ),
    ),
    ("uri", Mean("paths")),
    ("verbs", Mean("methods")),
];

const WORKLOAD_SELECTOR: &[Field] = &[
    ("app", SELECTOR_LABEL),
    ("istio", SELECTOR_LABEL),
    ("labels", Mean("matchLabels")),
    (
        "matchExpressions",
        Say("Istio's selectors know only `matchLabels`"),
    ),
    (
        "matchLabels",
        Say("did you mean `labels`? (`matchLabels` is what the security kinds call it)"),
    ),
    ("version", SELECTOR_LABEL),
];
