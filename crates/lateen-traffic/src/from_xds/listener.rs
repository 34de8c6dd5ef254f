//! Listeners and filter chains.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::config::listener::v3 as lds;
use lateen_envoy::pb::envoy::extensions::filters::listener::{
    original_src::v3 as original_src, proxy_protocol::v3 as proxy_protocol,
};
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use lateen_envoy::pb::google::protobuf::Any;

use super::basic::{
    cidrs, flag, keepalive, metadata, non_empty, number, port, socket_address, socket_options,
    texts, timeout,
};
use super::cluster::DEFAULT_BUFFER_LIMIT;
use super::error::Within as _;
use super::{XdsError, access_log, extension, network_filter};
use crate::listener::{
    ChainIndex, ChainMatch, FilterChain, ListenAddress, Listener, ListenerFilter,
    ListenerFilterKind, ListenerFilterPredicate, ServerName, SourceType, TrafficDirection,
};
use crate::provenance::Provenance;
use crate::request::TransportProtocol;
use crate::tls::DownstreamTls;

/// Time for the listener filters unless set otherwise. Source: Envoy.
const DEFAULT_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
/// Predicates nested in one predicate, at most.
const MAX_DEPTH: usize = 32;

/// Compiles a listener.
pub(super) fn compile(from: lds::Listener, name: &str) -> Result<Listener, XdsError> {
    refuse_unsupported(&from)?;
    let chains = from
        .filter_chains
        .iter()
        .enumerate()
        .map(|(index, chain)| filter_chain(chain).at("filter_chains", index));
    let chains: Vec<Arc<FilterChain>> = chains
        .map(|chain| chain.map(Arc::new))
        .collect::<Result<_, _>>()?;
    let default_chain = from
        .default_filter_chain
        .as_ref()
        .map(filter_chain)
        .transpose()
        .within("default_filter_chain")?;
    let metadata = metadata(from.metadata.as_ref());
    let filters = from.listener_filters.iter().enumerate();
    let filters =
        filters.map(|(index, filter)| listener_filter(filter).at("listener_filters", index));
    let filters_timeout = from.listener_filters_timeout.as_ref();
    #[expect(deprecated, reason = "Envoy falls back to the older field")]
    let bind_by_old_field = from
        .deprecated_v1
        .as_ref()
        .and_then(|old| old.bind_to_port.as_ref());
    Ok(Listener {
        name: if from.name.is_empty() {
            name.into()
        } else {
            from.name.as_str().into()
        },
        stat_prefix: non_empty(&from.stat_prefix),
        address: address(&from)?,
        additional_addresses: additional_addresses(&from)?,
        bind_to_port: flag(from.bind_to_port.as_ref().or(bind_by_old_field), true),
        use_original_dst: flag(from.use_original_dst.as_ref(), false),
        transparent: flag(from.transparent.as_ref(), false),
        freebind: flag(from.freebind.as_ref(), false),
        reuse_port: flag(from.enable_reuse_port.as_ref(), true),
        direction: match from.traffic_direction() {
            core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
            core::TrafficDirection::Inbound => TrafficDirection::Inbound,
            core::TrafficDirection::Outbound => TrafficDirection::Outbound,
        },
        listener_filters: filters.collect::<Result<_, _>>()?,
        listener_filters_timeout: timeout(
            filters_timeout,
            Some(DEFAULT_FILTERS_TIMEOUT),
            "listener_filters_timeout",
        )?,
        continue_on_listener_filters_timeout: from.continue_on_listener_filters_timeout,
        index: index(&chains)?,
        chains,
        default_chain: default_chain.map(Arc::new),
        backlog: number(from.tcp_backlog_size.as_ref()),
        buffer_limit: number(from.per_connection_buffer_limit_bytes.as_ref())
            .unwrap_or(DEFAULT_BUFFER_LIMIT),
        socket_options: socket_options(&from.socket_options),
        keepalive: from.tcp_keepalive.as_ref().map(keepalive),
        access_logs: access_log::compile_all(&from.access_log, "access_log")?,
        max_accepts_per_event: number(from.max_connections_to_accept_per_socket_event.as_ref()),
        provenance: Provenance::from_metadata(&metadata),
        metadata,
    })
}

fn refuse_unsupported(from: &lds::Listener) -> Result<(), XdsError> {
    let unsupported = [
        (from.filter_chain_matcher.is_some(), "filter_chain_matcher"),
        (from.fcds_config.is_some(), "fcds_config"),
        (from.udp_listener_config.is_some(), "udp_listener_config"),
        (from.api_listener.is_some(), "api_listener"),
    ];
    match unsupported.into_iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(XdsError::new("is not supported").within(field)),
        None => Ok(()),
    }
}

