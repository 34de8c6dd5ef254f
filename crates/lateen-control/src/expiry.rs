//! What expires when: the authority's own certificates, roots of other meshes and certificates in Secrets, as metrics, as warnings in the log, and for
//! `lateen check`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_api::kube::Secret;
use lateen_api::{Resource, Spec};
use lateen_identity::ca::CertificateAuthority;
use lateen_identity::expiry::{Expiry, Urgency, sort};
use lateen_identity::x509::{CertificateFacts, certificates_from_pem};
use tracing::{error, warn};

use crate::discovery::Proxies;

/// How often the log is told of what ends soon.
const REPEAT: Duration = Duration::from_secs(6 * 3600);
/// The keys of a Secret that hold certificates: of type `kubernetes.io/tls`, and Istio's older names.
const KEYS: [&str; 4] = ["tls.crt", "ca.crt", "cert", "cacert"];

/// The certificates in Secrets. Of a chain or a list of roots the one that ends first stands for all.
pub fn secrets<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Vec<Expiry> {
    let mut found = Vec::new();
    for resource in resources {
        let Spec::Secret(secret) = &*resource.spec else {
            continue;
        };
        for key in KEYS {
            let first_to_end = certificates(secret, key)
                .into_iter()
                .min_by_key(|facts| facts.not_after);
            if let Some(facts) = first_to_end {
                let name = format!("{}/{} {key}", resource.namespace(), resource.name());
                found.push(Expiry::new("Secret", &facts).named(name));
            }
        }
    }
    sort(&mut found);
    found
}

fn certificates(secret: &Secret, key: &str) -> Vec<CertificateFacts> {
    let written = secret.string_data.get(key).map(String::as_bytes);
    let pem = written.or_else(|| secret.data.get(key).map(|bytes| bytes.0.as_slice()));
    pem.and_then(|pem| certificates_from_pem(pem).ok())
        .unwrap_or_default()
        .iter()
        .filter_map(|der| CertificateFacts::from_der(der).ok())
        .collect()
}

/// What the root of another mesh is called.
pub const PEER_ROOT: &str = "root of another mesh";

/// The roots of other meshes that workloads trust, from their PEM.
fn peer_roots(pem: &[Arc<str>]) -> Vec<Expiry> {
    let all = pem
        .iter()
        .flat_map(|pem| certificates_from_pem(pem.as_bytes()));
    let facts = all
        .flatten()
        .filter_map(|der| CertificateFacts::from_der(&der).ok());
    facts.map(|facts| Expiry::new(PEER_ROOT, &facts)).collect()
}

/// The metrics, under Istio's names where it has them.
pub(crate) fn render(ca: &CertificateAuthority, proxies: &Proxies, now: SystemTime) -> String {
    let mut text = String::new();
    let own = ca.expiries();
    for (what, name) in [
        ("root", "citadel_server_root_cert_expiry"),
        ("signing certificate", "citadel_server_cert_chain_expiry"),
    ] {
        let ends = own.iter().filter(|expiry| expiry.what == what);
        if let Some(first) = ends.min_by_key(|expiry| expiry.not_after) {
            gauge(
                &mut text,
                &format!("{name}_timestamp"),
                "When it ends, Unix time.",
                unix(first),
            );
            let left = first.remaining(now).as_secs();
            gauge(
                &mut text,
                &format!("{name}_seconds"),
                "Seconds until it ends.",
                left,
            );
        }
    }
    let published = proxies.published();
    let secrets = secrets(&*published.secrets);
    let name = "lateen_secret_certificate_expiry_timestamp";
    let help = "When a Secret's certificate ends, Unix time.";
    gauges(&mut text, (name, help, "secret"), &secrets);
    let roots = peer_roots(&published.snapshot.peer_roots());
    let name = "lateen_peer_root_expiry_timestamp";
    let help = "When the root of another mesh ends, Unix time.";
    gauges(&mut text, (name, help, "root"), &roots);
    text
}

/// When each ends, told apart by a label.
fn gauges(text: &mut String, (name, help, label): (&str, &str, &str), all: &[Expiry]) {
    // Writing to a string cannot fail.
    if !all.is_empty() {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    }
    for expiry in all {
        // A subject is another mesh's text.
        let value = expiry.name.replace(['\\', '"', '\n'], "_");
        let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {}", unix(expiry));
    }
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"
    );
}

fn unix(expiry: &Expiry) -> u64 {
    expiry
        .not_after
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Tells the log, at the start and then every few hours, of what has ended and what will soon.
pub(crate) async fn warn_ahead(ca: Arc<CertificateAuthority>, proxies: Arc<Proxies>) {
    loop {
        let now = SystemTime::now();
        let mut all = ca.expiries();
        let published = proxies.published();
        all.extend(secrets(&*published.secrets));
        all.extend(peer_roots(&published.snapshot.peer_roots()));
        for expiry in &all {
            let (what, name, until) = (&expiry.what, &expiry.name, expiry.until());
            match expiry.urgency(now) {
                Urgency::Fine => {}
                Urgency::Soon => warn!(what, name, until, "a certificate ends soon"),
                Urgency::Critical => error!(what, name, until, "a certificate is about to end"),
                Urgency::Expired => error!(what, name, until, "a certificate has ended"),
            }
        }
        tokio::time::sleep(REPEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    #[test]
    fn a_secret_is_as_old_as_the_certificate_of_it_that_ends_first() {
        let until = |year| {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().pem()
        };
        let pem = format!("{}{}", until(2041), until(2031));
        let indented = pem.replace('\n', "\n    ");
        let yaml = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: edge}}\nstringData:\n  tls.crt: |\n    {indented}\n  other: x\n"
        );
        let parsed = parse_file(&SourceFile::new("secret.yaml", &yaml), "default");
        let found = secrets(&parsed.resources);
        assert_eq!(found.len(), 1, "{:?}", parsed.diagnostics);
        assert_eq!(found[0].name, "default/edge tls.crt");
        assert!(found[0].until().starts_with("2031-01-01"));
    }

    #[test]
    fn every_root_of_another_mesh_is_looked_at_and_its_name_is_only_text() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let name = "a\"} 1\nb";
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        let all = peer_roots(&[format!("{pem}{pem}").into(), "junk".into()]);
        assert_eq!(all.len(), 2);
        let mut text = String::new();
        gauges(&mut text, ("m", "h", "root"), &all[..1]);
        assert_eq!(text.lines().count(), 3, "{text}");
        gauges(&mut text, ("none", "h", "root"), &[]);
        assert!(!text.contains("none"));
    }

    #[test]
    fn what_holds_no_certificate_is_passed_over() {
        let yaml =
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {tls.crt: nothing}\n";
        let parsed = parse_file(&SourceFile::new("secret.yaml", yaml), "default");
        assert_eq!(secrets(&parsed.resources), []);
    }
}
