//! Constructors of the small messages that everything else is made of.

use std::net::{IpAddr, SocketAddr};

use prost::{Message, Name};
use serde_json::Value as Json;

use crate::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Pipe, SocketAddress,
    TypedExtensionConfig, address::Address as AddressKind, config_source::ConfigSourceSpecifier,
    socket_address::PortSpecifier,
};
use crate::pb::google::protobuf::{
    BoolValue, Duration, ListValue, Struct, UInt32Value, Value, value::Kind,
};

/// A duration. Those beyond protobuf's range (about 10,000 years) are cut to it.
pub fn duration(value: std::time::Duration) -> Duration {
    /// Source: `google/protobuf/duration.proto`.
    const MAX_SECONDS: i64 = 315_576_000_000;
    match i64::try_from(value.as_secs()) {
        Ok(seconds) if seconds < MAX_SECONDS => Duration {
            seconds,
            nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
        },
        _ => Duration {
            seconds: MAX_SECONDS,
            nanos: 0,
        },
    }
}

/// A number that is told from absence.
pub fn uint32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

/// A flag that is told from absence.
pub fn boolean(value: bool) -> BoolValue {
    BoolValue { value }
}

/// A JSON object as a [`Struct`]. Numbers become doubles, as in every protobuf JSON.
pub fn struct_from_json(object: &serde_json::Map<String, Json>) -> Struct {
    Struct {
        fields: object
            .iter()
            .map(|(key, value)| (key.clone(), value_from_json(value)))
            .collect(),
    }
}

/// A JSON value as a protobuf [`Value`].
pub fn value_from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(value_from_json).collect(),
        }),
        Json::Object(object) => Kind::StructValue(struct_from_json(object)),
    };
    Value { kind: Some(kind) }
}

/// The TCP address of `ip` and `port`.
pub fn socket_address(ip: IpAddr, port: u16) -> Address {
    host_address(ip.to_string(), port)
}

/// The TCP address of a host name or an address in text form; what Istio writes for DNS clusters.
pub fn host_address(host: impl Into<String>, port: u16) -> Address {
    let address = SocketAddress {
        address: host.into(),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..SocketAddress::default()
    };
    Address {
        address: Some(AddressKind::SocketAddress(address)),
    }
}

/// A Unix socket's address; a leading `@` names an abstract one.
pub fn pipe_address(path: impl Into<String>) -> Address {
    Address {
        address: Some(AddressKind::Pipe(Pipe {
            path: path.into(),
            mode: 0,
        })),
    }
}

/// The IP and port of an address; `None` for pipes, internal addresses, host names and named ports.
pub fn socket_addr_of(address: &Address) -> Option<SocketAddr> {
    let Some(AddressKind::SocketAddress(socket)) = &address.address else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    Some(SocketAddr::new(
        socket.address.parse().ok()?,
        u16::try_from(port).ok()?,
    ))
}

/// "Over the ADS stream, API version 3"; with Istio's `initial_fetch_timeout` of 0 s: wait for ever rather than start without.
pub fn ads_config_source() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        initial_fetch_timeout: Some(duration(std::time::Duration::ZERO)),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    }
}

/// A named extension with its configuration packed.
pub fn extension<M: Message + Name>(name: impl Into<String>, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.into(),
        typed_config: Some(crate::pack(config)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use super::*;
    use crate::json::to_value;

    #[test]
    fn durations_are_cut_to_what_protobuf_can_say() {
        assert_eq!(
            duration(StdDuration::from_millis(1500)),
            Duration {
                seconds: 1,
                nanos: 500_000_000
            }
        );
        assert_eq!(
            duration(StdDuration::MAX),
            Duration {
                seconds: 315_576_000_000,
                nanos: 0
            }
        );
    }

    #[test]
    fn addresses_read_back() {
        let v6: SocketAddr = "[fd00::1]:80".parse().unwrap();
        assert_eq!(
            socket_addr_of(&socket_address(v6.ip(), v6.port())),
            Some(v6)
        );
        assert_eq!(socket_addr_of(&host_address("example.com", 80)), None);
        assert_eq!(socket_addr_of(&pipe_address("/run/x")), None);
    }

    #[test]
    fn json_becomes_a_struct_and_back() {
        let json = serde_json::json!({ "a": [null, true, 1, 1.5, "x", {}], "b": { "c": [] } });
        let made = struct_from_json(json.as_object().unwrap());
        assert_eq!(to_value(&made), json);
    }

    #[test]
    fn the_ads_source_waits_for_ever() {
        let expected = serde_json::json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
        assert_eq!(to_value(&ads_config_source()), expected);
    }
}
