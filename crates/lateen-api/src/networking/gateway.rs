//! The fields of `networking.v1alpha3` (gateway), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::{enumeration, object};

object! {
    /// `networking.v1alpha3.Gateway` of Istio's API.
    pub struct Gateway {
        servers: Vec<Server>,
        selector: BTreeMap<String, String>,
    }
}

object! {
    /// `networking.v1alpha3.Server` of Istio's API.
    pub struct Server {
        port: Option<Port> [REQUIRED],
        bind: String,
        hosts: Vec<String> [REQUIRED],
        tls: Option<ServerTlsSettings>,
        default_endpoint: String,
        name: String,
    }
}

object! {
    /// `networking.v1alpha3.Port` of Istio's API.
    pub struct Port {
        number: u32 [REQUIRED],
        protocol: String [REQUIRED],
        name: String [REQUIRED],
        target_port: u32,
    }
}

object! {
    /// `networking.v1alpha3.ServerTLSSettings` of Istio's API.
    pub struct ServerTlsSettings [AtMostOne(&["tlsCertificates", "credentialNames", "credentialName"])] {
        https_redirect: bool,
        mode: ServerTlsMode,
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
        ca_crl: String,
        credential_name: String,
        credential_names: Vec<String> [Check::Items(1, 2)],
        ca_cert_credential_name: String,
        tls_certificates: Vec<TlsCertificate> [Check::Items(1, 2)],
        subject_alt_names: Vec<String>,
        verify_certificate_spki: Vec<String>,
        verify_certificate_hash: Vec<String>,
        min_protocol_version: TlsProtocol,
        max_protocol_version: TlsProtocol,
        cipher_suites: Vec<String>,
        ecdh_curves: Vec<String>,
        insecure_skip_verify: Option<bool>,
    }
}

object! {
    /// `networking.v1alpha3.ServerTLSSettings.TLSCertificate` of Istio's API.
    pub struct TlsCertificate {
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
    }
}

enumeration! {
    /// `networking.v1alpha3.ServerTLSSettings.TLSmode` of Istio's API.
    pub enum ServerTlsMode {
        Passthrough = "PASSTHROUGH",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        AutoPassthrough = "AUTO_PASSTHROUGH",
        IstioMutual = "ISTIO_MUTUAL",
        OptionalMutual = "OPTIONAL_MUTUAL",
    }
}

enumeration! {
    /// `networking.v1alpha3.ServerTLSSettings.TLSProtocol` of Istio's API.
    pub enum TlsProtocol {
        TlsAuto = "TLS_AUTO",
        Tlsv10 = "TLSV1_0",
        Tlsv11 = "TLSV1_1",
        Tlsv12 = "TLSV1_2",
        Tlsv13 = "TLSV1_3",
    }
}
