//! SPIFFE identities: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
//!
//! Parsing works on bytes and is strict, because what is compared is what a peer put in its certificate. Rules: the SPIFFE-ID
//! specification, sections 2.1 to 2.3 (characters, lengths), and the X.509-SVID specification, section 2 (exactly one
//! URI SAN). Whether an identity is allowed to do something is not decided here.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest SPIFFE URI, in bytes (SPIFFE-ID specification, section 2.3).
const MAX_URI: usize = 2048;
/// Longest trust domain, in bytes (SPIFFE-ID specification, section 2.3).
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &[u8] = b"spiffe://";

/// Why bytes are not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Longer than 2048 bytes.
    #[error("SPIFFE URI is longer than {MAX_URI} bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("not a `spiffe://` URI")]
    Scheme,
    /// Empty, too long, or with characters outside `a-z 0-9 . - _`.
    #[error(
        "trust domain must be 1 to {MAX_TRUST_DOMAIN} of the characters a-z, 0-9, `.`, `-` and `_`"
    )]
    TrustDomain,
    /// Not `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error("path must be `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`")]
    Path,
    /// A path segment that is empty, `.`, `..` or has characters outside `A-Z a-z 0-9 . - _`.
    #[error("path segments must be made of letters, digits, `.`, `-` and `_`")]
    Segment,
}

/// A trust domain, such as `cluster.local`: the first part of every identity that one set of roots vouches for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Box<str>);

impl TrustDomain {
    /// Istio's default, `cluster.local`.
    pub fn cluster_local() -> Self {
        Self("cluster.local".into())
    }

    /// Reads a trust domain.
    ///
    /// # Errors
    /// It is empty, too long or has other characters than a trust domain may.
    pub fn parse(bytes: &[u8]) -> Result<Self, SpiffeError> {
        let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if bytes.is_empty() || bytes.len() > MAX_TRUST_DOMAIN || !bytes.iter().all(allowed) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(ascii(bytes).into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, SpiffeError> {
        Self::parse(s.as_bytes())
    }
}

/// The trust domain of a mesh and the names it also goes by (`trustDomainAliases` of `MeshConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    own: TrustDomain,
    aliases: BTreeSet<TrustDomain>,
}

impl TrustDomains {
    /// `own` and its aliases.
    pub fn new(own: TrustDomain, aliases: impl IntoIterator<Item = TrustDomain>) -> Self {
        let aliases = aliases.into_iter().filter(|alias| *alias != own).collect();
        Self { own, aliases }
    }

    /// The domain new identities are issued in.
    pub fn own(&self) -> &TrustDomain {
        &self.own
    }

    /// Whether `domain` is ours under any name.
    pub fn contains(&self, domain: &TrustDomain) -> bool {
        *domain == self.own || self.aliases.contains(domain)
    }

    /// Every name the identity goes by: its own first, then one per other name of the domain, in order. An identity of a
    /// foreign domain has only its own name.
    pub fn names_of(&self, id: &SpiffeId) -> Vec<SpiffeId> {
        let mut names = vec![id.clone()];
        if self.contains(&id.trust_domain) {
            let others = std::iter::once(&self.own).chain(&self.aliases);
            let others = others.filter(|domain| **domain != id.trust_domain);
            names.extend(others.map(|domain| id.in_domain(domain.clone())));
        }
        names
    }
}

/// The identity of a Kubernetes service account: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Box<str>,
    service_account: Box<str>,
}

