//! HTTP/1.1 over TLS: kept alive, or with a new connection and a full handshake for every request.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version::TLS13,
};

use super::{Run, h1};

/// One connection, until the run ends; `fresh` makes another for every request.
pub(crate) async fn connection(run: Rc<Run>, fresh: bool) {
    while run.goes_on() {
        if let Err(error) = requests(&run, fresh).await {
            run.failed(&error);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

async fn requests(run: &Run, fresh: bool) -> Result<()> {
    let connector = connector()?;
    let request = h1::head(&run.plan);
    let mut buffer = vec![0; 256 * 1024];
    let mut kept = None;
    while let Some(due) = run.due().await {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(run, &connector).await?,
        };
        let bytes = h1::exchange(&mut stream, &request, &mut buffer).await?;
        run.answered(due, bytes);
        kept = (!fresh).then_some(stream);
    }
    Ok(())
}

async fn connect(run: &Run, connector: &TlsConnector) -> Result<TlsStream<TcpStream>> {
    let stream = h1::connect(&run.plan).await?;
    let name = ServerName::try_from(run.plan.authority.clone()).context("the authority")?;
    connector.connect(name, stream).await.context("TLS")
}

fn connector() -> Result<TlsConnector> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    // A handshake that is resumed costs a fraction of one that is not.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate, as the benchmark's is made up, but verifies that its key is there: that is part of what a client does.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
