//! TLS settings of listeners and clusters: plain data that the proxy turns into rustls configurations.

mod parameters;

pub use parameters::{CipherSuite, Group, Known};

use std::sync::Arc;

use bytes::Bytes;

use crate::matcher::StringMatcher;
use crate::request::PeerTls;

/// Where bytes come from. Files are read by the proxy, never here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// In the configuration itself.
    Inline(Bytes),
    /// A file's content.
    File(Arc<str>),
    /// An environment variable's content.
    Environment(Arc<str>),
}

/// A certificate chain with its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    /// The chain, leaf first.
    pub chain: DataSource,
    /// The key.
    pub key: DataSource,
}

/// A certificate, or the name of the secret that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Given in place.
    Inline(TlsCertificate),
    /// By SDS.
    Sds(Arc<str>),
}

/// TLS protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.0.
    V1_0,
    /// TLS 1.1.
    V1_1,
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Which SAN of a certificate a matcher looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanType {
    /// Any of them (`match_subject_alt_names` without a type).
    Any,
    /// DNS names.
    Dns,
    /// URIs.
    Uri,
    /// Email addresses.
    Email,
    /// IP addresses.
    IpAddress,
    /// Other names, by object identifier.
    OtherName,
}

/// A condition on a certificate's SANs.
#[derive(Clone, Debug)]
pub struct SanMatcher {
    /// The kind of SAN.
    pub san_type: SanType,
    /// The condition.
    pub matcher: StringMatcher,
}

impl SanMatcher {
    /// Whether one of a peer's names is meant.
    pub fn matches(&self, peer: &PeerTls<'_>) -> bool {
        let any = |names: &[String]| {
            names
                .iter()
                .any(|name| self.matcher.matches(name.as_bytes()))
        };
        match self.san_type {
            SanType::Uri => any(peer.uri_sans),
            SanType::Dns => any(peer.dns_sans),
            SanType::Any => any(peer.uri_sans) || any(peer.dns_sans),
            // The peer's other names are not known here; such a condition is refused when it is compiled.
            SanType::Email | SanType::IpAddress | SanType::OtherName => false,
        }
    }
}

/// A trust domain with its bundle (`SPIFFECertValidatorConfig`).
#[derive(Clone, Debug)]
pub struct TrustDomain {
    /// The trust domain's name.
    pub name: Arc<str>,
    /// Its roots, PEM.
    pub bundle: DataSource,
}

/// How a peer's certificate is verified: `CertificateValidationContext`.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    /// Roots, PEM.
    pub trusted_ca: Option<DataSource>,
    /// The platform's roots are trusted (`system_root_certs`).
    pub system_roots: bool,
    /// Revocation lists, PEM.
    pub crl: Option<DataSource>,
    /// One of them must match one of the certificate's SANs; empty asks nothing.
    pub san_matchers: Vec<SanMatcher>,
    /// SHA-256 of the allowed public keys (DER of the SubjectPublicKeyInfo). A certificate has to fit one pin of this list or of the
    /// next; both empty ask nothing.
    pub spki_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the allowed certificates (DER).
    pub certificate_hashes: Vec<[u8; 32]>,
    /// Revocation lists are asked for the leaf only, not for the intermediates.
    pub only_leaf_crl: bool,
    /// Expired certificates are accepted.
    pub allow_expired: bool,
    /// A certificate that fails verification is accepted and marked as not validated (`ACCEPT_UNTRUSTED`).
    pub accept_untrusted: bool,
    /// Roots by trust domain, in place of `trusted_ca`.
    pub trust_domains: Vec<TrustDomain>,
}

impl Validation {
    /// Whether there is anything a chain could be verified by.
    pub fn has_roots(&self) -> bool {
        self.trusted_ca.is_some() || self.system_roots || !self.trust_domains.is_empty()
    }

    /// Whether a certificate has to be a certain one, or of a certain key.
    pub fn has_pins(&self) -> bool {
        !self.spki_hashes.is_empty() || !self.certificate_hashes.is_empty()
    }

