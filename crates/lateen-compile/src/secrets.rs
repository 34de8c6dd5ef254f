//! Certificates that gateways fetch from the control plane: Kubernetes Secrets in the gateway's own namespace.

use lateen_api::networking::{Server as ServerSpec, ServerTlsMode};
use lateen_api::{Diagnostic, kube};

use crate::clusters::inline_bytes;
use crate::credentials::{CA_SUFFIX, CredentialServers};
use crate::diagnostics::{BAD_CREDENTIAL, MISSING_CREDENTIAL, on_object};
use crate::names::ObjectRef;
use crate::proto::tls;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use tls::secret::Type;

/// Everything one secret depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecretInputs {
    /// The name it is asked for by: `kubernetes://name`, or with the CA's ending.
    pub(crate) name: String,
    /// Whether the CA is asked for.
    pub(crate) ca: bool,
    pub(crate) secret: Shared<kube::Secret>,
}

/// A secret; none if the object does not hold what is asked for.
pub(crate) fn secret(inputs: &SecretInputs) -> Option<tls::Secret> {
    let secret = &inputs.secret;
    let any = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| secret.get(key))
            .filter(|bytes| !bytes.is_empty())
    };
    let ty = if inputs.ca {
        let ca = any(&["ca.crt", "cacert"])?;
        Type::ValidationContext(tls::CertificateValidationContext {
            trusted_ca: Some(inline_bytes(ca)),
            crl: any(&["ca.crl", "crl"]).map(inline_bytes),
            ..Default::default()
        })
    } else {
        let (chain, key) = (any(&["tls.crt", "cert"])?, any(&["tls.key", "key"])?);
        Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline_bytes(chain)),
            private_key: Some(inline_bytes(key)),
            ocsp_staple: any(&["tls.ocsp-staple"]).map(inline_bytes),
            ..Default::default()
        })
    };
    Some(tls::Secret {
        name: inputs.name.clone(),
        r#type: Some(ty),
    })
}

/// A credential somebody refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// As written.
    pub(crate) name: String,
    pub(crate) object: ObjectRef,
    pub(crate) path: String,
    /// Whether the CA is needed besides the certificate.
    pub(crate) ca: bool,
    /// Whether only the CA is needed.
    pub(crate) only_ca: bool,
    /// Whether a client needs it (DestinationRule), rather than a server.
    pub(crate) client: bool,
}

/// The credentials of a server.
pub(crate) fn of_server(spec: &ServerSpec, object: &ObjectRef, path: &str) -> Vec<Reference> {
    let Some(settings) = &spec.tls else {
        return Vec::new();
    };
    let mutual = matches!(
        settings.mode,
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual
    );
    let own_ca = !settings.ca_cert_credential_name.is_empty();
    let names = if settings.credential_names.is_empty() {
        vec![settings.credential_name.clone()]
    } else {
        settings.credential_names.clone()
    };
    let mut out: Vec<Reference> = names
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(|name| Reference {
            name,
            object: object.clone(),
            path: format!("{path}.tls.credentialName"),
            ca: mutual && !own_ca,
            only_ca: false,
            client: false,
        })
        .collect();
    if own_ca {
        out.push(Reference {
            name: settings.ca_cert_credential_name.clone(),
            object: object.clone(),
            path: format!("{path}.tls.caCertCredentialName"),
            ca: false,
            only_ca: true,
            client: false,
        });
    }
    out
}

/// Finds what a reference leads to, for a proxy of a namespace. Secrets of other namespaces are never handed out.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    namespace: &str,
    servers: &CredentialServers,
    reference: &Reference,
) -> (Vec<SecretInputs>, Vec<Diagnostic>) {
    let Some(url) = servers.control_plane_name(&reference.name) else {
        return (Vec::new(), unknown_server(snapshot, servers, reference));
    };
    let Some(rest) = url.strip_prefix("kubernetes://") else {
        return (Vec::new(), Vec::new());
    };
    let (wanted, name) = rest.split_once('/').unwrap_or((namespace, rest));
    let found = (wanted == namespace)
        .then(|| snapshot.secret(wanted, name))
        .flatten();
    let Some(found) = found else {
        let message = format!("no Secret `{name}` in the gateway's namespace `{namespace}`");
        let diagnostic = on_object(
            MISSING_CREDENTIAL,
            &reference.object,
            &reference.path,
            message,
        )
        .effect("TLS connections to the server fail until the Secret exists")
        .fix(format!("create the Secret in namespace `{namespace}`"));
        return (Vec::new(), vec![diagnostic]);
    };
    let mut inputs = Vec::new();
    let mut diagnostics = Vec::new();
    if !reference.only_ca {
        inputs.push(SecretInputs {
            name: url.clone(),
            ca: false,
            secret: found.clone(),
        });
    }
    if reference.only_ca {
        inputs.push(SecretInputs {
            name: url.clone(),
            ca: true,
            secret: found.clone(),
        });
    }
    if reference.ca {
        // The CA may be in the same Secret, or in one of its own with the ending in its name.
        let beside = snapshot.secret(wanted, &format!("{name}{CA_SUFFIX}"));
        let secret = beside.unwrap_or(found).clone();
        inputs.push(SecretInputs {
            name: format!("{url}{CA_SUFFIX}"),
            ca: true,
            secret,
        });
    }
    for input in inputs.iter().filter(|input| secret(input).is_none()) {
        let what = if input.ca {
            "`ca.crt`"
        } else {
            "`tls.crt` and `tls.key`"
        };
        let message = format!("Secret `{name}` does not hold {what}");
        diagnostics.push(
            on_object(BAD_CREDENTIAL, &reference.object, &reference.path, message)
                .effect("TLS connections to the server fail until it does"),
        );
    }
    (inputs, diagnostics)
}

/// Whether MeshConfig's server of secrets is no service that there is.
fn unknown_server(
    snapshot: &Snapshot,
    servers: &CredentialServers,
    reference: &Reference,
) -> Vec<Diagnostic> {
    let asked = reference.name.starts_with("sds://") && !servers.socket;
    let Some(Err(reason)) = snapshot.sds_service().filter(|_| asked) else {
        return Vec::new();
    };
    let message = format!("MeshConfig's server of secrets cannot be asked: {reason}");
    let diagnostic = on_object(
        MISSING_CREDENTIAL,
        &reference.object,
        &reference.path,
        message,
    )
    .effect("TLS connections to the server fail until there is the service")
    .fix("correct `extensionProviders[].sds.service`");
    vec![diagnostic]
}
