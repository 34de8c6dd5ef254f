//! TLS as servers: mutual TLS of the mesh, and what gateways are told.

use lateen_api::cipher::suites;
use lateen_api::mesh::{MeshTlsConfig, MeshTlsProtocol};
use lateen_api::networking::{ServerTlsMode, ServerTlsSettings, TlsProtocol};

use crate::clusters::{
    ROOT_SECRET, WORKLOAD_SECRET, agent_secret, subject_alt_names, validate_by,
    validate_by_with_crl,
};
use crate::credentials::{CA_SUFFIX, CredentialServers};
use crate::filters::TLS_SOCKET;
use crate::mesh::Mesh;
use crate::proto::{bool_value, core, prefix, tls, transport_socket};
use crate::protocol::Handling;

use super::ListenerView;

use tls::common_tls_context::ValidationContextType;
use tls::tls_parameters::TlsProtocol as EnvoyProtocol;

/// The transport socket of inbound mutual TLS.
pub(super) fn mutual(mesh: &Mesh, handling: Handling, native: bool) -> core::TransportSocket {
    let alpn: &[&str] = match handling {
        // Our own proxy exchanges peer metadata over TCP under this protocol; others would not know what to answer.
        Handling::Tcp if native => &["istio-peer-exchange", "h2", "http/1.1"],
        _ => &["h2", "http/1.1"],
    };
    let context = tls::DownstreamTlsContext {
        require_client_certificate: bool_value(true),
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: minimum(mesh) as i32,
                tls_maximum_protocol_version: EnvoyProtocol::TlSv13 as i32,
                cipher_suites: mesh.tls_ciphers.clone(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: vec![agent_secret(WORKLOAD_SECRET)],
            validation_context_type: Some(validate_by(
                trust_domains(mesh),
                agent_secret(ROOT_SECRET),
            )),
            ..Default::default()
        }),
        ..Default::default()
    };
    transport_socket(TLS_SOCKET, &context)
}

fn minimum(mesh: &Mesh) -> EnvoyProtocol {
    if mesh.min_tls_13 {
        EnvoyProtocol::TlSv13
    } else {
        EnvoyProtocol::TlSv12
    }
}

/// Clients have to be of the mesh's trust domain, a former one, or one whose roots the mesh is told to trust. Source: Istio,
/// `TrustDomainsForValidation`.
fn trust_domains(mesh: &Mesh) -> Vec<tls::SubjectAltNameMatcher> {
    std::iter::once(&mesh.trust_domain)
        .chain(&mesh.trust_domain_aliases)
        .chain(&mesh.other_trust_domains)
        .map(|domain| tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
            matcher: Some(prefix(&format!("spiffe://{domain}/"))),
            ..Default::default()
        })
        .collect()
}

/// The transport socket of a server with TLS settings of its own; none if it does not end TLS.
pub(super) fn server(
    mesh: &Mesh,
    settings: &ServerTlsSettings,
    tcp: bool,
    view: &ListenerView,
) -> Option<core::TransportSocket> {
    let mode = settings.mode;
    if matches!(
        mode,
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
    ) {
        return None;
    }
    let required = matches!(mode, ServerTlsMode::Mutual | ServerTlsMode::IstioMutual);
    let validates = required || mode == ServerTlsMode::OptionalMutual;
    let alpn: &[&str] = if mode == ServerTlsMode::IstioMutual && tcp && view.native {
        &["istio-peer-exchange", "h2", "http/1.1"]
    } else {
        &["h2", "http/1.1"]
    };
    let credentials = Credentials::of(settings, &view.credentials);
    let mut common = tls::CommonTlsContext {
        alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
        tls_params: parameters(mesh.tls_defaults.as_ref(), settings),
        tls_certificate_sds_secret_configs: credentials.certificates(),
        ..Default::default()
    };
    if validates {
        let root = credentials.root(settings, &view.credentials);
        common.validation_context_type = Some(validation(settings, root));
    }
    let context = tls::DownstreamTlsContext {
        require_client_certificate: bool_value(required),
        common_tls_context: Some(common),
        ..Default::default()
    };
    Some(transport_socket(TLS_SOCKET, &context))
}

fn validation(settings: &ServerTlsSettings, root: tls::SdsSecretConfig) -> ValidationContextType {
    let names = subject_alt_names(&settings.subject_alt_names);
    let mut out = validate_by_with_crl(names, root, &settings.ca_crl);
    if let ValidationContextType::CombinedValidationContext(combined) = &mut out {
        let context = combined.default_validation_context.get_or_insert_default();
        context
            .verify_certificate_spki
            .clone_from(&settings.verify_certificate_spki);
        context
            .verify_certificate_hash
            .clone_from(&settings.verify_certificate_hash);
    }
    out
}

