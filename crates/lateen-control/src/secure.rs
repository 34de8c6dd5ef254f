//! The control plane's own certificate: issued by its CA, renewed long before it ends, and whenever the roots change.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_identity::TrustBundle;
use lateen_identity::ca::{CertificateAuthority, ServerNames};
use lateen_identity::tls::{
    ALPN_H2, CertifiedKeyPair, ClientAuth, ServerSettings, TlsVersions, server_config,
};
use rustls::ServerConfig;
use tokio::sync::watch;
use tracing::error;

use crate::serve::StartError;

/// Pause before another try when issuing failed.
const RETRY: Duration = Duration::from_secs(5);

/// Serves the newest configuration; renewed by a task until nobody listens.
pub(crate) fn server_tls(
    ca: Arc<CertificateAuthority>,
    ips: Vec<IpAddr>,
) -> Result<watch::Receiver<Arc<ServerConfig>>, StartError> {
    let mut published = ca.generation();
    published.mark_unchanged();
    let newest = ca.bundle().borrow().clone();
    let (first, mut renew_after) = issue(&ca, &ips, newest)?;
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(renew_after) => {}
                changed = published.changed() => if changed.is_err() { return },
            }
            let newest = ca.bundle().borrow().clone();
            match issue(&ca, &ips, newest) {
                Ok((config, after)) => {
                    sender.send_replace(config);
                    renew_after = after;
                }
                Err(error) => {
                    error!(%error, "the control plane's certificate was not renewed; trying again");
                    renew_after = RETRY;
                }
            }
        }
    });
    Ok(receiver)
}

/// A configuration, and half the life of its certificate.
fn issue(
    ca: &CertificateAuthority,
    ips: &[IpAddr],
    bundle: Arc<TrustBundle>,
) -> Result<(Arc<ServerConfig>, Duration), StartError> {
    let names = [
        "istiod",
        "istiod.istio-system",
        "istiod.istio-system.svc",
        "istio-pilot.istio-system.svc",
    ];
    let names = ServerNames {
        id: None,
        dns: names.map(str::to_owned).into(),
        ips: ips.to_vec(),
    };
    let (issued, key) = ca
        .issue_server(&names, SystemTime::now())
        .map_err(StartError::Certificate)?;
    let certificate = CertifiedKeyPair::new(issued.chain, key).map_err(StartError::Identity)?;
    let settings = ServerSettings {
        certificate,
        // A workload's first request has a token instead.
        client_auth: ClientAuth::Optional {
            bundle,
            names: Vec::new(),
        },
        alpn: vec![ALPN_H2.to_vec()],
        versions: TlsVersions::default(),
    };
    let config = server_config(settings).map_err(StartError::Tls)?;
    Ok((config, ca.options().default_ttl / 2))
}
