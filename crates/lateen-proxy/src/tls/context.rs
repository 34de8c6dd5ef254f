//! rustls configurations made from Envoy's TLS contexts, cached as long as context and secrets stay the same.
//!
//! A configuration holds its own session cache, so a session is only ever resumed under the configuration it was verified
//! with: a new trust bundle or SAN rule makes a new configuration, and old sessions do a full handshake (CVE-2022-21654).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lateen_traffic::tls::{
    CertificateSource, DataSource, DownstreamTls, TlsContext, TlsVersion, UpstreamTls, Validation,
    ValidationSource,
};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, CommonState, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::ServerName;

use super::chain::Trust;
use super::provider::provider;
use super::verify::{DownstreamVerifier, Expectation, NameRule, UpstreamVerifier, verify_resumed};
use crate::metadata_exchange::PROTOCOL;
use crate::mux::Carries;
use crate::secrets::{self, Material, Roots, SecretError, Secrets, Stamp};

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
    /// The same with connections that requests, and TCP connections, share: for clients whose certificate is verified.
    sharing: Vec<(Carries, Arc<ServerConfig>)>,
    verifier: Option<Arc<DownstreamVerifier>>,
}

impl ServerTls {
    /// The configuration for a client that offers these protocols. rustls ends a handshake whose lists have nothing in
    /// common (RFC 7301 section 3.2); Envoy goes on without a protocol, and Istio's clients rely on that. `shares` says what
    /// whoever serves the connection can serve on one that is shared.
    pub(crate) fn for_client<'a>(
        &self,
        offered: impl Iterator<Item = &'a [u8]>,
        shares: Option<Carries>,
    ) -> Arc<ServerConfig> {
        let sharing = self.sharing.iter().find(|(of, _)| Some(*of) == shares);
        let mut common = false;
        for offer in offered {
            if let Some((carries, sharing)) = sharing
                && offer == carries.alpn().as_bytes()
            {
                return Arc::clone(sharing);
            }
            common |= self.config.alpn_protocols.iter().any(|own| own == offer);
        }
        Arc::clone(if common { &self.config } else { &self.silent })
    }

    /// Verifies a client whose session was resumed.
    ///
    /// # Errors
    /// It would not be let in today.
    pub(crate) fn check_resumed(&self, session: &CommonState) -> Result<(), rustls::Error> {
        match &self.verifier {
            Some(verifier) => verify_resumed(session, |leaf, chain, now| {
                verifier.verify(leaf, chain, now)
            }),
            None => Ok(()),
        }
    }
}

/// A client configuration with an identity that pools compare by.
#[derive(Clone, Debug)]
pub(crate) struct ClientTls {
    /// What rustls takes.
    pub(crate) config: Arc<ClientConfig>,
    /// Differs between configurations: connections made under another are not reused.
    pub(crate) id: u64,
    /// It was made from files, which may change at any time.
    pub(crate) from_files: bool,
    /// A connection needs a name that a certificate could be for.
    pub(crate) needs_name: bool,
    verifier: Arc<UpstreamVerifier>,
}

impl ClientTls {
    /// Verifies a server whose session was resumed.
    ///
    /// # Errors
    /// It would not be accepted today.
    pub(crate) fn check_resumed(
        &self,
        session: &CommonState,
        asked: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        verify_resumed(session, |leaf, chain, now| {
            self.verifier.verify(leaf, chain, asked, now)
        })
    }
}

/// Configurations made so far. Shared by all workers, so that a client's next connection may resume its session on another;
/// the lock is held only to look up and to build, never while data flows.
#[derive(Debug, Default)]
pub(crate) struct TlsContexts {
    server: Mutex<HashMap<ServerKey, ServerEntry>>,
    client: Mutex<ClientCache>,
}

#[derive(Debug)]
struct ServerEntry {
    /// Keeps the address that is the key from being used again.
    context: Arc<DownstreamTls>,
    used: Used,
    made: ServerTls,
}

/// A context by its address, and whether its listener takes part in Istio's metadata exchange.
type ServerKey = (usize, bool);

/// A context by its address, the ALPN protocols, the name to verify.
type ClientKey = (usize, Vec<Arc<str>>, NameRule);

/// Configurations for names that differ from the server name sent; they come from requests, so that their number is bounded.
const MAX_CLIENT_CONFIGS: usize = 1024;

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

/// The versions of secrets and files a configuration was made from.
#[derive(Debug, Default)]
struct Used {
    secrets: Vec<(Arc<str>, Arc<Material>)>,
    files: Vec<Stamp>,
}