impl SpiffeId {
    /// The identity of `service_account` in `namespace`.
    ///
    /// # Errors
    /// A name is empty or has characters that a path segment of a SPIFFE ID may not have, or the URI would be too long.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        let namespace = segment(namespace.as_bytes())?.into();
        let service_account = segment(service_account.as_bytes())?.into();
        let id = Self {
            trust_domain,
            namespace,
            service_account,
        };
        if id.uri_len() > MAX_URI {
            Err(SpiffeError::TooLong)
        } else {
            Ok(id)
        }
    }

    /// Reads an identity from the bytes of a URI. Nothing is decoded or folded: what is not canonical is refused.
    ///
    /// # Errors
    /// The bytes are not a canonical `spiffe://TD/ns/NS/sa/SA`.
    pub fn parse(uri: &[u8]) -> Result<Self, SpiffeError> {
        if uri.len() > MAX_URI {
            return Err(SpiffeError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let mut parts = rest.split(|b| *b == b'/');
        let trust_domain = TrustDomain::parse(parts.next().unwrap_or_default())?;
        let mut next = || parts.next().ok_or(SpiffeError::Path);
        let (ns, namespace, sa, service_account) = (next()?, next()?, next()?, next()?);
        if ns != b"ns" || sa != b"sa" || parts.next().is_some() {
            return Err(SpiffeError::Path);
        }
        let namespace = segment(namespace)?.into();
        let service_account = segment(service_account)?.into();
        Ok(Self {
            trust_domain,
            namespace,
            service_account,
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The same service account in another trust domain.
    #[must_use]
    pub fn in_domain(&self, trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ..self.clone()
        }
    }

    /// The principal as `AuthorizationPolicy` writes it: the URI without `spiffe://`.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }

    fn uri_len(&self) -> usize {
        SCHEME.len()
            + self.trust_domain.0.len()
            + "/ns//sa/".len()
            + self.namespace.len()
            + self.service_account.len()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        write!(
            f,
            "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
        )
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, SpiffeError> {
        Self::parse(s.as_bytes())
    }
}

/// Why no identity could be read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SanError {
    /// Not a certificate, or its subject alternative name extension is malformed or there twice.
    #[error("certificate or its subject alternative name cannot be parsed")]
    Malformed,
    /// No URI among the subject alternative names.
    #[error("certificate has no URI subject alternative name")]
    NoUri,
    /// More than one: which one would be the identity is a guess (X.509-SVID, section 2).
    #[error("certificate has {0} URI subject alternative names, expected one")]
    SeveralUris(usize),
    /// Not printable ASCII without blanks: a control character or a NUL is an attempt to be read as something shorter.
    #[error("URI subject alternative name has characters that no URI has")]
    Characters,
    /// The URI is not one of a service account.
    #[error("URI subject alternative name is not a service account's identity")]
    Spiffe(#[source] SpiffeError),
}

/// The one URI among a certificate's subject alternative names, as its bytes. Only URI entries are looked at: a DNS name or
/// a common name that looks like one is none.
///
/// # Errors
/// There is none, more than one, or it has characters that no URI has.
pub fn uri_san(certificate: &[u8]) -> Result<Box<str>, SanError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| SanError::Malformed)?;
    if !rest.is_empty() {
        return Err(SanError::Malformed);
    }
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| SanError::Malformed)?;
    let names = names.ok_or(SanError::NoUri)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next().ok_or(SanError::NoUri)?;
    let more = uris.count();
    if more > 0 {
        return Err(SanError::SeveralUris(more + 1));
    }
    if uri.is_empty() || !uri.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(SanError::Characters);
    }
    Ok(uri.into())
}

/// The service account a certificate was issued for. Says nothing about whether the certificate is to be trusted.
///
/// # Errors
/// See [`uri_san`]; or the URI is not a service account's.
pub fn identity_of(certificate: &[u8]) -> Result<SpiffeId, SanError> {
    SpiffeId::parse(uri_san(certificate)?.as_bytes()).map_err(SanError::Spiffe)
}

fn segment(bytes: &[u8]) -> Result<&str, SpiffeError> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if bytes.is_empty() || bytes == b"." || bytes == b".." || !bytes.iter().all(allowed) {
        return Err(SpiffeError::Segment);
    }
    Ok(ascii(bytes))
}

fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("callers checked that every byte is ASCII")
}

#[cfg(test)]
mod tests;
