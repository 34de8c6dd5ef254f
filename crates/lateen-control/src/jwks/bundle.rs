//! SPIFFE bundles: the roots of another trust domain, as its bundle endpoint serves them.
//!
//! Source: the SPIFFE Trust Domain and Bundle specification, section 4; Istio's `spiffe.RetrieveSpiffeBundleRootCerts` for what becomes of
//! an endpoint that is written without its scheme. Reading alone: where and when is [`super`]'s matter.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_identity::TrustBundle;
use lateen_identity::x509::CertificateFacts;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::location::{Location, NoLocation};

/// Roots of a bundle, at most.
const MAX_ROOTS: usize = 64;
/// The `use` of a key that is the root of X.509 identities.
const X509: &str = "x509-svid";

/// Why an answer is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotABundle {
    #[error("the answer is no SPIFFE bundle (a JSON object with `keys`)")]
    Form,
    #[error("the bundle has more than {MAX_ROOTS} roots")]
    TooMany,
    #[error("key {0} of the bundle has no single certificate in `x5c`")]
    Certificate(usize),
    #[error("key {0} of the bundle is not the certificate of an authority")]
    NoAuthority(usize),
    #[error("the bundle has no key of use `{X509}`")]
    NoRoots,
}

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    /// Its roots, in PEM.
    pub(crate) roots: String,
    /// When it is to be asked for again, if it says.
    pub(crate) refresh: Option<Duration>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Key>,
    #[serde(default)]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default, rename = "use")]
    usage: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// Where a bundle is. Over HTTPS alone: who could change it on its way could be anybody afterwards.
pub(super) fn location(url: &str) -> Result<Location, NoLocation> {
    if url.contains("://") && !url.starts_with("https://") {
        return Err(NoLocation::NotSecure(url.to_owned()));
    }
    match url.strip_prefix("https://") {
        Some(_) => Location::parse(url),
        None => Location::parse(&format!("https://{url}")),
    }
}

impl Bundle {
    /// Reads an answer. A root that cannot be used makes all of it unusable, so that the last good one stays.
    pub(super) fn read(text: &[u8]) -> Result<Self, NotABundle> {
        let document: Document = serde_json::from_slice(text).map_err(|_| NotABundle::Form)?;
        let keys = document.keys.iter().enumerate();
        let mut roots = Vec::new();
        for (index, key) in keys.filter(|(_, key)| key.usage == X509) {
            if roots.len() == MAX_ROOTS {
                return Err(NotABundle::TooMany);
            }
            roots.push(root(index, key)?);
        }
        let bundle = TrustBundle::new(roots).map_err(|_| NotABundle::NoRoots)?;
        Ok(Self {
            roots: bundle.to_pem(),
            refresh: document.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }
}

fn root(index: usize, key: &Key) -> Result<CertificateDer<'static>, NotABundle> {
    let [certificate] = key.x5c.as_slice() else {
        return Err(NotABundle::Certificate(index));
    };
    let der = STANDARD
        .decode(certificate)
        .map_err(|_| NotABundle::Certificate(index))?;
    let der = CertificateDer::from(der);
    let facts = CertificateFacts::from_der(&der).map_err(|_| NotABundle::Certificate(index))?;
    let usable = facts.is_ca && TrustBundle::new([der.clone()]).is_ok();
    usable.then_some(der).ok_or(NotABundle::NoAuthority(index))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn certificate(is_ca: bool) -> String {
        let mut params = rcgen::CertificateParams::default();
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        STANDARD.encode(params.self_signed(&key).unwrap().der())
    }

    fn read(document: &serde_json::Value) -> Result<Bundle, NotABundle> {
        Bundle::read(document.to_string().as_bytes())
    }

    #[test]
    fn the_roots_of_x509_identities_are_taken_and_nothing_else() {
        let bundle = read(
            &json!({"spiffe_sequence": 1, "spiffe_refresh_hint": 300, "keys": [
                {"use": "x509-svid", "kty": "EC", "x5c": [certificate(true)]},
                {"use": "jwt-svid", "kty": "EC", "kid": "a"},
                {"use": "x509-svid", "kty": "EC", "x5c": [certificate(true)]},
            ]}),
        );
        let bundle = bundle.unwrap();
        let roots = TrustBundle::from_pem(bundle.roots.as_bytes()).unwrap();
        assert_eq!(roots.roots().len(), 2);
        assert_eq!(bundle.refresh, Some(Duration::from_secs(300)));
    }

    #[test]
    fn what_is_no_bundle_of_authorities_is_refused_whole() {
        let svid = |x5c: Vec<String>| json!({"keys": [{"use": "x509-svid", "x5c": x5c}]});
        let (good, leaf) = (certificate(true), certificate(false));
        let cases = [
            (json!([]), NotABundle::Form),
            (json!({"keys": 1}), NotABundle::Form),
            (json!({"keys": []}), NotABundle::NoRoots),
            (svid(Vec::new()), NotABundle::Certificate(0)),
            (
                svid(vec![good.clone(), good.clone()]),
                NotABundle::Certificate(0),
            ),
            (
                svid(vec!["not base64".to_owned()]),
                NotABundle::Certificate(0),
            ),
            (svid(vec!["AAAA".to_owned()]), NotABundle::Certificate(0)),
            (svid(vec![leaf]), NotABundle::NoAuthority(0)),
        ];
        for (document, why) in cases {
            assert_eq!(read(&document), Err(why), "{document}");
        }
        let keys = vec![json!({"use": "x509-svid", "x5c": [good]}); MAX_ROOTS + 1];
        assert_eq!(read(&json!({"keys": keys})), Err(NotABundle::TooMany));
    }

    #[test]
    fn bundles_are_fetched_over_https_alone() {
        assert!(location("https://a.example/bundle").unwrap().tls);
        let bare = location("a.example:8443/bundle").unwrap();
        assert!(bare.tls && bare.port == 8443);
        assert!(location("http://a.example/bundle").is_err());
    }
}
