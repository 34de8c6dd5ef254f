//! The cryptography of handshakes: rustls' own, or as a context narrows it.

use std::sync::{Arc, LazyLock};

use lateen_traffic::tls::{CipherSuite, Group, TlsContext};
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::{cipher_suite as suites, kx_group as groups};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};

/// The one cryptography provider (aws-lc-rs, with the post-quantum X25519MLKEM768 preferred, rustls' default).
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The provider of a context. Suites of TLS 1.3 are always all there, as in Envoy.
pub(super) fn provider(context: &TlsContext) -> Arc<CryptoProvider> {
    if context.cipher_suites.is_empty() && context.groups.is_empty() {
        return Arc::clone(&PROVIDER);
    }
    let mut own = CryptoProvider::clone(&PROVIDER);
    if !context.cipher_suites.is_empty() {
        own.cipher_suites
            .retain(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
        own.cipher_suites
            .extend(context.cipher_suites.iter().map(|suite| of_suite(*suite)));
    }
    if !context.groups.is_empty() {
        own.kx_groups = context
            .groups
            .iter()
            .map(|group| of_group(*group))
            .collect();
    }
    Arc::new(own)
}

const fn of_suite(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20 => suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20 => suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn of_group(group: Group) -> &'static dyn SupportedKxGroup {
    match group {
        Group::X25519MlKem768 => groups::X25519MLKEM768,
        Group::X25519 => groups::X25519,
        Group::P256 => groups::SECP256R1,
        Group::P384 => groups::SECP384R1,
    }
}
