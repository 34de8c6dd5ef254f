//! The small messages everything is made of: durations, numbers, addresses, ranges, metadata.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::r#type::v3 as ty;
use lateen_envoy::pb::google::protobuf as google;

use super::XdsError;
use crate::cluster::{SocketOption, SocketOptionValue, SocketState, TcpKeepalive};
use crate::matcher::Fraction;
use crate::tls::DataSource;
use crate::value::{Metadata, Value};

/// Levels a struct may be nested; deeper ones are cut, as nothing looks so far down.
const MAX_DEPTH: usize = 64;

/// A text, unless it is empty.
pub(super) fn non_empty(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// Texts as shared ones.
pub(super) fn texts(texts: &[String]) -> Vec<Arc<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

/// An optional number.
pub(super) fn number(value: Option<&google::UInt32Value>) -> Option<u32> {
    value.map(|value| value.value)
}

/// An optional number that stands for "no limit" if 0.
pub(super) fn limit(value: Option<&google::UInt32Value>) -> Option<u32> {
    number(value).filter(|value| *value != 0)
}

/// An optional flag.
pub(super) fn flag(value: Option<&google::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// A duration; negative ones are refused, as Envoy refuses them.
pub(super) fn duration(value: &google::Duration) -> Result<Duration, XdsError> {
    let seconds = u64::try_from(value.seconds);
    let nanos = u32::try_from(value.nanos);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(XdsError::new("the duration is negative or out of range")),
    }
}

/// A duration that may be absent.
pub(super) fn optional_duration(
    value: Option<&google::Duration>,
    field: &str,
) -> Result<Option<Duration>, XdsError> {
    value
        .map(duration)
        .transpose()
        .map_err(|error| error.within(field))
}

/// A timeout: absent gives the default, zero none at all.
pub(super) fn timeout(
    value: Option<&google::Duration>,
    default: Option<Duration>,
    field: &str,
) -> Result<Option<Duration>, XdsError> {
    Ok(match optional_duration(value, field)? {
        None => default,
        Some(Duration::ZERO) => None,
        some => some,
    })
}

/// A timeout that leaves the decision to another level if absent.
pub(super) fn inherited_timeout(
    value: Option<&google::Duration>,
    field: &str,
) -> Result<Option<Option<Duration>>, XdsError> {
    Ok(optional_duration(value, field)?.map(|duration| (!duration.is_zero()).then_some(duration)))
}

/// A percentage that may be absent.
pub(super) fn percent(value: Option<&ty::Percent>, default: f64) -> f64 {
    value.map_or(default, |percent| percent.value)
}

/// A share; an unknown denominator is refused.
pub(super) fn fraction(value: &ty::FractionalPercent) -> Result<Fraction, XdsError> {
    let denominator = match value.denominator() {
        ty::fractional_percent::DenominatorType::Hundred => 100,
        ty::fractional_percent::DenominatorType::TenThousand => 10_000,
        ty::fractional_percent::DenominatorType::Million => 1_000_000,
    };
    Ok(Fraction {
        numerator: value.numerator,
        denominator,
    })
}

/// The default of a share that Envoy's runtime could override. There is no runtime here.
pub(super) fn runtime_fraction(
    value: &core::RuntimeFractionalPercent,
) -> Result<Fraction, XdsError> {
    value
        .default_value
        .as_ref()
        .map_or(Ok(Fraction::ALL), fraction)
}

/// A port number.
pub(super) fn port(value: u32) -> Result<u16, XdsError> {
    u16::try_from(value).map_err(|_| XdsError::new(format!("{value} is no port")))
}

/// An address range.
pub(super) fn cidr(range: &core::CidrRange) -> Result<IpNet, XdsError> {
    let invalid = || XdsError::new(format!("{:?} is no address range", range.address_prefix));
    let address: IpAddr = range.address_prefix.parse().map_err(|_| invalid())?;
    let length = number(range.prefix_len.as_ref()).unwrap_or(0);
    let net = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok());
    net.map(|net| net.trunc()).ok_or_else(invalid)
}

/// Address ranges.
pub(super) fn cidrs(ranges: &[core::CidrRange], field: &str) -> Result<Vec<IpNet>, XdsError> {
    let compile = |(index, range)| {
        cidr(range).map_err(|error: XdsError| error.within(format!("{field}[{index}]")))
    };
    ranges.iter().enumerate().map(compile).collect()
}

