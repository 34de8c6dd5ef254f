//! rustls configurations made from Envoy's TLS contexts, cached as long as context and secrets stay the same.
//!
//! A configuration holds its own session cache, so a session is only ever resumed under the configuration it was verified
//! with: a new trust bundle or SAN rule makes a new configuration, and old sessions do a full handshake (CVE-2022-21654).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lateen_traffic::tls::{
    CertificateSource, DownstreamTls, TlsContext, TlsVersion, UpstreamTls, Validation,
    ValidationSource,
};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::PROVIDER;
use super::verify::{DownstreamVerifier, Expectation, UpstreamVerifier};
use crate::secrets::{self, Material, SecretError, Secrets};

/// Why a TLS context cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    /// A secret has not arrived; connections wait or fail until it does, they are never let through without it.
    #[error("secret {0} is not there yet")]
    NoSecret(Arc<str>),
    /// A secret is of another kind than asked for.
    #[error("secret {0} is of the wrong kind")]
    WrongKind(Arc<str>),
    /// A certificate or key given in place cannot be used.
    #[error("unusable certificate or roots")]
    Secret(#[source] SecretError),
    /// Clients are to be verified, but there is nothing to verify them by.
    #[error("cannot verify clients")]
    Verifier(#[source] VerifierBuilderError),
    /// Versions or other parameters do not fit together.
    #[error("unusable parameters")]
    Parameters(#[source] rustls::Error),
    /// A server needs a certificate.
    #[error("no certificate to serve")]
    NoCertificate,
    /// Conditions on the peer's names, or a demand for its certificate, mean nothing without roots to verify it by.
    #[error("no trusted roots to verify the peer by")]
    NoRoots,
}

/// A server configuration.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls {
    config: Arc<ServerConfig>,
    /// The same without ALPN.
    silent: Arc<ServerConfig>,
}

impl ServerTls {
    /// The configuration for a client that offers these protocols. rustls ends a handshake whose lists have nothing in
    /// common (RFC 7301 section 3.2); Envoy goes on without a protocol, and Istio's clients rely on that.
    pub(crate) fn for_client<'a>(
        &self,
        mut offered: impl Iterator<Item = &'a [u8]>,
    ) -> Arc<ServerConfig> {
        let common = offered.any(|offer| self.config.alpn_protocols.iter().any(|own| own == offer));
        Arc::clone(if common { &self.config } else { &self.silent })
    }
}

/// A client configuration with an identity that pools compare by.
#[derive(Clone, Debug)]
pub(crate) struct ClientTls {
    /// What rustls takes.
    pub(crate) config: Arc<ClientConfig>,
    /// Differs between configurations: connections made under another are not reused.
    pub(crate) id: u64,
}

/// Configurations made so far. Shared by all workers, so that a client's next connection may resume its session on another;
/// the lock is held only to look up and to build, never while data flows.
#[derive(Debug, Default)]
pub(crate) struct TlsContexts {
    server: Mutex<HashMap<usize, ServerEntry>>,
    client: Mutex<ClientCache>,
}

#[derive(Debug)]
struct ServerEntry {
    /// Keeps the address that is the key from being used again.
    context: Arc<DownstreamTls>,
    used: Used,
    made: ServerTls,
}

/// A context by its address, the ALPN protocols, the name to verify.
type ClientKey = (usize, Vec<Arc<str>>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct ClientCache {
    next_id: u64,
    entries: HashMap<ClientKey, ClientEntry>,
}

#[derive(Debug)]
struct ClientEntry {
    context: Arc<UpstreamTls>,
    used: Used,
    made: ClientTls,
}

/// The versions of secrets a configuration was made from.
#[derive(Debug, Default)]
struct Used(Vec<(Arc<str>, Arc<Material>)>);

impl Used {
    fn get<'s>(
        &mut self,
        secrets: &'s Secrets,
        name: &Arc<str>,
    ) -> Result<&'s Arc<Material>, ContextError> {
        let found = secrets
            .get(name)
            .ok_or_else(|| ContextError::NoSecret(Arc::clone(name)))?;
        self.0.push((Arc::clone(name), Arc::clone(found)));
        Ok(found)
    }

    fn is_current(&self, secrets: &Secrets) -> bool {
        self.0
            .iter()
            .all(|(name, used)| secrets.get(name).is_some_and(|now| Arc::ptr_eq(now, used)))
    }
}

