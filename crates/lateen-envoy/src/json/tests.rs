//! Canonical JSON, both ways.

use serde_json::{Value, json};

use super::{JsonError, any_from_value, any_to_value, from_value, to_value};
use crate::istio::{metadata_exchange::MetadataExchange, stats::PluginConfig, udpa::TypedStruct};
use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::core::v3::Metadata;
use crate::pb::envoy::config::listener::v3::Listener;
use crate::pb::google::protobuf::{Any, Duration};
use crate::{pack, unpack};

fn listener() -> Value {
    json!({
        "name": "virtualOutbound",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15001 } },
        "filter_chains": [{
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "outbound_0.0.0.0_9080",
                    "rds": { "config_source": { "ads": {}, "resource_api_version": "V3" }, "route_config_name": "9080" },
                    "http_filters": [
                        { "name": "istio.alpn", "typed_config": {
                            "@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
                            "alpn_override": [{ "upstream_protocol": "HTTP11", "alpn_override": ["istio", "http/1.1"] }],
                        } },
                        { "name": "envoy.filters.http.router", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        } },
                    ],
                    "stream_idle_timeout": "1.500s",
                },
            }],
        }],
        "traffic_direction": "OUTBOUND",
        "metadata": { "filter_metadata": { "istio": { "a": null, "b": [1, "x", true, 0.5], "c": {} } } },
        "use_original_dst": true,
        "per_connection_buffer_limit_bytes": 32768,
    })
}

#[test]
fn a_listener_with_nested_configurations_survives_both_ways() {
    let read: Listener = from_value(listener()).unwrap();
    // Compared by content: `to_value` orders fields by their numbers.
    assert_eq!(to_value(&read), listener());
    assert_eq!(from_value::<Listener>(to_value(&read)).unwrap(), read);
}

#[test]
fn the_order_of_the_output_is_always_the_same() {
    let namespaces: serde_json::Map<_, _> = (0..50)
        .map(|i| (format!("ns{i}"), json!({ "x": 1, "y": 2, "z": 3 })))
        .collect();
    let read = || from_value::<Metadata>(json!({ "filter_metadata": namespaces })).unwrap();
    let texts: std::collections::BTreeSet<String> =
        (0..8).map(|_| to_value(&read()).to_string()).collect();
    assert_eq!(texts.len(), 1);
}

#[test]
fn lower_camel_case_is_read_as_well() {
    let read: Cluster = from_value(json!({ "connectTimeout": "10s", "type": "EDS" })).unwrap();
    assert_eq!(
        to_value(&read),
        json!({ "type": "EDS", "connect_timeout": "10s" })
    );
}

#[test]
fn an_unknown_any_prints_its_bytes() {
    let any = Any {
        type_url: "type.googleapis.com/no.such.Type".to_owned(),
        value: vec![1, 2, 255],
    };
    let printed = json!({ "@type": "type.googleapis.com/no.such.Type", "value": "AQL/" });
    assert_eq!(any_to_value(&any), printed);

    let mut metadata = Metadata::default();
    metadata.typed_filter_metadata.insert("x".to_owned(), any);
    assert_eq!(
        to_value(&metadata),
        json!({ "typed_filter_metadata": { "x": printed } })
    );
}

#[test]
fn an_any_that_does_not_decode_prints_its_bytes() {
    let any = Any {
        value: vec![0xff],
        ..pack(&Cluster::default())
    };
    assert_eq!(any_to_value(&any)["value"], "/w==");
}

#[test]
fn an_any_of_a_well_known_type_stands_under_value() {
    let any = pack(&Duration {
        seconds: 3,
        nanos: 0,
    });
    assert_eq!(
        any_to_value(&any),
        json!({ "@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s" })
    );
    assert_eq!(any_from_value(any_to_value(&any)).unwrap(), any);
}

#[test]
fn istio_messages_print_and_parse() {
    let config = PluginConfig {
        tcp_reporting_duration: Some(Duration {
            seconds: 5,
            nanos: 0,
        }),
        ..PluginConfig::default()
    };
    assert_eq!(to_value(&config), json!({ "tcp_reporting_duration": "5s" }));

    let exchange = any_from_value(json!({
        "@type": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
        "protocol": "istio-peer-exchange",
    }))
    .unwrap();
    assert_eq!(
        unpack::<MetadataExchange>(&exchange).unwrap().protocol,
        "istio-peer-exchange"
    );

    let typed = json!({ "@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "a/b.C", "value": { "k": "v" } });
    let any = any_from_value(typed.clone()).unwrap();
    assert_eq!(any_to_value(&any), typed);
    assert_eq!(unpack::<TypedStruct>(&any).unwrap().type_url, "a/b.C");
}

#[test]
fn mistakes_are_named() {
    let unknown = from_value::<Cluster>(json!({ "nane": "x" })).unwrap_err();
    assert!(
        matches!(&unknown, JsonError::Shape { source, .. } if source.to_string().contains("nane")),
        "{unknown:?}"
    );
    assert!(
        matches!(any_from_value(json!({ "@type": "x/no.Such" })), Err(JsonError::UnknownType { type_url }) if type_url == "x/no.Such")
    );
    assert!(matches!(any_from_value(json!({})), Err(JsonError::NoType)));
    assert!(any_from_value(json!("text")).is_err());
}
