//! Routing: which route a request takes, and what the route says (`envoy.config.route.v3`).
//!
//! [`RouteConfig::route`] is the fast path: no allocation, and no walk over all routes. [`RouteConfig::explain`] gives the same
//! answer by a walk over all of them, with a reason for each that was passed over.

mod action;
mod decision;
mod explain;
mod hash;
mod host;
mod lazy;
mod matching;
mod rewrite;
mod table;
mod template;
mod times;
mod types;

pub use action::{
    DirectResponse, Forward, HostRewrite, InternalRedirects, MirrorPolicy, PathRewrite, Redirect,
    RedirectPath, RedirectPredicate, RouteAction, RouteTimeouts, RouteUpgrade, Target,
    WeightedCluster, WeightedClusters, WeightedTarget,
};
pub use decision::{RouteDecision, RouteOutcome};
pub use explain::{RejectedRoute, RouteTrace, VhostTrace};
pub use hash::{
    HashCookie, HashPolicy, HashPolicyKind, HashResult, connection_hash_by, request_hash, xx_hash64,
};
pub use host::{Domain, HostIndex, HostMatch, HostMatchKind};
pub use lazy::{LazyHost, VirtualHosts};
pub use matching::Mismatch;
pub use rewrite::https_location;
pub use table::RouteTable;
pub use template::{TemplateError, UriTemplate};
pub use times::{RETRY_HEADERS, grpc_timeout, try_timeout};
pub use types::{
    PathMatch, RequireTls, Route, RouteConfig, RouteMatch, TlsContextMatch, VirtualHost,
};