impl Used {
    fn get<'s>(
        &mut self,
        secrets: &'s Secrets,
        name: &Arc<str>,
    ) -> Result<&'s Arc<Material>, ContextError> {
        let found = secrets
            .get(name)
            .ok_or_else(|| ContextError::NoSecret(Arc::clone(name)))?;
        self.secrets.push((Arc::clone(name), Arc::clone(found)));
        Ok(found)
    }

    fn files<'a>(&mut self, sources: impl IntoIterator<Item = &'a DataSource>) {
        self.files
            .extend(sources.into_iter().filter_map(Stamp::of_source));
    }

    /// Whether a configuration made from these would be the same now. A file is looked at with one system call for each new connection, and
    /// only where a context names files.
    fn is_current(&self, secrets: &Secrets) -> bool {
        let same = |(name, used): &(Arc<str>, Arc<Material>)| {
            secrets.get(name).is_some_and(|now| Arc::ptr_eq(now, used))
        };
        self.secrets.iter().all(same) && self.files.iter().all(Stamp::is_current)
    }
}

impl TlsContexts {
    /// The configuration of a listener's filter chain, which may take part in Istio's metadata exchange.
    ///
    /// # Errors
    /// A secret is missing or unusable.
    pub(crate) fn server(
        &self,
        context: &Arc<DownstreamTls>,
        exchange: bool,
        secrets: &Secrets,
    ) -> Result<ServerTls, ContextError> {
        let mut cache = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::as_ptr(context).addr(), exchange);
        if let Some(entry) = cache.get(&key).filter(|e| e.used.is_current(secrets)) {
            return Ok(entry.made.clone());
        }
        // Contexts nobody else holds belong to configuration that is gone.
        cache.retain(|_, entry| Arc::strong_count(&entry.context) > 1);
        let mut used = Used::default();
        let (mut config, verifier) = server_config(context, secrets, &mut used)?;
        config.alpn_protocols = alpn(&offered(&context.common.alpn, exchange));
        let mut silent = config.clone();
        silent.alpn_protocols.clear();
        let share = |carries: Carries| {
            let mut sharing = config.clone();
            sharing.alpn_protocols = vec![carries.alpn().as_bytes().to_vec()];
            (carries, Arc::new(sharing))
        };
        let sharing = match context.require_client_certificate {
            true => [Carries::Http, Carries::Tcp].map(share).into(),
            false => Vec::new(),
        };
        let made = ServerTls {
            config: Arc::new(config),
            silent: Arc::new(silent),
            sharing,
            verifier,
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

    /// The configuration of an upstream transport socket, with other ALPN protocols than its own if `alpn` says so, for servers whose
    /// certificate carries the name that `name` says. `exchange`: whether Istio's metadata exchange is spoken where the server agrees.
    ///
    /// # Errors
    /// A secret is missing or unusable.
    pub(crate) fn client(
        &self,
        context: &Arc<UpstreamTls>,
        alpn: Option<&[Arc<str>]>,
        name: &NameRule,
        exchange: bool,
        secrets: &Secrets,
    ) -> Result<ClientTls, ContextError> {
        let mut cache = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (
            Arc::as_ptr(context).addr(),
            offered(alpn.unwrap_or(&context.common.alpn), exchange),
            name.clone(),
        );
        let found = cache.entries.get(&key);
        if let Some(entry) = found.filter(|e| e.used.is_current(secrets)) {
            return Ok(entry.made.clone());
        }
        let entries = &mut cache.entries;
        entries.retain(|_, entry| Arc::strong_count(&entry.context) > 1);
        if entries.len() >= MAX_CLIENT_CONFIGS {
            entries.retain(|(.., name), _| !matches!(name, NameRule::Fixed(_)));
        }
        let mut used = Used::default();
        let (config, verifier) = client_config(context, &key.1, name, secrets, &mut used)?;
        cache.next_id += 1;
        let made = ClientTls {
            config: Arc::new(config),
            id: cache.next_id,
            from_files: !used.files.is_empty(),
            needs_name: *name == NameRule::Asked,
            verifier,
        };
        let entry = ClientEntry {
            context: Arc::clone(context),
            used,
            made: made.clone(),
        };
        cache.entries.insert(key, entry);
        Ok(made)
    }
}

fn server_config(
    context: &DownstreamTls,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<(ServerConfig, Option<Arc<DownstreamVerifier>>), ContextError> {
    let common = &context.common;
    let certificates = certificates(common, secrets, used)?;
    if certificates.is_empty() {
        return Err(ContextError::NoCertificate);
    }
    let builder = ServerConfig::builder_with_provider(provider(common))
        .with_protocol_versions(&versions(common))
        .map_err(ContextError::Parameters)?;
    let required = context.require_client_certificate;
    let expected = expectation(&common.validation, secrets, used, &NameRule::None, false)?;
    let verifier = expected.map(|expected| Arc::new(DownstreamVerifier { expected, required }));
    let builder = match &verifier {
        None if required => return Err(ContextError::NoRoots),
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier) as _),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates {
        list: certificates,
        require_sni: context.require_sni,
    }));
    if context.disable_stateful_session_resumption {
        // Tickets without state are never given out, so nothing is left to resume by.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, verifier))
}

