//! The fields of `networking.v1alpha3` (envoy filter), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use super::WorkloadSelector;
use crate::schema::check::is_set;
use crate::schema::{enumeration, object};
use crate::selector::PolicyTargetReference;
use crate::tree::Node;
use crate::value::Value;

object! {
    /// `networking.v1alpha3.EnvoyFilter` of Istio's API.
    pub struct EnvoyFilter [AtMostOne(&["workloadSelector", "targetRefs"])] {
        workload_selector: Option<WorkloadSelector>,
        target_refs: Vec<PolicyTargetReference> [max_items(16)],
        config_patches: Vec<EnvoyConfigObjectPatch>,
        priority: i32,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.ProxyMatch` of Istio's API.
    pub struct ProxyMatch {
        proxy_version: String,
        metadata: BTreeMap<String, String>,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.ClusterMatch` of Istio's API.
    pub struct ClusterMatch {
        port_number: u32,
        service: String,
        subset: String,
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.RouteConfigurationMatch` of Istio's API.
    pub struct RouteConfigurationMatch {
        port_number: u32,
        port_name: String,
        gateway: String,
        vhost: Option<VirtualHostMatch>,
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.RouteConfigurationMatch.RouteMatch` of Istio's API.
    pub struct RouteMatch {
        name: String,
        action: RouteMatchAction,
    }
}

enumeration! {
    /// `networking.v1alpha3.EnvoyFilter.RouteConfigurationMatch.RouteMatch.Action` of Istio's API.
    pub enum RouteMatchAction {
        Any = "ANY",
        Route = "ROUTE",
        Redirect = "REDIRECT",
        DirectResponse = "DIRECT_RESPONSE",
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.RouteConfigurationMatch.VirtualHostMatch` of Istio's API.
    pub struct VirtualHostMatch {
        name: String,
        domain_name: String,
        route: Option<RouteMatch>,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.ListenerMatch` of Istio's API.
    pub struct ListenerMatch {
        port_number: u32,
        port_name: String,
        filter_chain: Option<FilterChainMatch>,
        listener_filter: String,
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.ListenerMatch.FilterChainMatch` of Istio's API.
    pub struct FilterChainMatch {
        name: String,
        sni: String,
        transport_protocol: String,
        transport_socket: String,
        application_protocols: String,
        filter: Option<FilterMatch>,
        destination_port: u32,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.ListenerMatch.FilterMatch` of Istio's API.
    pub struct FilterMatch {
        name: String,
        sub_filter: Option<SubFilterMatch>,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.ListenerMatch.SubFilterMatch` of Istio's API.
    pub struct SubFilterMatch {
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.WaypointMatch` of Istio's API.
    pub struct WaypointMatch {
        port_number: u32 [PORT],
        route: Option<WaypointRouteMatch>,
        filter: Option<WaypointFilterMatch>,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.WaypointMatch.RouteMatch` of Istio's API.
    pub struct WaypointRouteMatch {
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.WaypointMatch.FilterMatch` of Istio's API.
    pub struct WaypointFilterMatch {
        name: String,
        sub_filter: Option<WaypointSubFilterMatch>,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.WaypointMatch.FilterMatch.SubFilterMatch` of Istio's API.
    pub struct WaypointSubFilterMatch {
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.Patch` of Istio's API.
    pub struct Patch {
        operation: PatchOperation,
        value: Option<Value>,
        filter_class: FilterClass,
    }
}

enumeration! {
    /// `networking.v1alpha3.EnvoyFilter.Patch.Operation` of Istio's API.
    pub enum PatchOperation {
        Invalid = "INVALID",
        Merge = "MERGE",
        Add = "ADD",
        Remove = "REMOVE",
        InsertBefore = "INSERT_BEFORE",
        InsertAfter = "INSERT_AFTER",
        InsertFirst = "INSERT_FIRST",
        Replace = "REPLACE",
        MergeAndReplaceList = "MERGE_AND_REPLACE_LIST",
    }
}

enumeration! {
    /// `networking.v1alpha3.EnvoyFilter.Patch.FilterClass` of Istio's API.
    pub enum FilterClass {
        Unspecified = "UNSPECIFIED",
        Authn = "AUTHN",
        Authz = "AUTHZ",
        Stats = "STATS",
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.EnvoyConfigObjectMatch` of Istio's API.
    pub struct EnvoyConfigObjectMatch [AtMostOne(&["listener", "routeConfiguration", "cluster", "waypoint"]), Custom(waypoint_context)] {
        context: PatchContext,
        proxy: Option<ProxyMatch>,
        listener: Option<ListenerMatch>,
        route_configuration: Option<RouteConfigurationMatch>,
        cluster: Option<ClusterMatch>,
        waypoint: Option<WaypointMatch>,
    }
}

object! {
    /// `networking.v1alpha3.EnvoyFilter.EnvoyConfigObjectPatch` of Istio's API.
    pub struct EnvoyConfigObjectPatch {
        apply_to: ApplyTo,
        r#match: Option<EnvoyConfigObjectMatch>,
        patch: Option<Patch>,
    }
}

enumeration! {
    /// `networking.v1alpha3.EnvoyFilter.ApplyTo` of Istio's API.
    pub enum ApplyTo {
        Invalid = "INVALID",
        Listener = "LISTENER",
        FilterChain = "FILTER_CHAIN",
        NetworkFilter = "NETWORK_FILTER",
        HttpFilter = "HTTP_FILTER",
        RouteConfiguration = "ROUTE_CONFIGURATION",
        VirtualHost = "VIRTUAL_HOST",
        HttpRoute = "HTTP_ROUTE",
        Cluster = "CLUSTER",
        ExtensionConfig = "EXTENSION_CONFIG",
        Bootstrap = "BOOTSTRAP",
        ListenerFilter = "LISTENER_FILTER",
    }
}

enumeration! {
    /// `networking.v1alpha3.EnvoyFilter.PatchContext` of Istio's API.
    pub enum PatchContext {
        Any = "ANY",
        SidecarInbound = "SIDECAR_INBOUND",
        SidecarOutbound = "SIDECAR_OUTBOUND",
        Gateway = "GATEWAY",
        Waypoint = "WAYPOINT",
    }
}

/// `waypoint` goes with the context `WAYPOINT`, and with nothing else.
fn waypoint_context(node: &Node) -> Option<(&'static str, &'static str)> {
    let in_waypoint = node.get("context").and_then(Node::text) == Some("WAYPOINT");
    match (in_waypoint, is_set(node, "waypoint")) {
        (true, false) => Some(("context", "the context WAYPOINT needs a `waypoint` match")),
        (false, true) => Some(("waypoint", "a `waypoint` match needs the context WAYPOINT")),
        _ => None,
    }
}