/// IP and port of a socket address.
pub(super) fn socket_address(address: &core::SocketAddress) -> Result<SocketAddr, XdsError> {
    let ip: IpAddr = address.address.parse().map_err(|_| {
        XdsError::new(format!("{:?} is no IP address", address.address)).within("address")
    })?;
    Ok(SocketAddr::new(ip, port_of(address)?))
}

/// The port of a socket address; 0 if none is given.
pub(super) fn port_of(address: &core::SocketAddress) -> Result<u16, XdsError> {
    match &address.port_specifier {
        None => Ok(0),
        Some(core::socket_address::PortSpecifier::PortValue(value)) => {
            port(*value).map_err(|error| error.within("port_value"))
        }
        Some(core::socket_address::PortSpecifier::NamedPort(name)) => Err(XdsError::new(format!(
            "the port {name:?} is a name, which is not supported"
        ))
        .within("named_port")),
    }
}

/// Bytes, or where they are.
pub(super) fn data_source(source: &core::DataSource) -> Result<DataSource, XdsError> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::Filename(path)) => Ok(DataSource::File(path.as_str().into())),
        Some(Specifier::InlineBytes(bytes)) => Ok(DataSource::Inline(bytes.clone().into())),
        Some(Specifier::InlineString(text)) => Ok(DataSource::Inline(text.clone().into())),
        Some(Specifier::EnvironmentVariable(name)) => {
            Ok(DataSource::Environment(name.as_str().into()))
        }
        None => Err(XdsError::new("no data source is given")),
    }
}

/// Filter metadata. Typed metadata is left out: nothing in a mesh writes it.
pub(super) fn metadata(metadata: Option<&core::Metadata>) -> Metadata {
    let namespaces = metadata
        .iter()
        .flat_map(|metadata| &metadata.filter_metadata);
    let namespaces: BTreeMap<Arc<str>, Value> = namespaces
        .map(|(name, fields)| (name.as_str().into(), struct_value(fields, MAX_DEPTH)))
        .collect();
    Metadata { namespaces }
}

/// Metadata that selects endpoints, if there is any.
pub(super) fn metadata_match(metadata_match: Option<&core::Metadata>) -> Option<Arc<Metadata>> {
    let compiled = metadata(metadata_match);
    (!compiled.is_empty()).then(|| Arc::new(compiled))
}

/// A struct.
pub(super) fn object(fields: &google::Struct) -> Value {
    struct_value(fields, MAX_DEPTH)
}

fn struct_value(fields: &google::Struct, depth: usize) -> Value {
    if depth == 0 {
        return Value::Null;
    }
    Value::Struct(
        fields
            .fields
            .iter()
            .map(|(key, field)| (key.as_str().into(), value(field, depth - 1)))
            .collect(),
    )
}

fn value(from: &google::Value, depth: usize) -> Value {
    use google::value::Kind;
    match &from.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => Value::Number(*number),
        Some(Kind::StringValue(text)) => Value::String(text.as_str().into()),
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::StructValue(fields)) => struct_value(fields, depth),
        Some(Kind::ListValue(_)) if depth == 0 => Value::Null,
        Some(Kind::ListValue(list)) => Value::List(
            list.values
                .iter()
                .map(|item| value(item, depth - 1))
                .collect(),
        ),
    }
}

/// Socket options.
pub(super) fn socket_options(options: &[core::SocketOption]) -> Vec<SocketOption> {
    use core::socket_option::{SocketState as State, Value as OptionValue};
    let compile = |option: &core::SocketOption| {
        let value = match option.value.as_ref()? {
            OptionValue::IntValue(number) => SocketOptionValue::Int(*number),
            OptionValue::BufValue(bytes) => SocketOptionValue::Buffer(bytes.clone().into()),
        };
        let state = match option.state() {
            State::StatePrebind => SocketState::PreBind,
            State::StateBound => SocketState::Bound,
            State::StateListening => SocketState::Listening,
        };
        let description = option.description.as_str().into();
        Some(SocketOption {
            description,
            level: option.level,
            name: option.name,
            value,
            state,
        })
    };
    options.iter().filter_map(compile).collect()
}

/// TCP keep-alive.
pub(super) fn keepalive(keepalive: &core::TcpKeepalive) -> TcpKeepalive {
    let seconds = |value| number(value).map(|seconds| Duration::from_secs(u64::from(seconds)));
    TcpKeepalive {
        probes: number(keepalive.keepalive_probes.as_ref()),
        time: seconds(keepalive.keepalive_time.as_ref()),
        interval: seconds(keepalive.keepalive_interval.as_ref()),
    }
}
