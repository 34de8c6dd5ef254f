//! How a cluster's connections are secured: by the rule, or by mutual TLS wherever the endpoint can.
//!
//! Automatic mutual TLS is decided per endpoint, by a transport-socket match on the endpoint's metadata.

use lateen_api::cipher::suites;
use lateen_api::mesh::MeshTlsConfig;
use lateen_api::networking::{ClientTlsMode, ClientTlsSettings};

use crate::credentials::{CA_SUFFIX, CredentialServers};
use crate::filters::{RAW_SOCKET, TLS_SOCKET};
use crate::meta::{fields_to_struct, string};
use crate::model::{Registry, Service};
use crate::proto::{Struct, cluster, core, exact, extensions, tls};
use crate::proto::{ads, transport_socket};
use crate::security::MtlsMode;

use super::draft::Draft;

/// The name under which an agent serves the workload's certificate.
pub(crate) const WORKLOAD_SECRET: &str = "default";
/// The name under which an agent serves the trust bundle.
pub(crate) const ROOT_SECRET: &str = "ROOTCA";
/// The cluster of a bootstrap that leads to the agent's secret discovery.
const SDS_CLUSTER: &str = "sds-grpc";

/// What a proxy does to reach a cluster securely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// Nothing.
    Plain,
    /// What the rule says.
    Rule(ClientTlsSettings),
    /// Mutual TLS with the mesh's identities, because the rule says so.
    IstioMutual(Identity),
    /// Mutual TLS with the mesh's identities, for endpoints that have a proxy.
    Auto(Identity),
}

/// What mutual TLS in the mesh needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The server name to send.
    pub(crate) sni: String,
    /// The identities to accept; empty: any of the mesh.
    pub(crate) identities: Vec<String>,
}

/// Decides how to secure a cluster. Source: Istio, `buildUpstreamTLSSettings`.
pub(crate) fn decide(
    rule: Option<&ClientTlsSettings>,
    identities: &[String],
    sni: &str,
    auto: bool,
    external: bool,
    server: MtlsMode,
) -> Security {
    let Some(rule) = rule else {
        if external || !auto || matches!(server, MtlsMode::Unset | MtlsMode::Disable) {
            return Security::Plain;
        }
        return Security::Auto(Identity {
            sni: sni.to_owned(),
            identities: identities.to_vec(),
        });
    };
    match rule.mode {
        ClientTlsMode::Disable => Security::Plain,
        ClientTlsMode::Simple | ClientTlsMode::Mutual => Security::Rule(rule.clone()),
        ClientTlsMode::IstioMutual => {
            let names = &rule.subject_alt_names;
            Security::IstioMutual(Identity {
                sni: if rule.sni.is_empty() {
                    sni.to_owned()
                } else {
                    rule.sni.clone()
                },
                identities: if names.is_empty() {
                    identities.to_vec()
                } else {
                    names.clone()
                },
            })
        }
    }
}

/// What a rule's own TLS settings depend on.
pub(crate) struct RuleContext<'a> {
    /// What the cluster is of; none for what is not declared.
    pub(crate) service: Option<&'a Service>,
    /// Whether the proxy may fetch Secrets from the control plane.
    pub(crate) may_fetch_secrets: bool,
    /// Whether there is a server of secrets on a socket in the proxy's pod.
    pub(crate) credential_socket: bool,
    /// Whether the proxy has Istio's extensions.
    pub(crate) native: bool,
    /// The mesh's own wishes.
    pub(crate) defaults: Option<&'a MeshTlsConfig>,
}

/// Sets the transport socket, or the matches that choose one per endpoint.
pub(crate) fn apply(draft: &mut Draft, security: &Security, context: &RuleContext<'_>) {
    match security {
        Security::Plain => {}
        Security::Rule(rule) => apply_rule(draft, rule, context),
        Security::IstioMutual(identity) => {
            let socket = mutual_socket(draft, identity, context.native);
            draft.cluster.transport_socket = Some(socket);
        }
        Security::Auto(identity) => {
            let socket = mutual_socket(draft, identity, context.native);
            if draft.is_original_dst() {
                // There are no endpoints to match on; the caller made sure that all of them can.
                draft.cluster.transport_socket = Some(socket);
            } else {
                draft.cluster.transport_socket_matches = matches(socket);
            }
        }
    }
}

