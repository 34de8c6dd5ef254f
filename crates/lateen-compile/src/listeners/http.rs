//! HTTP connection managers, set up as Istio sets them up.

use crate::accesslog;
use crate::filters::{self, Class, HCM};
use crate::mesh::{Mesh, PathNormalization};
use crate::proto::{
    PbDuration, ads, any, bool_value, core, duration, hcm, listener, network_filter,
};
use crate::protocol::Protocol;
use crate::tracing;
use lateen_api::mesh::ForwardClientCertDetails as Wanted;

use super::ListenerView;
use hcm::HttpConnectionManager;
use hcm::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    SetCurrentClientCertDetails, UpgradeConfig,
};

/// Where the routes are.
pub(super) enum Routes {
    /// In the listener.
    Inline(Box<crate::proto::route::RouteConfiguration>),
    /// Elsewhere, by name.
    Named(String),
}

/// What distinguishes one connection manager from another.
pub(super) struct HttpOptions {
    pub(super) class: Class,
    pub(super) routes: Routes,
    pub(super) stat_prefix: String,
    pub(super) protocol: Protocol,
    /// External authorization, in Istio's place: before authentication.
    pub(super) authorizers: Vec<hcm::HttpFilter>,
    /// Verification of tokens: after external authorization, before the policies that may ask for what it finds.
    pub(super) authentication: Option<hcm::HttpFilter>,
    /// Authorization, in Istio's place: after authentication, before everything that routes.
    pub(super) policies: Vec<hcm::HttpFilter>,
}

/// The network filter of an HTTP connection.
pub(super) fn filter(view: &ListenerView, mesh: &Mesh, options: HttpOptions) -> listener::Filter {
    network_filter(HCM, any(&manager(view, mesh, options)))
}

fn manager(view: &ListenerView, mesh: &Mesh, options: HttpOptions) -> HttpConnectionManager {
    let class = options.class;
    let traced = tracing::of_class(mesh, class);
    let mut out = HttpConnectionManager {
        // Statistics prefixes end in `;` so that dots in addresses do not confuse tag extraction (Istio's convention).
        stat_prefix: format!("{};", options.stat_prefix),
        access_log: accesslog::logs(mesh, class),
        server_name: "istio-envoy".to_owned(),
        use_remote_address: bool_value(class == Class::Gateway),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        // Streams may be silent as long as they like; what ends them is a timeout that somebody set.
        stream_idle_timeout: Some(PbDuration::default()),
        request_id_extension: Some(filters::request_id(
            traced.is_none_or(|tracing| tracing.by_request_id),
        )),
        tracing: traced.map(|tracing| tracing::settings(tracing, class)),
        route_specifier: Some(match options.routes {
            Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
            Routes::Named(name) => RouteSpecifier::Rds(hcm::Rds {
                config_source: Some(ads()),
                route_config_name: name,
            }),
        }),
        ..Default::default()
    };
    set_path_normalization(&mut out, mesh.path_normalization);
    if let Some(idle) = view.idle_timeout {
        out.common_http_protocol_options = Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(idle)),
            ..Default::default()
        });
    }
    match class {
        Class::SidecarInbound => set_inbound(&mut out, options.protocol),
        Class::Gateway => set_gateway(&mut out, mesh),
        Class::SidecarOutbound => {}
    }
    let policies = [
        options.authorizers,
        options.authentication.into_iter().collect(),
        options.policies,
    ]
    .concat();
    out.http_filters = http_filters((view, mesh), class, options.protocol, policies);
    out
}

fn set_path_normalization(out: &mut HttpConnectionManager, normalization: PathNormalization) {
    out.normalize_path = bool_value(normalization != PathNormalization::None);
    out.merge_slashes = matches!(
        normalization,
        PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes
    );
    let slashes = if normalization == PathNormalization::DecodeAndMergeSlashes {
        PathWithEscapedSlashesAction::UnescapeAndForward
    } else {
        PathWithEscapedSlashesAction::KeepUnchanged
    };
    out.path_with_escaped_slashes_action = slashes as i32;
}

/// The workload is told who the client is, after what earlier hops said.
fn set_inbound(out: &mut HttpConnectionManager, protocol: Protocol) {
    out.forward_client_cert_details = ForwardClientCertDetails::AppendForward as i32;
    out.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
        subject: bool_value(true),
        uri: true,
        dns: true,
        ..Default::default()
    });
    if protocol.is_http2() {
        out.http2_protocol_options = Some(core::Http2ProtocolOptions::default());
    }
}

/// At the edge nothing a client says about itself is believed, beyond the trusted proxies in front.
fn set_gateway(out: &mut HttpConnectionManager, mesh: &Mesh) {
    out.xff_num_trusted_hops = mesh.trusted_proxies;
    out.http_protocol_options = Some(core::Http1ProtocolOptions::default());
    out.forward_client_cert_details = match mesh.gateway_client_cert {
        Wanted::Undefined | Wanted::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        Wanted::Sanitize => ForwardClientCertDetails::Sanitize,
        Wanted::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        Wanted::AppendForward => ForwardClientCertDetails::AppendForward,
        Wanted::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    } as i32;
    out.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
        subject: bool_value(true),
        cert: true,
        dns: true,
        uri: true,
        ..Default::default()
    });
}

/// The order is Istio's; EnvoyFilters count on it.
fn http_filters(
    (view, mesh): (&ListenerView, &Mesh),
    class: Class,
    protocol: Protocol,
    policies: Vec<hcm::HttpFilter>,
) -> Vec<hcm::HttpFilter> {
    let mut out = Vec::new();
    if view.native {
        out.push(filters::peer_metadata(class));
    }
    out.extend(policies);
    if protocol == Protocol::GrpcWeb {
        out.push(filters::grpc_web());
    }
    out.push(filters::grpc_stats());
    if class != Class::SidecarInbound {
        out.push(match view.native {
            true => filters::alpn(),
            false => filters::alpn_of_cluster(),
        });
    }
    out.push(filters::fault());
    out.push(filters::cors());
    if view.native {
        out.extend(filters::http_stats(mesh, class));
    }
    if view.dynamic_dns && class != Class::SidecarInbound {
        out.push(filters::dynamic_forward_proxy(view.ip_mode));
    }
    out.push(filters::router());
    out
}
