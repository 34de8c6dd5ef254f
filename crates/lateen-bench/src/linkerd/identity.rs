//! Identities: the root that both pods share, the key a proxy starts with, and the service that signs its certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tonic::{Request, Response, Status};

use super::Side;

/// How long Linkerd's certificates hold.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The trust root's files, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// The certificate.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

/// Makes a trust root in a directory.
///
/// # Errors
/// The files cannot be written.
pub(crate) fn write_root(dir: &Path) -> Result<Root> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let name = "root.linkerd.cluster.local";
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().context("making a key")?;
    let certificate = params.self_signed(&key).context("making a root")?;
    let root = Root {
        cert: dir.join("root.pem"),
        key: dir.join("root.key"),
    };
    fs::write(&root.cert, certificate.pem()).context("writing a root")?;
    fs::write(&root.key, key.serialize_pem()).context("writing a root's key")?;
    Ok(root)
}

/// Where the token is that a proxy shows when it asks for a certificate.
pub(super) fn token(dir: &Path) -> PathBuf {
    dir.join("token")
}

/// Makes a proxy's key, the request for its certificate, and a token, by the names it looks for.
///
/// # Errors
/// The files cannot be written.
pub(super) fn write_request(side: Side, dir: &Path) -> Result<()> {
    let name = side.identity();
    let mut params = CertificateParams::new(vec![name.clone()]).context("an identity")?;
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().context("making a key")?;
    let request = params.serialize_request(&key).context("making a request")?;
    fs::write(dir.join("key.p8"), key.serialize_der()).context("writing a key")?;
    fs::write(dir.join("csr.der"), request.der()).context("writing a request")?;
    fs::write(token(dir), side.name()).context("writing a token")
}

/// The service `Identity`. The token is not looked at: whoever reaches the pod's loopback is the pod.
pub(super) struct Issuer {
    root: rcgen::Issuer<'static, KeyPair>,
}

impl Issuer {
    /// Of a root in PEM.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn new(certificate: &str, key: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key).context("the root's key")?;
        let root = rcgen::Issuer::from_ca_cert_pem(certificate, key).context("the root")?;
        Ok(Self { root })
    }

    /// Signs what is asked for, if it is for this name and no other.
    ///
    /// # Errors
    /// It is not, or is no request.
    pub(super) fn sign(&self, identity: &str, request: Vec<u8>) -> Result<Vec<u8>> {
        let request = CertificateSigningRequestParams::from_der(&request.into());
        let mut request = request.context("the request")?;
        let name = SanType::DnsName(Ia5String::try_from(identity).context("the identity")?);
        let asked = &request.params.subject_alt_names;
        anyhow::ensure!(asked == &[name], "the request is for {asked:?}");
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        request.params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = request.signed_by(&self.root).context("signing")?;
        Ok(signed.der().to_vec())
    }
}

#[tonic::async_trait]
impl Identity for Issuer {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let signed = self.sign(&request.identity, request.certificate_signing_request);
        let leaf = signed.map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        Ok(Response::new(CertifyResponse {
            // In DER, whatever the API's description says.
            leaf_certificate: leaf,
            intermediate_certificates: Vec::new(),
            valid_until: Some((SystemTime::now() + LIFETIME).into()),
        }))
    }
}
