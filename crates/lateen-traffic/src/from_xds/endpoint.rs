//! Endpoint sets.

use std::sync::Arc;

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::config::endpoint::v3 as eds;

use super::XdsError;
use super::basic::{fraction, metadata, number, port, port_of, socket_address};
use super::error::Within as _;
use crate::endpoint::{
    Endpoint, EndpointAddress, EndpointCheck, EndpointSet, HealthStatus, Locality, LocalityGroup,
};
use crate::matcher::Fraction;

/// Highest priority number, as in Envoy.
const MAX_PRIORITY: u32 = 128;

/// Whether endpoints may be host names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// They are resolved (STRICT_DNS, LOGICAL_DNS).
    Allowed,
    /// They are addresses.
    Forbidden,
}

/// Compiles an endpoint set.
pub(super) fn compile(
    from: &eds::ClusterLoadAssignment,
    names: Names,
) -> Result<EndpointSet, XdsError> {
    let mut set = EndpointSet::empty(from.cluster_name.as_str());
    if let Some(policy) = &from.policy {
        set.overprovisioning_factor =
            number(policy.overprovisioning_factor.as_ref()).unwrap_or(140);
        set.weighted_priority_health = policy.weighted_priority_health;
        for (index, drop) in policy.drop_overloads.iter().enumerate() {
            let share = drop
                .drop_percentage
                .as_ref()
                .map_or(Ok(Fraction::NONE), fraction);
            set.drop_overloads.push((
                drop.category.as_str().into(),
                share.at("policy.drop_overloads", index)?,
            ));
        }
    }
    let mut groups: Vec<(usize, &eds::LocalityLbEndpoints)> =
        from.endpoints.iter().enumerate().collect();
    groups.sort_by_key(|(_, group)| group.priority);
    for (index, group) in groups {
        add_group(&mut set, group, names).at("endpoints", index)?;
    }
    Ok(set)
}

fn add_group(
    set: &mut EndpointSet,
    from: &eds::LocalityLbEndpoints,
    names: Names,
) -> Result<(), XdsError> {
    if from.priority > MAX_PRIORITY {
        return Err(
            XdsError::new(format!("{} is above {MAX_PRIORITY}", from.priority)).within("priority"),
        );
    }
    let locality = Arc::new(locality(from.locality.as_ref()));
    let start = set.endpoints.len();
    for (index, endpoint) in from.lb_endpoints.iter().enumerate() {
        let endpoint = compile_endpoint(endpoint, &locality, names).at("lb_endpoints", index)?;
        set.endpoints.push(Arc::new(endpoint));
    }
    set.localities.push(LocalityGroup {
        locality,
        priority: from.priority,
        weight: number(from.load_balancing_weight.as_ref()).unwrap_or(0),
        metadata: metadata(from.metadata.as_ref()),
        endpoints: start..set.endpoints.len(),
    });
    Ok(())
}

fn locality(from: Option<&core::Locality>) -> Locality {
    from.map_or_else(Locality::default, |from| Locality {
        region: from.region.as_str().into(),
        zone: from.zone.as_str().into(),
        sub_zone: from.sub_zone.as_str().into(),
    })
}

fn compile_endpoint(
    from: &eds::LbEndpoint,
    locality: &Arc<Locality>,
    names: Names,
) -> Result<Endpoint, XdsError> {
    let Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &from.host_identifier else {
        return Err(XdsError::new("named endpoints are not supported").within("endpoint_name"));
    };
    let address_of = |from: Option<&core::Address>| {
        let missing = || XdsError::new("the address is missing");
        from.ok_or_else(missing)
            .and_then(|from| address(from, names))
    };
    let additional = endpoint.additional_addresses.iter().enumerate();
    let additional = additional.map(|(index, from)| {
        address_of(from.address.as_ref()).at("endpoint.additional_addresses", index)
    });
    let weight = number(from.load_balancing_weight.as_ref());
    if weight == Some(0) {
        return Err(XdsError::new("a weight must be at least 1").within("load_balancing_weight"));
    }
    Ok(Endpoint {
        address: address_of(endpoint.address.as_ref()).within("endpoint.address")?,
        additional_addresses: additional.collect::<Result<_, _>>()?,
        hostname: endpoint.hostname.as_str().into(),
        weight: weight.unwrap_or(1),
        health: health(from.health_status()),
        health_check: health_check(endpoint.health_check_config.as_ref())
            .within("endpoint.health_check_config")?,
        metadata: metadata(from.metadata.as_ref()),
        locality: locality.clone(),
    })
}

fn health_check(
    from: Option<&eds::endpoint::HealthCheckConfig>,
) -> Result<EndpointCheck, XdsError> {
    let Some(from) = from else {
        return Ok(EndpointCheck::default());
    };
    let own = from.address.as_ref();
    Ok(EndpointCheck {
        address: own
            .map(|from| address(from, Names::Forbidden))
            .transpose()
            .within("address")?,
        port: match from.port_value {
            0 => None,
            number => Some(port(number).within("port_value")?),
        },
        hostname: from.hostname.as_str().into(),
        disabled: from.disable_active_health_check,
    })
}

fn health(status: core::HealthStatus) -> HealthStatus {
    match status {
        core::HealthStatus::Unknown => HealthStatus::Unknown,
        core::HealthStatus::Healthy => HealthStatus::Healthy,
        core::HealthStatus::Unhealthy => HealthStatus::Unhealthy,
        core::HealthStatus::Draining => HealthStatus::Draining,
        core::HealthStatus::Timeout => HealthStatus::Timeout,
        core::HealthStatus::Degraded => HealthStatus::Degraded,
    }
}

fn address(from: &core::Address, names: Names) -> Result<EndpointAddress, XdsError> {
    use core::address::Address as Kind;
    match from.address.as_ref() {
        Some(Kind::SocketAddress(socket)) => match socket_address(socket) {
            Ok(address) => Ok(EndpointAddress::Socket(address)),
            Err(_) if names == Names::Allowed && !socket.address.is_empty() => {
                Ok(EndpointAddress::Dns {
                    host: socket.address.as_str().into(),
                    port: port_of(socket)?,
                })
            }
            Err(error) => Err(error.within("socket_address")),
        },
        Some(Kind::Pipe(pipe)) => Ok(EndpointAddress::Pipe(pipe.path.as_str().into())),
        Some(Kind::EnvoyInternalAddress(internal)) => {
            match internal.address_name_specifier.as_ref() {
                Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                    listener,
                )) => {
                    let endpoint_id = internal.endpoint_id.as_str().into();
                    Ok(EndpointAddress::Internal {
                        listener: listener.as_str().into(),
                        endpoint_id,
                    })
                }
                None => Err(XdsError::new("the listener's name is missing")
                    .within("envoy_internal_address")),
            }
        }
        None => Err(XdsError::new("the address is empty")),
    }
}