fn index(chains: &[Arc<FilterChain>]) -> Result<ChainIndex, XdsError> {
    ChainIndex::new(chains).map_err(|duplicate| {
        let name = |index: usize| chains.get(index).map_or("", |chain| &chain.name);
        let (first, second) = (name(duplicate.first), name(duplicate.second));
        let reason = format!("filter chains {first:?} and {second:?} have the same matching rules");
        XdsError::new(reason).within(format!(
            "filter_chains[{}].filter_chain_match",
            duplicate.second
        ))
    })
}

fn address(from: &lds::Listener) -> Result<ListenAddress, XdsError> {
    if let Some(lds::listener::ListenerSpecifier::InternalListener(_)) = from.listener_specifier {
        return Ok(ListenAddress::Internal);
    }
    let missing = || XdsError::new("the address is missing");
    from.address
        .as_ref()
        .ok_or_else(missing)
        .and_then(listen_address)
        .within("address")
}

fn additional_addresses(from: &lds::Listener) -> Result<Vec<ListenAddress>, XdsError> {
    let compile = |(index, from): (usize, &lds::AdditionalAddress)| {
        let missing = || XdsError::new("the address is missing");
        from.address
            .as_ref()
            .ok_or_else(missing)
            .and_then(listen_address)
            .at("additional_addresses", index)
    };
    from.additional_addresses
        .iter()
        .enumerate()
        .map(compile)
        .collect()
}

fn listen_address(from: &core::Address) -> Result<ListenAddress, XdsError> {
    use core::address::Address as Kind;
    match from.address.as_ref() {
        Some(Kind::SocketAddress(socket))
            if socket.protocol() == core::socket_address::Protocol::Udp =>
        {
            Err(XdsError::new("UDP is not supported").within("socket_address.protocol"))
        }
        Some(Kind::SocketAddress(socket)) => socket_address(socket)
            .within("socket_address")
            .map(ListenAddress::Socket),
        Some(Kind::Pipe(pipe)) => Ok(ListenAddress::Pipe(pipe.path.as_str().into())),
        Some(Kind::EnvoyInternalAddress(_)) => Ok(ListenAddress::Internal),
        None => Err(XdsError::new("the address is empty")),
    }
}

fn listener_filter(from: &lds::ListenerFilter) -> Result<ListenerFilter, XdsError> {
    let any = match from.config_type.as_ref() {
        Some(lds::listener_filter::ConfigType::TypedConfig(any)) => Some(any),
        Some(lds::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(XdsError::new("listener filters by ECDS are not supported")
                .within("config_discovery"));
        }
        None => None,
    };
    let disabled = from
        .filter_disabled
        .as_ref()
        .map(|rule| predicate(rule, MAX_DEPTH));
    Ok(ListenerFilter {
        name: from.name.as_str().into(),
        kind: listener_filter_kind(&from.name, any)?,
        disabled: disabled.transpose().within("filter_disabled")?,
    })
}

fn listener_filter_kind(name: &str, any: Option<&Any>) -> Result<ListenerFilterKind, XdsError> {
    let type_name = any.map_or_else(|| Ok(String::new()), extension::type_name)?;
    let short = type_name
        .strip_prefix("envoy.extensions.filters.listener.")
        .unwrap_or(&type_name);
    Ok(match (short, any) {
        ("tls_inspector.v3.TlsInspector", _) => ListenerFilterKind::TlsInspector,
        ("http_inspector.v3.HttpInspector", _) => ListenerFilterKind::HttpInspector,
        ("original_dst.v3.OriginalDst", _) => ListenerFilterKind::OriginalDst,
        ("original_src.v3.OriginalSrc", Some(any)) => {
            let config: original_src::OriginalSrc = extension::message(any)?;
            ListenerFilterKind::OriginalSrc { mark: config.mark }
        }
        ("proxy_protocol.v3.ProxyProtocol", Some(any)) => {
            let config: proxy_protocol::ProxyProtocol = extension::message(any)?;
            ListenerFilterKind::ProxyProtocol {
                allow_without: config.allow_requests_without_proxy_protocol,
            }
        }
        // Without a configuration a filter is known by its name alone, as in Envoy.
        ("", None) => match name {
            "envoy.filters.listener.tls_inspector" => ListenerFilterKind::TlsInspector,
            "envoy.filters.listener.http_inspector" => ListenerFilterKind::HttpInspector,
            "envoy.filters.listener.original_dst" => ListenerFilterKind::OriginalDst,
            _ => {
                return Err(XdsError::new(format!(
                    "listener filter {name:?} is not supported"
                )));
            }
        },
        _ => {
            return Err(XdsError::new(format!(
                "listener filter {name:?} of type {type_name} is not supported"
            )));
        }
    })
}