impl TlsContexts {
    /// The configuration of a listener's filter chain.
    ///
    /// # Errors
    /// A secret is missing or unusable.
    pub(crate) fn server(
        &self,
        context: &Arc<DownstreamTls>,
        secrets: &Secrets,
    ) -> Result<ServerTls, ContextError> {
        let mut cache = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(context).addr();
        if let Some(entry) = cache.get(&key).filter(|e| e.used.is_current(secrets)) {
            return Ok(entry.made.clone());
        }
        // Contexts nobody else holds belong to configuration that is gone.
        cache.retain(|_, entry| Arc::strong_count(&entry.context) > 1);
        let mut used = Used::default();
        let config = server_config(context, secrets, &mut used)?;
        let mut silent = config.clone();
        silent.alpn_protocols.clear();
        let made = ServerTls {
            config: Arc::new(config),
            silent: Arc::new(silent),
        };
        cache.insert(
            key,
            ServerEntry {
                context: Arc::clone(context),
                used,
                made: made.clone(),
            },
        );
        Ok(made)
    }

    /// The configuration of an upstream transport socket, with other ALPN protocols than its own if `alpn` says so.
    ///
    /// `server_name` is the name the certificate has to carry if the context asks for `auto_sni_san_validation`.
    ///
    /// # Errors
    /// A secret is missing or unusable.
    pub(crate) fn client(
        &self,
        context: &Arc<UpstreamTls>,
        alpn: Option<&[Arc<str>]>,
        server_name: Option<&Arc<str>>,
        secrets: &Secrets,
    ) -> Result<ClientTls, ContextError> {
        let mut cache = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let named = server_name
            .filter(|_| context.auto_sni_san_validation)
            .cloned();
        let key = (
            Arc::as_ptr(context).addr(),
            alpn.unwrap_or(&context.common.alpn).to_vec(),
            named,
        );
        if let Some(entry) = cache
            .entries
            .get(&key)
            .filter(|e| e.used.is_current(secrets))
        {
            return Ok(entry.made.clone());
        }
        cache
            .entries
            .retain(|_, entry| Arc::strong_count(&entry.context) > 1);
        let mut used = Used::default();
        let config = Arc::new(client_config(
            context,
            &key.1,
            key.2.clone(),
            secrets,
            &mut used,
        )?);
        cache.next_id += 1;
        let made = ClientTls {
            config,
            id: cache.next_id,
        };
        cache.entries.insert(
            key,
            ClientEntry {
                context: Arc::clone(context),
                used,
                made: made.clone(),
            },
        );
        Ok(made)
    }
}

fn server_config(
    context: &DownstreamTls,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<ServerConfig, ContextError> {
    let common = &context.common;
    let certificates = certificates(common, secrets, used)?;
    if certificates.is_empty() {
        return Err(ContextError::NoCertificate);
    }
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&versions(common))
        .map_err(ContextError::Parameters)?;
    let builder = match expectation(&common.validation, secrets, used, None)? {
        None if context.require_client_certificate => return Err(ContextError::NoRoots),
        None => builder.with_no_client_auth(),
        Some(expected) => {
            let verifier = DownstreamVerifier::new(expected, context.require_client_certificate)
                .map_err(ContextError::Verifier)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates(certificates)));
    config.alpn_protocols = alpn(&common.alpn);
    Ok(config)
}

fn client_config(
    context: &UpstreamTls,
    protocols: &[Arc<str>],
    server_name: Option<Arc<str>>,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<ClientConfig, ContextError> {
    let common = &context.common;
    let certificates = certificates(common, secrets, used)?;
    let expected = expectation(&common.validation, secrets, used, server_name)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&versions(common))
        .map_err(ContextError::Parameters)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(UpstreamVerifier(expected)));
    let mut config = if certificates.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_resolver(Arc::new(Certificates(certificates)))
    };
    config.alpn_protocols = alpn(protocols);
    config.enable_sni = true; // an address, which stands where there is no name, is never sent
    Ok(config)
}