fn matches(mutual: core::TransportSocket) -> Vec<cluster::cluster::TransportSocketMatch> {
    vec![
        cluster::cluster::TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(fields_to_struct([("tlsMode", string("istio"))])),
            transport_socket: Some(mutual),
        },
        cluster::cluster::TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(Struct::default()),
            transport_socket: Some(raw_socket()),
        },
    ]
}

pub(crate) fn raw_socket() -> core::TransportSocket {
    transport_socket(
        RAW_SOCKET,
        &extensions::transport_sockets::raw_buffer::v3::RawBuffer {},
    )
}

fn mutual_socket(draft: &mut Draft, identity: &Identity, native: bool) -> core::TransportSocket {
    draft.mutual = true;
    let sni = if identity.sni.is_empty() {
        &draft.cluster.name
    } else {
        &identity.sni
    };
    let sni = sni.clone();
    let context = tls::UpstreamTlsContext {
        sni,
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(client_parameters()),
            tls_certificate_sds_secret_configs: vec![agent_secret(WORKLOAD_SECRET)],
            alpn_protocols: to_strings(mutual_alpn(draft.is_h2(), native)),
            validation_context_type: Some(validate_by(
                subject_alt_names(&identity.identities),
                agent_secret(ROOT_SECRET),
            )),
            ..Default::default()
        }),
        ..Default::default()
    };
    transport_socket(TLS_SOCKET, &context)
}

/// What to offer to the other sidecar where a connection is no request's. For requests both data planes replace it once the HTTP version is
/// known ([`crate::filters::alpn`], [`crate::filters::alpn_of_cluster`]).
fn mutual_alpn(h2: bool, native: bool) -> &'static [&'static str] {
    match (h2, native) {
        (true, true) => &["istio-peer-exchange", "istio", "h2"],
        (true, false) => &["istio-h2", "istio", "h2"],
        (false, true) => &["istio-peer-exchange", "istio"],
        (false, false) => &["istio"],
    }
}

fn to_strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// TLS 1.2 at least.
fn client_parameters() -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol;
    tls::TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..Default::default()
    }
}

fn apply_rule(draft: &mut Draft, rule: &ClientTlsSettings, context: &RuleContext<'_>) {
    set_auto_sni(draft, rule);
    let skip = rule.insecure_skip_verify == Some(true);
    let mut names = rule.subject_alt_names.clone();
    if let Some(service) = context.service
        && names.is_empty()
        && service.registry == Registry::External
    {
        names.clone_from(&service.subject_alt_names);
    }
    let mut parameters = client_parameters();
    if let Some(defaults) = context.defaults {
        parameters.ecdh_curves.clone_from(&defaults.ecdh_curves);
        parameters.cipher_suites = suites(&defaults.cipher_suites);
    }
    let mut common = tls::CommonTlsContext {
        tls_params: Some(parameters),
        ..Default::default()
    };
    // A sidecar may not read Secrets. It still speaks TLS, without a certificate of its own: Istio would send plain text.
    let credential = if context.may_fetch_secrets || rule.credential_name.is_empty() {
        Credential::of(rule, context.credential_socket)
    } else {
        Credential::Files {
            certificate: "",
            key: "",
            root: "",
        }
    };
    if rule.mode == ClientTlsMode::Mutual {
        common
            .tls_certificate_sds_secret_configs
            .extend(credential.certificate());
    }
    common.validation_context_type = Some(match (skip, credential.root()) {
        (false, Some(root)) => validate_by_with_crl(subject_alt_names(&names), root, &rule.ca_crl),
        _ => tls::common_tls_context::ValidationContextType::ValidationContext(Default::default()),
    });
    if draft.is_h2() {
        common.alpn_protocols = vec!["h2".to_owned()];
    }
    let socket = tls::UpstreamTlsContext {
        sni: rule.sni.clone(),
        common_tls_context: Some(common),
        ..Default::default()
    };
    draft.cluster.transport_socket = Some(transport_socket(TLS_SOCKET, &socket));
}

/// Without a server name in the rule, the request's host is used, and the certificate has to be for it.
fn set_auto_sni(draft: &mut Draft, rule: &ClientTlsSettings) {
    let skip = rule.insecure_skip_verify == Some(true);
    if !rule.sni.is_empty() {
        return;
    }
    let options = draft
        .http_options()
        .upstream_http_protocol_options
        .get_or_insert_default();
    options.auto_sni = true;
    options.auto_san_validation = rule.subject_alt_names.is_empty() && !skip;
}