fn client_config(
    context: &UpstreamTls,
    protocols: &[Arc<str>],
    name: &NameRule,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<(ClientConfig, Arc<UpstreamVerifier>), ContextError> {
    let common = &context.common;
    let certificates = certificates(common, secrets, used)?;
    let replaces = context.auto_sni_san_validation;
    let expected = expectation(&common.validation, secrets, used, name, replaces)?;
    let verifier = Arc::new(UpstreamVerifier(expected));
    let builder = ClientConfig::builder_with_provider(provider(common))
        .with_protocol_versions(&versions(common))
        .map_err(ContextError::Parameters)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
    let mut config = if certificates.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_resolver(Arc::new(Certificates {
            list: certificates,
            require_sni: false,
        }))
    };
    config.alpn_protocols = alpn(protocols);
    config.enable_sni = true; // an address, which stands where there is no name, is never sent
    match context.max_session_keys {
        Some(0) => config.resumption = Resumption::disabled(),
        // Names may come from requests: what is kept for them is bounded whatever is configured.
        Some(keys) => {
            config.resumption = Resumption::in_memory_sessions(keys.min(1024) as usize);
        }
        None => {}
    }
    Ok((config, verifier))
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
            CertificateSource::Inline(certificate) => {
                used.files([&certificate.chain, &certificate.key]);
                secrets::inline_certificate(certificate)
                    .map(Arc::new)
                    .map_err(ContextError::Secret)
            }
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
    name: &NameRule,
    name_replaces_sans: bool,
) -> Result<Option<Expectation>, ContextError> {
    let (settings, given) = match source {
        ValidationSource::None => return Ok(None),
        ValidationSource::Inline(validation) => (Validation::clone(validation), None),
        ValidationSource::Sds(name) => {
            let (roots, settings) = validation_secret(name, secrets, used)?;
            (Validation::clone(&settings), Some(roots))
        }
        ValidationSource::Combined { default, sds } => {
            let (roots, settings) = validation_secret(sds, secrets, used)?;
            let roots = settings.has_roots().then_some(roots);
            (default.merged(&settings), roots)
        }
    };
    let named = *name != NameRule::None;
    let roots = match given {
        Some(roots) => roots,
        None if settings.has_roots() => {
            let bundles = settings.trust_domains.iter().map(|domain| &domain.bundle);
            used.files(settings.trusted_ca.iter().chain(bundles));
            secrets::validation_roots(&settings).map_err(ContextError::Secret)?
        }
        None if !settings.san_matchers.is_empty() || settings.crl.is_some() => {
            return Err(ContextError::NoRoots);
        }
        // Nothing to verify by, and nothing is asked: Envoy's clients accept any server then, and a name says nothing by itself.
        None if !settings.has_pins() => return Ok(None),
        None => return Ok(Some(pinned(settings))),
    };
    used.files(&settings.crl);
    let crls = secrets::revocation_lists(&settings).map_err(ContextError::Secret)?;
    let trust = Trust {
        roots,
        crls: crls.into(),
        only_leaf_crl: settings.only_leaf_crl,
    };
    Ok(Some(Expectation {
        trust: Some(trust),
        settings,
        name: name.clone(),
        name_replaces_sans: name_replaces_sans && named,
    }))
}

/// Pins alone: whoever has the key is the peer, whoever signed it.
fn pinned(settings: Validation) -> Expectation {
    Expectation {
        trust: None,
        settings,
        name: NameRule::None,
        name_replaces_sans: false,
    }
}

fn validation_secret(
    name: &Arc<str>,
    secrets: &Secrets,
    used: &mut Used,
) -> Result<(Roots, Arc<Validation>), ContextError> {
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

/// What is offered of protocols. `istio-peer-exchange` only where the metadata exchange is configured: else its first bytes would reach the
/// application.
fn offered(protocols: &[Arc<str>], exchange: bool) -> Vec<Arc<str>> {
    let mut offered = protocols.to_vec();
    offered.retain(|protocol| exchange || &**protocol != PROTOCOL);
    offered
}

fn alpn(protocols: &[Arc<str>]) -> Vec<Vec<u8>> {
    protocols.iter().map(|p| p.as_bytes().to_vec()).collect()
}

/// The certificates of one side; a server with several picks by server name as Envoy does (a DNS SAN that covers it, else the first).
#[derive(Debug)]
struct Certificates {
    list: Vec<Arc<CertifiedKey>>,
    /// A name that no certificate is for gets none (`require_sni`).
    require_sni: bool,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (first, others) = self.list.split_first()?;
        if others.is_empty() && !self.require_sni {
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
        let found = self.list.iter().find(covers);
        let fallback = Some(first).filter(|_| !self.require_sni);
        found.or(fallback).cloned()
    }
}

impl ResolvesClientCert for Certificates {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.list.first().cloned()
    }

    fn has_certs(&self) -> bool {
        !self.list.is_empty()
    }
}