fn certificates(
    common: &TlsContext,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<Vec<Arc<CertifiedKey>>, ContextError> {
    common
        .certificates
        .iter()
        .map(|source| match source {
            CertificateSource::Inline(certificate) => secrets::inline_certificate(certificate)
                .map(Arc::new)
                .map_err(ContextError::Secret),
            CertificateSource::Sds(name) => match &**used.get(secrets, name)? {
                Material::Certificate(key) => Ok(Arc::clone(key)),
                Material::Validation { .. } => Err(ContextError::WrongKind(Arc::clone(name))),
            },
        })
        .collect()
}

fn expectation(
    source: &ValidationSource,
    secrets: &Secrets,
    used: &mut Used,
    server_name: Option<Arc<str>>,
) -> Result<Option<Expectation>, ContextError> {
    let (settings, roots) = match source {
        ValidationSource::None => return Ok(None),
        ValidationSource::Inline(validation) => {
            if has_no_roots(validation) && !validation.accept_untrusted {
                let asks =
                    !validation.san_matchers.is_empty() || !validation.spki_hashes.is_empty();
                return if asks {
                    Err(ContextError::NoRoots)
                } else {
                    Ok(None)
                };
            }
            let roots = secrets::validation_roots(validation).map_err(ContextError::Secret)?;
            (vec![Arc::clone(validation)], Arc::new(roots))
        }
        ValidationSource::Sds(name) => {
            let (roots, settings) = validation_secret(name, secrets, used)?;
            (vec![settings], roots)
        }
        ValidationSource::Combined { default, sds } => {
            let (roots, settings) = validation_secret(sds, secrets, used)?;
            (vec![Arc::clone(default), settings], roots)
        }
    };
    Ok(Some(Expectation {
        roots,
        settings,
        server_name,
    }))
}

fn has_no_roots(validation: &Validation) -> bool {
    validation.trusted_ca.is_none()
        && !validation.system_roots
        && validation.trust_domains.is_empty()
}

fn validation_secret(
    name: &Arc<str>,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<(Arc<rustls::RootCertStore>, Arc<Validation>), ContextError> {
    match &**used.get(secrets, name)? {
        Material::Validation { roots, settings } => Ok((Arc::clone(roots), Arc::clone(settings))),
        Material::Certificate(_) => Err(ContextError::WrongKind(Arc::clone(name))),
    }
}

/// TLS 1.0 and 1.1 are not offered whatever is configured: rustls has them not, and RFC 8996 forbids them.
fn versions(common: &TlsContext) -> Vec<&'static SupportedProtocolVersion> {
    let allows = |version| {
        common.min_version.is_none_or(|min| min <= version)
            && common.max_version.is_none_or(|max| max >= version)
    };
    let mut versions = Vec::with_capacity(2);
    if allows(TlsVersion::V1_3) {
        versions.push(&rustls::version::TLS13);
    }
    if allows(TlsVersion::V1_2) {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

/// `istio-peer-exchange` is never negotiated: who does speaks Istio's TCP metadata exchange, which this proxy does not yet,
/// and its first bytes would reach the application. Peers fall back to `istio` or nothing.
fn alpn(protocols: &[Arc<str>]) -> Vec<Vec<u8>> {
    protocols
        .iter()
        .filter(|p| &***p != "istio-peer-exchange")
        .map(|p| p.as_bytes().to_vec())
        .collect()
}

/// The certificates of one side; a server with several picks by server name as Envoy does (exact DNS SAN, then wildcard, then
/// the first).
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let [first, others @ ..] = self.0.as_slice() else {
            return None;
        };
        if others.is_empty() {
            return Some(Arc::clone(first));
        }
        let name = hello.server_name().unwrap_or_default();
        let covers = |key: &&Arc<CertifiedKey>| {
            key.end_entity_cert()
                .ok()
                .and_then(super::PeerCertificate::read)
                .is_some_and(|c| {
                    c.dns_sans
                        .iter()
                        .any(|san| super::verify::dns_matches(san, name))
                })
        };
        Some(Arc::clone(self.0.iter().find(covers).unwrap_or(first)))
    }
}

impl ResolvesClientCert for Certificates {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.first().cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
