//! Which names of a peer's certificate are accepted.
//!
//! The semantics are Envoy's `match_typed_subject_alt_names`: a list in which one match is enough, an empty list accepting
//! whatever the chain vouches for. Names are compared as bytes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Compiled size of a regular expression, in bytes: what one matcher of one configuration may cost.
const MAX_REGEX: usize = 1 << 20;

/// Which kind of subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// Any of those below (Envoy's deprecated `match_subject_alt_names`).
    Any,
    /// A URI: the identity of a workload.
    Uri,
    /// A DNS name.
    Dns,
    /// An IP address, compared in its textual form.
    IpAddress,
    /// A mail address.
    Email,
}

/// A rule of the caller's own.
pub type NamePredicate = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How a name is compared.
#[derive(Clone)]
pub enum NameMatch {
    /// Equal.
    Exact(Box<[u8]>),
    /// Equal but for the case of ASCII letters.
    ExactIgnoreCase(Box<[u8]>),
    /// Begins with.
    Prefix(Box<[u8]>),
    /// Ends with.
    Suffix(Box<[u8]>),
    /// Contains.
    Contains(Box<[u8]>),
    /// The whole name matches.
    Regex(Regex),
    /// Anything else a caller may think of.
    Predicate(NamePredicate),
}

impl NameMatch {
    /// A regular expression that must match the whole name, as Envoy's `safe_regex` does.
    ///
    /// # Errors
    /// It cannot be parsed or would be too large.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        let anchored = format!("^(?:{pattern})$");
        RegexBuilder::new(&anchored)
            .size_limit(MAX_REGEX)
            .build()
            .map(Self::Regex)
    }

    /// Whether `name` is accepted.
    pub fn accepts(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(value) => name == &**value,
            Self::ExactIgnoreCase(value) => name.eq_ignore_ascii_case(value),
            Self::Prefix(value) => name.starts_with(value),
            Self::Suffix(value) => name.ends_with(value),
            Self::Contains(value) => {
                value.is_empty() || name.windows(value.len()).any(|window| window == &**value)
            }
            Self::Regex(regex) => regex.is_match(name),
            Self::Predicate(predicate) => predicate(name),
        }
    }
}

impl fmt::Debug for NameMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut show = |kind, value: &[u8]| write!(f, "{kind} `{}`", value.escape_ascii());
        match self {
            Self::Exact(value) => show("exactly", value),
            Self::ExactIgnoreCase(value) => show("exactly (any case)", value),
            Self::Prefix(value) => show("prefix", value),
            Self::Suffix(value) => show("suffix", value),
            Self::Contains(value) => show("contains", value),
            Self::Regex(regex) => show("regex", regex.as_str().as_bytes()),
            Self::Predicate(_) => f.write_str("predicate"),
        }
    }
}

/// One accepted name.
#[derive(Clone, Debug)]
pub struct NameMatcher {
    /// Which kind of name.
    pub kind: NameKind,
    /// How it is compared.
    pub matches: NameMatch,
}

impl NameMatcher {
    /// Exactly this URI.
    pub fn uri(uri: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: NameKind::Uri,
            matches: NameMatch::Exact(uri.into().into()),
        }
    }
}

/// Whether one of the certificate's names is accepted by one of the matchers. An empty list accepts all.
pub(super) fn accepts(matchers: &[NameMatcher], certificate: &[u8]) -> bool {
    if matchers.is_empty() {
        return true;
    }
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return false;
    };
    names
        .value
        .general_names
        .iter()
        .any(|name| accepts_name(matchers, name))
}

fn accepts_name(matchers: &[NameMatcher], name: &GeneralName<'_>) -> bool {
    let address;
    let (kind, bytes) = match name {
        GeneralName::URI(uri) => (NameKind::Uri, uri.as_bytes()),
        GeneralName::DNSName(dns) => (NameKind::Dns, dns.as_bytes()),
        GeneralName::RFC822Name(mail) => (NameKind::Email, mail.as_bytes()),
        GeneralName::IPAddress(octets) => {
            let Some(parsed) = ip_address(octets) else {
                return false;
            };
            address = parsed.to_string();
            (NameKind::IpAddress, address.as_bytes())
        }
        _ => return false,
    };
    // A NUL would be the end of the name for a peer written in C.
    if bytes.contains(&0) {
        return false;
    }
    matchers.iter().any(|matcher| {
        (matcher.kind == kind || matcher.kind == NameKind::Any) && matcher.matches.accepts(bytes)
    })
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}
