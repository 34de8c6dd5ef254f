//! What a TLS session agreed on, by the names logs and OpenSSL have for it.

use lateen_telemetry::access_log::TlsField;
use rustls::{CipherSuite, CommonState, ProtocolVersion};

/// Version and cipher suite of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    version: &'static str,
    cipher: &'static str,
}

impl Session {
    /// What was agreed on; `None` before the handshake is complete.
    pub(crate) fn of(tls: &CommonState) -> Option<Self> {
        let version = match tls.protocol_version()? {
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => return None,
        };
        let cipher = cipher(tls.negotiated_cipher_suite()?.suite())?;
        Some(Self { version, cipher })
    }

    /// A field of an access log.
    pub(crate) const fn text(&self, field: TlsField) -> Option<&'static str> {
        match field {
            TlsField::Version => Some(self.version),
            TlsField::Cipher => Some(self.cipher),
            _ => None,
        }
    }
}

/// OpenSSL's name of a suite: of TLS 1.3 the standard's own, of earlier versions its own.
const fn cipher(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}
