//! A pair of HAProxies in place of the sidecars: mTLS between them, no telemetry, nothing shared between requests.
//!
//! The pods are the mesh's without injection. Nothing is redirected: the client calls its HAProxy on the pod's loopback.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::running::{DataPlane, Mesh, Sidecar};
use crate::process::{self, Core, Process};
use crate::rivals::Subject;

/// How long both have to listen.
const START: Duration = Duration::from_secs(20);
/// Added to the origin's ports, these are where the server's HAProxy listens.
const OFFSET: u16 = 10_000;

/// Two HAProxies that run; ended with the value.
#[derive(Debug)]
pub(super) struct Pair {
    _processes: Vec<Process>,
    _files: tempfile::TempDir,
}

/// Starts the pods and a HAProxy in each.
///
/// # Errors
/// They do not start.
pub(super) fn up(program: &Path, manifests: String) -> Result<(Mesh, Vec<Sidecar>, Pair)> {
    let mesh = Mesh::up(&[("mesh.yaml", manifests)], DataPlane::Lateen)?;
    let server = mesh.address("server")?;
    let files = tempfile::tempdir().context("making a directory")?;
    let certificates = Certificates::write(files.path())?;
    let sides = [
        ("client", client(server, &certificates)),
        ("server", self::server(&certificates)),
    ];
    let (mut processes, mut sidecars) = (Vec::new(), Vec::new());
    for (pod, config) in sides {
        let path = files.path().join(format!("{pod}.cfg"));
        fs::write(&path, config).context("writing a configuration")?;
        let mut command = mesh.command(&["exec", &format!("deploy/{pod}"), "--"]);
        command.arg(program).args(["-db", "-f"]).arg(&path);
        let log = files.path().join(format!("{pod}.log"));
        processes.push(Process::start_anywhere(&mut command, &log)?);
        sidecars.push(started(pod, &path, &log)?);
    }
    let pair = Pair {
        _processes: processes,
        _files: files,
    };
    Ok((mesh, sidecars, pair))
}

/// Waits for the process that reads a configuration, and keeps it to the subject's core.
fn started(pod: &str, config: &Path, log: &Path) -> Result<Sidecar> {
    let deadline = Instant::now() + START;
    let is_it = |words: &[String]| {
        let runs = words
            .first()
            .is_some_and(|name| name.ends_with(Subject::Haproxy.name()));
        runs && words.iter().any(|word| Path::new(word) == config)
    };
    loop {
        let all = process::command_lines();
        if let Some((pid, _)) = all.iter().find(|(_, words)| is_it(words)) {
            // It listens once it has read a small file.
            std::thread::sleep(Duration::from_millis(500));
            process::pin(*pid, Core::Subject)?;
            return Ok(Sidecar {
                pod: pod.to_owned(),
                proxy: *pid,
            });
        }
        ensure!(
            Instant::now() < deadline,
            "no HAProxy in {pod}:\n{}",
            process::tail(log, 10)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
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
