//! HAProxy in place of the sidecars: mTLS between the two, no telemetry, nothing shared between requests.
//!
//! Nothing is redirected: the client calls its HAProxy on the pod's loopback.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::{Pods, Side};

/// Added to the origin's ports, these are where the server's HAProxy listens.
const OFFSET: u16 = 10_000;

/// What runs in the two pods.
///
/// # Errors
/// A file cannot be written.
pub(super) fn sides(pods: &Pods, files: &Path) -> Result<[Side; 2]> {
    let certificates = Certificates::write(files)?;
    let side = |pod: &'static str, config: String| -> Result<Side> {
        let path = files.join(format!("{pod}.cfg"));
        fs::write(&path, config).context("writing a configuration")?;
        Ok(Side {
            pod,
            arguments: vec!["-db".into(), "-f".into(), path.into()],
            ..Side::default()
        })
    };
    Ok([
        side("server", server(&certificates))?,
        side("client", client(pods.server, &certificates))?,
    ])
}

/// A root, and a certificate with its key for each side.
struct Certificates {
    root: PathBuf,
    leaf: PathBuf,
}

impl Certificates {
    fn write(dir: &Path) -> Result<Self> {
        let [root, leaf] = ["root.pem", "leaf.pem"].map(|name| dir.join(name));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the same name as what it signs, it would be taken for the same.
        params.distinguished_name.push(DnType::CommonName, "root");
        let key = KeyPair::generate().context("making a key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("making a root")?;
        let key = KeyPair::generate().context("making a key")?;
        let params = CertificateParams::new(vec!["workload.example".to_owned()]);
        let params = params.context("making a certificate")?;
        let signed = params.signed_by(&key, &issuer).context("signing")?;
        fs::write(&root, issuer.pem()).context("writing a root")?;
        let both = signed.pem() + &key.serialize_pem();
        fs::write(&leaf, both).context("writing a certificate")?;
        Ok(Self { root, leaf })
    }

    /// What makes a `bind` or `server` line speak mTLS.
    fn options(&self) -> String {
        let (root, leaf) = (self.root.display(), self.leaf.display());
        format!("ssl crt {leaf} ca-file {root} verify required")
    }
}

const DEFAULTS: &str = "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server \
                        60s\n";

fn section(mode: &str, port: u16, bind: &str, server: &str) -> String {
    let reuse = if mode == "http" {
        "  http-reuse always\n"
    } else {
        ""
    };
    format!("listen {mode}{port}\n  mode {mode}\n  bind {bind}\n{reuse}  server next {server}\n")
}

const PORTS: [(&str, u16); 2] = [("http", 8081), ("tcp", 8083)];

fn client(server: Ipv4Addr, certificates: &Certificates) -> String {
    let tls = certificates.options();
    PORTS
        .iter()
        .fold(DEFAULTS.to_owned(), |text, (mode, port)| {
            let next = format!("{server}:{} {tls}", port + OFFSET);
            text + &section(mode, *port, &format!("127.0.0.1:{port}"), &next)
        })
}

fn server(certificates: &Certificates) -> String {
    let tls = certificates.options();
    PORTS
        .iter()
        .fold(DEFAULTS.to_owned(), |text, (mode, port)| {
            let bind = format!("0.0.0.0:{} {tls}", port + OFFSET);
            text + &section(mode, *port, &bind, &format!("127.0.0.1:{port}"))
        })
}
