//! Roots of other meshes (MeshConfig `caCertificates`) that are not trusted, although they are written: each workload's agent would
//! leave them out and say so in a log that nobody reads.

use lateen_api::mesh::{CertificateData, MeshConfig};
use lateen_api::{Diagnostic, Resource, Severity};
use lateen_compile::{JwksSource, JwksStore};
use lateen_identity::x509::{CertificateFacts, certificates_from_pem};
use lateen_sources::mesh;

use crate::jwks::bundle_url_problem;

/// `LAT0507`: a root of another mesh that is not trusted.
const ROOT: &str = "LAT0507";

/// What is wrong with the roots; `known` is what was fetched.
pub(crate) fn findings(
    mesh: &MeshConfig,
    resources: &[Resource],
    known: &JwksStore,
) -> Vec<Diagnostic> {
    let roots = mesh.ca_certificates.iter().enumerate();
    let wrong = roots.filter_map(|(index, root)| {
        let (field, problem, effect) = problem(root, known)?;
        let field = format!("caCertificates[{index}]{field}");
        let diagnostic =
            Diagnostic::new(ROOT, Severity::Warning, format!("`{field}` {problem}"))
                .effect(effect)
                .fix("write the certificate of the other mesh's authority in PEM into `pem`, or the https URL of its SPIFFE bundle into `spiffeBundleUrl`");
        Some(mesh::about(diagnostic, resources, &field))
    });
    wrong.collect()
}

const NOT_TRUSTED: &str = "certificates by this authority are refused";

/// The field, what is wrong, and what follows.
fn problem(
    root: &CertificateData,
    known: &JwksStore,
) -> Option<(&'static str, String, &'static str)> {
    if let Some(source) = JwksSource::of_root(root) {
        let url = root.spiffe_bundle_url.as_deref().unwrap_or_default();
        if let Some(problem) = bundle_url_problem(url) {
            let problem = format!("cannot be used: {problem}");
            return Some((".spiffeBundleUrl", problem, NOT_TRUSTED));
        }
        let jwks = known.get(&source)?;
        let problem = jwks.problem.as_deref()?;
        let effect = match jwks.keys {
            Some(_) => "the roots fetched last stay in force",
            None => NOT_TRUSTED,
        };
        return Some((
            ".spiffeBundleUrl",
            format!("cannot be used: {problem}"),
            effect,
        ));
    }
    let pem = root.pem.as_deref().unwrap_or_default();
    if pem.is_empty() {
        return Some(("", "names no root".to_owned(), NOT_TRUSTED));
    }
    let certificates = match certificates_from_pem(pem.as_bytes()) {
        Ok(certificates) => certificates,
        Err(error) => return Some((".pem", format!("is no root: {error}"), NOT_TRUSTED)),
    };
    let facts = certificates
        .iter()
        .map(|der| CertificateFacts::from_der(der));
    let all = facts.flatten().filter(|facts| facts.is_ca).count() == certificates.len();
    (!all).then(|| {
        let problem = "holds a certificate that is not an authority's (basic constraints)";
        (".pem", problem.to_owned(), NOT_TRUSTED)
    })
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};
    use lateen_compile::Jwks;

    use super::*;

    fn found(roots: &str, known: &JwksStore) -> Vec<(String, String)> {
        let yaml = format!(
            "{{apiVersion: install.istio.io/v1alpha1, kind: IstioOperator, metadata: {{name: m}}, spec: {{meshConfig: {{caCertificates: {roots}}}}}}}"
        );
        let parsed = parse_file(&SourceFile::new("mesh.yaml", &yaml), "default");
        let (mesh, _) = mesh::config(&parsed.resources);
        findings(&mesh, &parsed.resources, known)
            .into_iter()
            .map(|found| (found.field, found.message))
            .collect()
    }

    #[test]
    fn what_is_no_root_is_told_with_its_place() {
        let mut params = rcgen::CertificateParams::default();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.self_signed(&key).unwrap().pem();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        let roots = serde_json::json!([
            {"pem": root}, {"pem": leaf}, {"pem": "junk"}, {}, {"spiffeBundleUrl": "https://a.example"},
            {"spiffeBundleUrl": "http://a.example"}, {"spiffeBundleUrl": "https://"},
        ]);
        let fields: Vec<String> = found(&roots.to_string(), &JwksStore::new())
            .into_iter()
            .map(|(field, _)| field)
            .collect();
        let place = |rest: &str| format!("spec.meshConfig.caCertificates{rest}");
        let insecure = [place("[5].spiffeBundleUrl"), place("[6].spiffeBundleUrl")];
        let of_pem = [place("[1].pem"), place("[2].pem"), place("[3]")];
        assert_eq!(fields, [&of_pem[..], &insecure].concat());
    }

    #[test]
    fn a_bundle_that_cannot_be_fetched_is_told() {
        let source = JwksSource::SpiffeBundle("https://a.example".to_owned());
        let jwks = Jwks {
            keys: None,
            problem: Some("it is down".to_owned()),
        };
        let known = JwksStore::from([(source, jwks)]);
        let found = found("[{spiffeBundleUrl: https://a.example}]", &known);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].1.ends_with("cannot be used: it is down"),
            "{}",
            found[0].1
        );
    }
}