/// Where a rule's certificates come from.
enum Credential<'a> {
    /// A Secret, by way of the control plane.
    Secret(&'a str, CredentialServers),
    /// Files beside the proxy.
    Files {
        certificate: &'a str,
        key: &'a str,
        root: &'a str,
    },
}

impl<'a> Credential<'a> {
    fn of(rule: &'a ClientTlsSettings, socket: bool) -> Self {
        if rule.credential_name.is_empty() {
            Self::Files {
                certificate: &rule.client_certificate,
                key: &rule.private_key,
                root: &rule.ca_certificates,
            }
        } else {
            let servers = CredentialServers::of_clients(socket);
            Self::Secret(&rule.credential_name, servers)
        }
    }

    fn certificate(&self) -> Option<tls::SdsSecretConfig> {
        match self {
            Self::Secret(name, servers) => Some(servers.secret(name)),
            Self::Files {
                certificate, key, ..
            } => (!certificate.is_empty() && !key.is_empty())
                .then(|| agent_secret(&format!("file-cert:{certificate}~{key}"))),
        }
    }

    fn root(&self) -> Option<tls::SdsSecretConfig> {
        match self {
            Self::Secret(name, servers) => Some(servers.secret(&format!("{name}{CA_SUFFIX}"))),
            // The agent answers `system` with the operating system's trust store.
            Self::Files { root, .. } => {
                let root = if root.is_empty() { "system" } else { root };
                Some(agent_secret(&format!("file-root:{root}")))
            }
        }
    }
}

/// A secret the agent beside the proxy serves.
pub(crate) fn agent_secret(name: &str) -> tls::SdsSecretConfig {
    let mut config = grpc_secret(name, SDS_CLUSTER, "");
    if let Some(source) = &mut config.sds_config {
        source.initial_fetch_timeout = Some(Default::default());
    }
    config
}

/// A secret that the server behind a cluster has.
pub(crate) fn grpc_secret(name: &str, cluster: &str, authority: &str) -> tls::SdsSecretConfig {
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc {
                cluster_name: cluster.to_owned(),
                authority: authority.to_owned(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let api = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            config_source_specifier: Some(
                core::config_source::ConfigSourceSpecifier::ApiConfigSource(api),
            ),
            resource_api_version: core::ApiVersion::V3 as i32,
            ..Default::default()
        }),
    }
}

/// A secret the control plane serves.
pub(crate) fn control_plane_secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

/// Trusts `root`, and accepts only certificates with one of the names; any if there are none.
pub(crate) fn validate_by(
    names: Vec<tls::SubjectAltNameMatcher>,
    root: tls::SdsSecretConfig,
) -> tls::common_tls_context::ValidationContextType {
    validate_by_with_crl(names, root, "")
}

pub(crate) fn validate_by_with_crl(
    names: Vec<tls::SubjectAltNameMatcher>,
    root: tls::SdsSecretConfig,
    crl: &str,
) -> tls::common_tls_context::ValidationContextType {
    let crl = (!crl.is_empty()).then(|| core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(crl.to_owned())),
        ..Default::default()
    });
    tls::common_tls_context::ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(tls::CertificateValidationContext {
                match_typed_subject_alt_names: names,
                crl,
                ..Default::default()
            }),
            validation_context_sds_secret_config: Some(root),
            ..Default::default()
        },
    )
}

/// Matchers for names as users write them: a SPIFFE identity is a URI; anything else may be a DNS name, a URI or an address.
pub(crate) fn subject_alt_names(names: &[String]) -> Vec<tls::SubjectAltNameMatcher> {
    use tls::subject_alt_name_matcher::SanType;
    let typed = |ty: SanType, name: &str| tls::SubjectAltNameMatcher {
        san_type: ty as i32,
        matcher: Some(exact(name)),
        ..Default::default()
    };
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        if name.contains("://") {
            out.push(typed(SanType::Uri, name));
        } else {
            out.push(typed(SanType::Dns, name));
            out.push(typed(SanType::IpAddress, name));
        }
    }
    out
}

/// Used where a certificate is inline rather than behind a name.
pub(crate) fn inline_bytes(bytes: &[u8]) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineBytes(bytes.to_vec())),
        ..Default::default()
    }
}
