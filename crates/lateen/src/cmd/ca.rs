//! `lateen ca rotate-root`: replaces the root of a running mesh, one step after the other, each when every proxy has followed
//! the one before.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use lateen_control::findings;
use lateen_identity::TrustDomain;
use lateen_identity::ca::{CaOptions, CertificateAuthority, Finish, RotationPhase};
use lateen_identity::x509::CertificateFacts;
use lateen_sources::files::Reader;

use crate::certificates::{Held, held};
use crate::cli::CaCommand;
use crate::output::print;
use crate::state::{StateDir, Up};

/// How often the proxies are asked.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn run(state: &StateDir, command: &CaCommand) -> Result<()> {
    match command {
        CaCommand::RotateRoot { timeout } => rotate(state, Duration::from_secs(*timeout)),
    }
}

/// Takes up a rotation where an interrupted one stopped.
fn rotate(state: &StateDir, patience: Duration) -> Result<()> {
    let up = state.expect_running()?;
    let ca = open(state, &up)?;
    loop {
        match ca
            .rotation_phase()
            .context("reading how far a rotation is")?
        {
            RotationPhase::Steady => {
                ca.begin_rotation(SystemTime::now())
                    .context("making the next root")?;
                print("1 of 3: the next root is made; both are trusted from now on\n")?;
            }
            RotationPhase::Distributing => {
                let next = newest_root(&ca)?;
                let trusts =
                    |proxy: &Held| proxy.roots.iter().any(|root| root.serial == next.serial);
                wait(state, patience, "trust the next root", trusts)?;
                ca.switch_signer(SystemTime::now())
                    .context("signing with the next root")?;
                print("2 of 3: the next root signs; every proxy gets a new certificate\n")?;
            }
            RotationPhase::Retiring => {
                let signer = ca.signer_facts();
                let renewed =
                    |proxy: &Held| proxy.chain.iter().any(|one| one.issuer == signer.subject);
                wait(
                    state,
                    patience,
                    "have a certificate of the new root",
                    renewed,
                )?;
                let before = serials(&ca);
                // No certificate of the old root is in use, however long it would still be valid.
                ca.finish_rotation(Finish::Now, SystemTime::now())
                    .context("ending trust in the old root")?;
                // Roots of other meshes stay.
                let after = serials(&ca);
                let retired = |root: &CertificateFacts| {
                    before.contains(&root.serial) && !after.contains(&root.serial)
                };
                let only = |proxy: &Held| !proxy.roots.iter().any(retired);
                wait(state, patience, "trust the new root alone", only)?;
                let (name, until) = (&signer.subject, ca.expiries());
                let until = until
                    .first()
                    .map_or_else(String::new, lateen_identity::expiry::Expiry::until);
                return print(&format!(
                    "3 of 3: done; the root is {name}, valid until {until}\n"
                ));
            }
        }
    }
}

/// The serial numbers of the authority's roots.
fn serials(ca: &CertificateAuthority) -> BTreeSet<String> {
    let bundle = ca.bundle().borrow().clone();
    let facts = bundle
        .roots()
        .iter()
        .filter_map(|root| CertificateFacts::from_der(root).ok());
    facts.map(|facts| facts.serial).collect()
}

fn open(state: &StateDir, up: &Up) -> Result<CertificateAuthority> {
    let files = Reader::new(up.paths.clone(), up.namespace.as_str()).read();
    let settings = findings::settings(&files.unwrap_or_default().resources.to_vec(), false);
    let options = CaOptions {
        trust_domain: TrustDomain::parse(settings.trust_domain.as_bytes())
            .context("reading the trust domain")?,
        ..CaOptions::default()
    };
    CertificateAuthority::open(up.ca_source(state), options, SystemTime::now())
        .context("opening the certificate authority")
}

/// The root that is trusted and does not sign yet: the one that ends last.
fn newest_root(ca: &CertificateAuthority) -> Result<CertificateFacts> {
    let bundle = ca.bundle().borrow().clone();
    let facts = bundle
        .roots()
        .iter()
        .filter_map(|root| CertificateFacts::from_der(root).ok());
    let signer = ca.signer_facts();
    facts
        .filter(|root| root.serial != signer.serial)
        .max_by_key(|root| root.not_after)
        .context("the authority's roots do not hold the next one")
}

/// Waits until all proxies are as they should be.
fn wait(
    state: &StateDir,
    patience: Duration,
    what: &str,
    reached: impl Fn(&Held) -> bool,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let proxies = held(state)?;
        let late: Vec<&str> = proxies
            .iter()
            .filter(|proxy| !reached(proxy))
            .map(|proxy| proxy.pod.as_str())
            .collect();
        if late.is_empty() {
            let took = started.elapsed().as_secs_f64();
            return print(&format!(
                "        all {} proxies {what} ({took:.1} s)\n",
                proxies.len()
            ));
        }
        if started.elapsed() > patience {
            bail!(
                "not all proxies {what} after {patience:?}: {}; nothing is lost, both roots are trusted: look at their logs, \
                 then run this again",
                late.join(", ")
            );
        }
        std::thread::sleep(LOOK);
    }
}
