//! Certificates of workloads, and the TLS contexts that ask for them.

use std::sync::Arc;

use lateen_identity::tls::CertifiedKeyPair;
use lateen_identity::{TrustBundle, WorkloadIdentity};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

/// A root that signs workloads.
pub(crate) struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn workload(&self, account: &str) -> Arc<WorkloadIdentity> {
        let uri = format!("spiffe://cluster.local/ns/default/sa/{account}");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let pair = CertifiedKeyPair::from_pem(
            certificate.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
        )
        .unwrap();
        let bundle = TrustBundle::from_pem(self.0.pem().as_bytes()).unwrap();
        Arc::new(WorkloadIdentity::new(pair, Arc::new(bundle)).unwrap())
    }
}

pub(crate) fn sds(name: &str) -> Value {
    json!({"name": name, "sds_config": {"ads": {}, "resource_api_version": "V3"}})
}

pub(crate) fn common(sans: Value) -> Value {
    json!({
        "tls_certificate_sds_secret_configs": [sds("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": sans},
            "validation_context_sds_secret_config": sds("ROOTCA"),
        },
    })
}

pub(crate) fn spiffe(account: &str) -> Value {
    json!([{"san_type": "URI", "matcher": {"exact": format!("spiffe://cluster.local/ns/default/sa/{account}")}}])
}
