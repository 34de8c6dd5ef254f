//! `/config_dump`: what was received, as `envoy.admin.v3.ConfigDump`, with keys redacted.

mod select;

use std::time::{SystemTime, UNIX_EPOCH};

use lateen_envoy::pb::envoy::admin::v3::{
    BootstrapConfigDump, ClustersConfigDump, ConfigDump, EndpointsConfigDump, ListenersConfigDump,
    RoutesConfigDump, SecretsConfigDump, UpdateFailureState, clusters_config_dump,
    endpoints_config_dump, listeners_config_dump, routes_config_dump, secrets_config_dump,
};
use lateen_envoy::pb::envoy::config::bootstrap::v3::{Admin, Bootstrap};
use lateen_envoy::pb::envoy::config::core::v3::{DataSource, data_source};
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use lateen_envoy::pb::google::protobuf::{Any, Timestamp};
use lateen_envoy::{TypeUrl, json, pack, socket_address, unpack};

use self::select::Selection;
use super::{Context, Page, Query};
use crate::control::{Dump, DumpEntry};
use crate::secrets::Material;

pub(super) fn page(context: &Context, query: &Query) -> Page {
    let selection = match Selection::of(query) {
        Ok(selection) => selection,
        Err(page) => return page,
    };
    let include_eds = query.has("include_eds");
    let configs = context.with_dump(|dump| {
        let mut configs = vec![bootstrap(context), clusters(dump)];
        if include_eds {
            configs.push(endpoints(dump));
        }
        configs.extend([listeners(dump), routes(dump), secrets(context, dump)]);
        configs
    });
    match selection.apply(json::to_value(&ConfigDump { configs })) {
        Ok(dump) => Page::json(&dump),
        Err(page) => page,
    }
}

fn bootstrap(context: &Context) -> Any {
    let config = &context.shared.config;
    let admin = config.admin.map(|address| Admin {
        address: Some(socket_address(address.ip(), address.port())),
        ..Admin::default()
    });
    let bootstrap = Bootstrap {
        node: Some(config.node.clone()),
        admin,
        ..Bootstrap::default()
    };
    pack(&BootstrapConfigDump {
        bootstrap: Some(bootstrap),
        last_updated: None,
    })
}

fn version(entry: &DumpEntry) -> String {
    entry.resource.version_string()
}

fn time(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}

fn body(entry: &DumpEntry) -> Option<Any> {
    Some((*entry.resource.body).clone())
}

fn clusters(dump: &Dump) -> Any {
    let dynamic =
        dump.of(TypeUrl::Cluster)
            .map(|(_, entry)| clusters_config_dump::DynamicCluster {
                version_info: version(entry),
                cluster: body(entry),
                last_updated: time(entry.updated),
                ..Default::default()
            });
    let failed = failures(dump, TypeUrl::Cluster).map(|(_, error_state)| {
        clusters_config_dump::DynamicCluster {
            error_state: Some(error_state),
            ..Default::default()
        }
    });
    pack(&ClustersConfigDump {
        version_info: type_version(dump, TypeUrl::Cluster),
        static_clusters: Vec::new(),
        dynamic_active_clusters: dynamic.collect(),
        dynamic_warming_clusters: failed.collect(),
    })
}

fn listeners(dump: &Dump) -> Any {
    let dynamic =
        dump.of(TypeUrl::Listener)
            .map(|(name, entry)| listeners_config_dump::DynamicListener {
                name: name.to_string(),
                active_state: Some(listeners_config_dump::DynamicListenerState {
                    version_info: version(entry),
                    listener: body(entry),
                    last_updated: time(entry.updated),
                }),
                ..Default::default()
            });
    let failed = failures(dump, TypeUrl::Listener).map(|(name, error_state)| {
        listeners_config_dump::DynamicListener {
            name,
            error_state: Some(error_state),
            ..Default::default()
        }
    });
    pack(&ListenersConfigDump {
        version_info: type_version(dump, TypeUrl::Listener),
        static_listeners: Vec::new(),
        dynamic_listeners: dynamic.chain(failed).collect(),
    })
}