    /// This with what a secret says merged in, as protobuf merges messages: single fields of the secret win, lists are joined,
    /// and what is switched on stays on. Source: Envoy's `combined_validation_context`.
    pub fn merged(&self, secret: &Self) -> Self {
        fn joined<T: Clone>(a: &[T], b: &[T]) -> Vec<T> {
            a.iter().chain(b).cloned().collect()
        }
        let roots = if secret.has_roots() { secret } else { self };
        Self {
            trusted_ca: roots.trusted_ca.clone(),
            system_roots: roots.system_roots,
            trust_domains: roots.trust_domains.clone(),
            crl: secret.crl.clone().or_else(|| self.crl.clone()),
            san_matchers: joined(&self.san_matchers, &secret.san_matchers),
            spki_hashes: joined(&self.spki_hashes, &secret.spki_hashes),
            certificate_hashes: joined(&self.certificate_hashes, &secret.certificate_hashes),
            only_leaf_crl: self.only_leaf_crl || secret.only_leaf_crl,
            allow_expired: self.allow_expired || secret.allow_expired,
            accept_untrusted: self.accept_untrusted || secret.accept_untrusted,
        }
    }
}

/// Where the validation comes from.
#[derive(Clone, Debug, Default)]
pub enum ValidationSource {
    /// The peer's certificate is not verified.
    #[default]
    None,
    /// Given in place.
    Inline(Arc<Validation>),
    /// By SDS.
    Sds(Arc<str>),
    /// By SDS, with conditions given in place added (`combined_validation_context`): the roots come from the secret.
    Combined {
        /// What is given in place.
        default: Arc<Validation>,
        /// The secret.
        sds: Arc<str>,
    },
}

/// What both sides have: `CommonTlsContext`.
#[derive(Clone, Debug, Default)]
pub struct TlsContext {
    /// Own certificates.
    pub certificates: Vec<CertificateSource>,
    /// Verification of the peer.
    pub validation: ValidationSource,
    /// ALPN protocols, preferred first.
    pub alpn: Vec<Arc<str>>,
    /// Lowest version; `None` is TLS 1.2.
    pub min_version: Option<TlsVersion>,
    /// Highest version; `None` is TLS 1.3 (Envoy's clients stop at 1.2, which nobody relies on).
    pub max_version: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2, preferred first; empty is the default set.
    pub cipher_suites: Vec<CipherSuite>,
    /// Key exchange groups, preferred first; empty is the default set.
    pub groups: Vec<Group>,
}

impl TlsContext {
    /// The names of the secrets it needs.
    pub fn sds_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let validation = match &self.validation {
            ValidationSource::Sds(name) | ValidationSource::Combined { sds: name, .. } => {
                Some(name)
            }
            ValidationSource::None | ValidationSource::Inline(_) => None,
        };
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Sds(name) => Some(name),
            CertificateSource::Inline(_) => None,
        });
        certificates.chain(validation)
    }
}

/// `DownstreamTlsContext`.
#[derive(Clone, Debug, Default)]
pub struct DownstreamTls {
    /// What both sides have.
    pub common: TlsContext,
    /// A client without a certificate is refused.
    pub require_client_certificate: bool,
    /// A connection whose server name matches no certificate is refused.
    pub require_sni: bool,
    /// TLS sessions may not be resumed without state on the server (`disable_stateless_session_resumption`).
    pub disable_stateless_session_resumption: bool,
    /// TLS sessions may not be resumed with state on the server.
    pub disable_stateful_session_resumption: bool,
}

/// `UpstreamTlsContext`.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTls {
    /// What both sides have.
    pub common: TlsContext,
    /// The server name sent; `None` sends none.
    pub sni: Option<Arc<str>>,
    /// The server name is the upstream host's own name where it has one (`auto_host_sni`).
    pub auto_host_sni: bool,
    /// The certificate has to be for the server name sent, in place of the conditions on SANs (`auto_sni_san_validation`).
    pub auto_sni_san_validation: bool,
    /// Sessions kept for resumption; `Some(0)` resumes none.
    pub max_session_keys: Option<u32>,
}
