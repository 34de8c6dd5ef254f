//! Short names for Envoy's messages and constructors for the values that occur everywhere.
//!
//! Nothing here decides anything; a constructor belongs here only if several generators build the same value.

pub(crate) use lateen_envoy::pb::envoy::config::accesslog::v3 as accesslog;
pub(crate) use lateen_envoy::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use lateen_envoy::pb::envoy::config::core::v3 as core;
pub(crate) use lateen_envoy::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use lateen_envoy::pb::envoy::config::listener::v3 as listener;
pub(crate) use lateen_envoy::pb::envoy::config::rbac::v3 as rbac;
pub(crate) use lateen_envoy::pb::envoy::config::route::v3 as route;
pub(crate) use lateen_envoy::pb::envoy::extensions;
pub(crate) use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use lateen_envoy::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use lateen_envoy::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use lateen_envoy::pb::envoy::r#type::v3 as envoy_type;
pub(crate) use lateen_envoy::pb::google::protobuf::{
    Any, BoolValue, Duration as PbDuration, FloatValue, Struct, UInt32Value, UInt64Value,
};

use std::time::Duration;

use prost::{Message, Name};

/// Packs a message with its maps in canonical order.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    lateen_envoy::pack(message)
}

pub(crate) fn u32_value(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn u64_value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

pub(crate) fn bool_value(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// A protobuf duration. Durations beyond what protobuf can hold (292 billion years) saturate.
pub(crate) fn duration(value: Duration) -> PbDuration {
    PbDuration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

/// A TCP socket address.
pub(crate) fn socket_address(address: &str, port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

/// A Unix domain socket.
pub(crate) fn pipe_address(path: &str) -> core::Address {
    core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: path.to_owned(),
            ..Default::default()
        })),
    }
}

/// "Ask the stream this came over": the config source of every EDS, RDS and SDS reference.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        // No timeout: a proxy waits for its configuration rather than start without a part of it.
        initial_fetch_timeout: Some(PbDuration::default()),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// A transport socket by name.
pub(crate) fn transport_socket<M: Message + Name>(name: &str, config: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

/// A network filter by name.
pub(crate) fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

/// An HTTP filter by name.
pub(crate) fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A listener filter by name.
pub(crate) fn listener_filter<M: Message + Name>(
    name: &str,
    config: &M,
) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            config,
        ))),
        ..Default::default()
    }
}

/// A typed extension by name.
pub(crate) fn extension<M: Message + Name>(name: &str, config: &M) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(config)),
    }
}

/// An inline string as a data source.
pub(crate) fn inline_string(value: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(value.to_owned())),
        ..Default::default()
    }
}

/// Matches exactly `value`.
pub(crate) fn exact(value: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
            value.to_owned(),
        )),
        ..Default::default()
    }
}

/// Matches values that start with `value`.
pub(crate) fn prefix(value: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(
            value.to_owned(),
        )),
        ..Default::default()
    }
}

/// Matches the whole value against an RE2 expression.
pub(crate) fn safe_regex(regex: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(re2(regex))),
        ..Default::default()
    }
}

/// An RE2 expression.
pub(crate) fn re2(regex: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: regex.to_owned(),
        ..Default::default()
    }
}

/// A percentage that runtime keys cannot override.
pub(crate) fn runtime_percent(
    percent: envoy_type::FractionalPercent,
) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(percent),
        runtime_key: String::new(),
    }
}