fn routes(dump: &Dump) -> Any {
    let dynamic = dump.of(TypeUrl::RouteConfiguration).map(|(_, entry)| {
        routes_config_dump::DynamicRouteConfig {
            version_info: version(entry),
            route_config: body(entry),
            last_updated: time(entry.updated),
            ..Default::default()
        }
    });
    pack(&RoutesConfigDump {
        static_route_configs: Vec::new(),
        dynamic_route_configs: dynamic.collect(),
    })
}

fn endpoints(dump: &Dump) -> Any {
    let dynamic = dump.of(TypeUrl::ClusterLoadAssignment).map(|(_, entry)| {
        endpoints_config_dump::DynamicEndpointConfig {
            version_info: version(entry),
            endpoint_config: body(entry),
            last_updated: time(entry.updated),
            ..Default::default()
        }
    });
    pack(&EndpointsConfigDump {
        static_endpoint_configs: Vec::new(),
        dynamic_endpoint_configs: dynamic.collect(),
    })
}

fn secrets(context: &Context, dump: &Dump) -> Any {
    let received =
        dump.of(TypeUrl::Secret)
            .map(|(name, entry)| secrets_config_dump::DynamicSecret {
                name: name.to_string(),
                version_info: version(entry),
                last_updated: time(entry.updated),
                secret: unpack::<Secret>(&entry.resource.body)
                    .ok()
                    .map(|secret| pack(&redacted(secret))),
                ..Default::default()
            });
    let live = context.shared.live();
    let own = live
        .secrets
        .iter()
        .filter(|(name, _)| !dump.of(TypeUrl::Secret).any(|(other, _)| other == *name));
    let own = own.map(|(name, material)| secrets_config_dump::DynamicSecret {
        name: name.to_string(),
        secret: Some(pack(&of_material(name, material))),
        ..Default::default()
    });
    pack(&SecretsConfigDump {
        dynamic_active_secrets: own.chain(received).collect(),
        ..Default::default()
    })
}

/// What stands for a key, as in Envoy.
fn redaction() -> Option<DataSource> {
    Some(inline(b"[redacted]".to_vec()))
}

const fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(bytes)),
        watched_directory: None,
    }
}

fn redacted(mut secret: Secret) -> Secret {
    match &mut secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => {
            certificate.private_key = redaction();
            if certificate.password.is_some() {
                certificate.password = redaction();
            }
        }
        Some(secret::Type::SessionTicketKeys(keys)) => keys.keys.iter_mut().for_each(|key| {
            *key = inline(b"[redacted]".to_vec());
        }),
        Some(secret::Type::GenericSecret(generic)) => generic.secret = redaction(),
        Some(secret::Type::ValidationContext(_)) | None => {}
    }
    secret
}

fn of_material(name: &str, material: &Material) -> Secret {
    let kind = match material {
        Material::Certificate(key) => secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(pem(key.cert.iter().map(AsRef::as_ref)))),
            private_key: redaction(),
            ..TlsCertificate::default()
        }),
        Material::Validation { settings, .. } => {
            let roots = settings
                .trusted_ca
                .as_ref()
                .and_then(|source| crate::secrets::read(source).ok());
            secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: roots.map(|roots| inline(roots.to_vec())),
                ..CertificateValidationContext::default()
            })
        }
    };
    Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    }
}

fn pem<'a>(chain: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    chain.map(crate::tls::pem).collect::<String>().into_bytes()
}

fn type_version(dump: &Dump, ty: TypeUrl) -> String {
    dump.versions.get(&ty).cloned().unwrap_or_default()
}

fn failures(dump: &Dump, ty: TypeUrl) -> impl Iterator<Item = (String, UpdateFailureState)> {
    let of_type = dump
        .rejected
        .iter()
        .filter(move |((rejected, _), _)| *rejected == ty);
    of_type.map(|((_, name), (reason, at))| {
        let state = UpdateFailureState {
            last_update_attempt: time(*at),
            details: reason.clone(),
            ..UpdateFailureState::default()
        };
        (name.to_string(), state)
    })
}
