//! TLS at the corpus' listeners: certificates by name, and what a client offers, shows and learns.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The certificate of everybody's authority but the stranger's.
static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(authority);
/// What certificates were asked for so far, by their one name.
static PAIRS: LazyLock<Mutex<BTreeMap<String, Pair>>> = LazyLock::new(Mutex::default);

/// One filter chain of a listener with TLS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chain {
    /// `server_names`; empty for any.
    #[serde(default)]
    names: Vec<String>,
    /// The names of the certificates that are shown.
    certificates: Vec<String>,
    /// Clients' certificates are checked against the corpus' authority; `required` also asks for one.
    client: Option<Client>,
    /// Further fields of `CommonTlsContext`.
    #[serde(default)]
    common: serde_json::Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Client {
    Optional,
    Required,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hello {
    sni: Option<String>,
    alpn: Vec<String>,
    /// The name of the certificate it has; `stranger` is of another authority.
    certificate: Option<String>,
    /// Only this version: `1.2` or `1.3`.
    version: Option<String>,
}

#[derive(Clone)]
struct Pair {
    certificate: String,
    key: String,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pair(name: &str) -> Pair {
    let mut pairs = PAIRS.lock().unwrap();
    let made = || {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = match name {
            "stranger" => params.signed_by(&key, &authority()),
            _ => params.signed_by(&key, &*AUTHORITY),
        };
        Pair {
            certificate: certificate.unwrap().pem(),
            key: key.serialize_pem(),
        }
    };
    pairs.entry(name.to_owned()).or_insert_with(made).clone()
}

/// A filter chain with these filters.
pub(crate) fn chain(tls: &Chain, filters: &Value) -> Value {
    let certificates = tls.certificates.iter().map(|name| {
        let Pair { certificate, key } = pair(name);
        json!({"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}})
    });
    let mut common = json!({"tls_certificates": certificates.collect::<Vec<_>>()});
    if tls.client.is_some() {
        common["validation_context"] = json!({"trusted_ca": {"inline_string": AUTHORITY.pem()}});
    }
    common.as_object_mut().unwrap().extend(tls.common.clone());
    let mut chain = json!({
        "filters": filters,
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "require_client_certificate": tls.client == Some(Client::Required),
        }},
    });
    if !tls.names.is_empty() {
        chain["filter_chain_match"] = json!({"server_names": tls.names});
    }
    chain
}

/// The listener filter that finds a client's server name.
pub(crate) fn inspector() -> Value {
    json!([{"name": "envoy.filters.listener.tls_inspector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    }}])
}

/// Makes a handshake, and tells what the client learned in it.
pub(crate) async fn handshake(
    stream: TcpStream,
    hello: &Hello,
) -> Result<(TlsStream<TcpStream>, Value), String> {
    let name = hello.sni.clone().unwrap_or_else(|| "127.0.0.1".to_owned()); // no server name is sent for an address
    let connector = TlsConnector::from(Arc::new(config(hello)));
    let name = ServerName::try_from(name).unwrap();
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|_| "no handshake".to_owned())?;
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let alpn = session.alpn_protocol().map(String::from_utf8_lossy);
    let learned = json!({
        "certificate": shown.map(name_of),
        "alpn": alpn,
        "version": format!("{:?}", session.protocol_version()),
    });
    Ok((stream, learned))
}

fn config(hello: &Hello) -> rustls::ClientConfig {
    let versions: &[_] = match hello.version.as_deref() {
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        _ => rustls::ALL_VERSIONS,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match &hello.certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let Pair { certificate, key } = pair(name);
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = hello
        .alpn
        .iter()
        .map(|name| name.clone().into_bytes())
        .collect();
    config
}

/// The one name of a certificate of the corpus.
fn name_of(certificate: &CertificateDer<'_>) -> String {
    let pairs = PAIRS.lock().unwrap();
    let is_it = |pair: &Pair| {
        CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap() == *certificate
    };
    let found = pairs.iter().find(|(_, pair)| is_it(pair));
    found.map_or("unknown", |(name, _)| name).to_owned()
}

/// Takes every certificate: which one is shown is what is compared.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