/// Protocol versions, ciphers and curves: the server's own, else the mesh's. For the mesh's own mutual TLS they are not the user's to choose.
fn parameters(
    defaults: Option<&MeshTlsConfig>,
    settings: &ServerTlsSettings,
) -> Option<tls::TlsParameters> {
    if settings.mode == ServerTlsMode::IstioMutual {
        return Some(tls::TlsParameters {
            tls_minimum_protocol_version: EnvoyProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: EnvoyProtocol::TlSv13 as i32,
            ..Default::default()
        });
    }
    let own_or = |own: &[String], default: fn(&MeshTlsConfig) -> &Vec<String>| {
        if own.is_empty() {
            defaults.map(default).cloned().unwrap_or_default()
        } else {
            own.to_vec()
        }
    };
    let lowest = match (settings.min_protocol_version, defaults) {
        (TlsProtocol::TlsAuto, Some(defaults)) => match defaults.min_protocol_version {
            MeshTlsProtocol::TlsAuto => EnvoyProtocol::TlsAuto,
            MeshTlsProtocol::Tlsv12 => EnvoyProtocol::TlSv12,
            MeshTlsProtocol::Tlsv13 => EnvoyProtocol::TlSv13,
        },
        (own, _) => version(own),
    };
    let out = tls::TlsParameters {
        tls_minimum_protocol_version: lowest as i32,
        tls_maximum_protocol_version: version(settings.max_protocol_version) as i32,
        cipher_suites: suites(&own_or(&settings.cipher_suites, |mesh| &mesh.cipher_suites)),
        ecdh_curves: own_or(&settings.ecdh_curves, |mesh| &mesh.ecdh_curves),
        ..Default::default()
    };
    (out != tls::TlsParameters::default()).then_some(out)
}

fn version(version: TlsProtocol) -> EnvoyProtocol {
    match version {
        TlsProtocol::TlsAuto => EnvoyProtocol::TlsAuto,
        TlsProtocol::Tlsv10 => EnvoyProtocol::TlSv10,
        TlsProtocol::Tlsv11 => EnvoyProtocol::TlSv11,
        TlsProtocol::Tlsv12 => EnvoyProtocol::TlSv12,
        TlsProtocol::Tlsv13 => EnvoyProtocol::TlSv13,
    }
}

/// Where a server's certificates come from.
enum Credentials<'a> {
    /// The workload's own.
    Workload,
    /// Secrets, by way of the control plane.
    Secrets(Vec<&'a str>, &'a CredentialServers),
    /// Files beside the proxy: certificate and key.
    Files(Vec<(&'a str, &'a str)>),
}

/// The Secrets a server names.
pub(crate) fn credential_names(settings: &ServerTlsSettings) -> Vec<&str> {
    if settings.credential_names.is_empty() {
        Some(settings.credential_name.as_str())
            .filter(|name| !name.is_empty())
            .into_iter()
            .collect()
    } else {
        settings
            .credential_names
            .iter()
            .map(String::as_str)
            .collect()
    }
}

impl<'a> Credentials<'a> {
    fn of(settings: &'a ServerTlsSettings, servers: &'a CredentialServers) -> Self {
        if settings.mode == ServerTlsMode::IstioMutual {
            return Self::Workload;
        }
        let names = credential_names(settings);
        if !names.is_empty() {
            return Self::Secrets(names, servers);
        }
        if settings.tls_certificates.is_empty() {
            return Self::Files(vec![(&settings.server_certificate, &settings.private_key)]);
        }
        Self::Files(
            settings
                .tls_certificates
                .iter()
                .map(|c| (c.server_certificate.as_str(), c.private_key.as_str()))
                .collect(),
        )
    }

    fn certificates(&self) -> Vec<tls::SdsSecretConfig> {
        match self {
            Self::Workload => vec![agent_secret(WORKLOAD_SECRET)],
            Self::Secrets(names, servers) => {
                names.iter().map(|name| servers.secret(name)).collect()
            }
            Self::Files(files) => files
                .iter()
                .filter(|(certificate, _)| !certificate.is_empty())
                .map(|(certificate, key)| agent_secret(&format!("file-cert:{certificate}~{key}")))
                .collect(),
        }
    }

    /// What client certificates are validated by: the named CA, else the one in the server's Secret, else the file.
    fn root(
        &self,
        settings: &ServerTlsSettings,
        servers: &CredentialServers,
    ) -> tls::SdsSecretConfig {
        match self {
            Self::Secrets(..) | Self::Files(_) if !settings.ca_cert_credential_name.is_empty() => {
                servers.secret(&settings.ca_cert_credential_name)
            }
            Self::Workload => agent_secret(ROOT_SECRET),
            Self::Secrets(names, servers) => {
                let name = names.first().copied().unwrap_or_default();
                servers.secret(&format!("{name}{CA_SUFFIX}"))
            }
            Self::Files(_) => agent_secret(&format!("file-root:{}", settings.ca_certificates)),
        }
    }
}