fn predicate(
    from: &lds::ListenerFilterChainMatchPredicate,
    depth: usize,
) -> Result<ListenerFilterPredicate, XdsError> {
    use lds::listener_filter_chain_match_predicate::Rule;
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| XdsError::new("the predicate is nested too deeply"))?;
    let all = |rules: &[lds::ListenerFilterChainMatchPredicate]| {
        rules
            .iter()
            .map(|rule| predicate(rule, depth))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(
        match from
            .rule
            .as_ref()
            .ok_or_else(|| XdsError::new("the predicate is empty"))?
        {
            Rule::OrMatch(set) => ListenerFilterPredicate::Or(all(&set.rules)?),
            Rule::AndMatch(set) => ListenerFilterPredicate::And(all(&set.rules)?),
            Rule::NotMatch(rule) => ListenerFilterPredicate::Not(Box::new(predicate(rule, depth)?)),
            Rule::AnyMatch(true) => ListenerFilterPredicate::Any,
            Rule::AnyMatch(false) => {
                ListenerFilterPredicate::Not(Box::new(ListenerFilterPredicate::Any))
            }
            Rule::DestinationPortRange(range) => {
                let bound = |value: i32| {
                    u32::try_from(value).map_err(|_| XdsError::new("the port range is invalid"))
                };
                ListenerFilterPredicate::DestinationPorts(bound(range.start)?, bound(range.end)?)
            }
        },
    )
}

fn filter_chain(from: &lds::FilterChain) -> Result<FilterChain, XdsError> {
    let metadata = metadata(from.metadata.as_ref());
    let connect_timeout = from.transport_socket_connect_timeout.as_ref();
    Ok(FilterChain {
        name: from.name.as_str().into(),
        matcher: chain_match(from.filter_chain_match.as_ref()).within("filter_chain_match")?,
        tls: downstream_tls(from.transport_socket.as_ref()).within("transport_socket")?,
        transport_connect_timeout: timeout(
            connect_timeout,
            None,
            "transport_socket_connect_timeout",
        )?,
        filters: network_filter::chain(&from.filters)?,
        provenance: Provenance::from_metadata(&metadata),
        metadata,
    })
}

fn chain_match(from: Option<&lds::FilterChainMatch>) -> Result<ChainMatch, XdsError> {
    use lds::filter_chain_match::ConnectionSourceType;
    let Some(from) = from else {
        return Ok(ChainMatch::default());
    };
    if !from.address_suffix.is_empty() || from.suffix_len.is_some() {
        return Err(XdsError::new("is not supported").within("address_suffix"));
    }
    let names = from.server_names.iter().enumerate().map(|(index, name)| {
        let invalid = || {
            XdsError::new(format!(
                "{name:?} is no server name: a wildcard stands for whole labels at the start"
            ))
        };
        ServerName::parse(name)
            .ok_or_else(invalid)
            .at("server_names", index)
    });
    let ports = from
        .source_ports
        .iter()
        .map(|number| port(*number))
        .collect::<Result<_, _>>();
    let (transport_protocol, impossible_transport) = match from.transport_protocol.as_str() {
        "" => (None, None),
        "raw_buffer" => (Some(TransportProtocol::RawBuffer), None),
        "tls" => (Some(TransportProtocol::Tls), None),
        "quic" => (Some(TransportProtocol::Quic), None),
        other => (None, Some(other.into())),
    };
    Ok(ChainMatch {
        destination_port: number(from.destination_port.as_ref())
            .map(port)
            .transpose()
            .within("destination_port")?,
        prefix_ranges: cidrs(&from.prefix_ranges, "prefix_ranges")?,
        server_names: names.collect::<Result<_, _>>()?,
        transport_protocol,
        application_protocols: texts(&from.application_protocols),
        direct_source_prefix_ranges: cidrs(
            &from.direct_source_prefix_ranges,
            "direct_source_prefix_ranges",
        )?,
        source_type: match from.source_type() {
            ConnectionSourceType::Any => SourceType::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            ConnectionSourceType::External => SourceType::External,
        },
        source_prefix_ranges: cidrs(&from.source_prefix_ranges, "source_prefix_ranges")?,
        source_ports: ports.within("source_ports")?,
        impossible_transport,
    })
}

fn downstream_tls(
    from: Option<&core::TransportSocket>,
) -> Result<Option<Arc<DownstreamTls>>, XdsError> {
    let Some(from) = from else { return Ok(None) };
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = from.config_type.as_ref()
    else {
        return match from.name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(None),
            name => Err(XdsError::new(format!(
                "the transport socket {name:?} has no configuration"
            ))),
        };
    };
    match extension::type_name(any)?.as_str() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(None),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            let context: tls::DownstreamTlsContext = extension::message(any)?;
            Ok(Some(Arc::new(super::tls::downstream(&context)?)))
        }
        other => Err(XdsError::new(format!(
            "the transport socket {other} is not supported"
        ))),
    }
}
