//! What a TLS handshake may use: cipher suites and key exchange groups by their BoringSSL names, as Envoy's configuration has them.
//!
//! It knows every name BoringSSL knows, and which of them this data plane can do: forward secret, authenticated encryption only. Asking for
//! more than that is never an error by itself, since leaving one out only makes a context stricter; a context of which nothing would
//! be left is refused, and so is a name that nobody knows.

/// A cipher suite of TLS 1.2. Those of TLS 1.3 are not configurable, in Envoy neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum CipherSuite {
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaChacha20,
    EcdheRsaAes128Gcm,
    EcdheRsaAes256Gcm,
    EcdheRsaChacha20,
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Group {
    X25519MlKem768,
    X25519,
    P256,
    P384,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// It can be used.
    Supported(T),
    /// BoringSSL has it, this data plane does not.
    Unsupported,
}

/// Suites BoringSSL has for TLS 1.2 and below that are left out here: CBC, RSA key exchange, pre-shared keys, 3DES.
const WEAK: [&str; 17] = [
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "AES128-SHA256",
];

impl CipherSuite {
    /// The suite of a name; `None` for a name BoringSSL does not know either.
    pub fn by_name(name: &str) -> Option<Known<Self>> {
        Some(Known::Supported(match name {
            "ECDHE-ECDSA-AES128-GCM-SHA256" => Self::EcdheEcdsaAes128Gcm,
            "ECDHE-ECDSA-AES256-GCM-SHA384" => Self::EcdheEcdsaAes256Gcm,
            "ECDHE-ECDSA-CHACHA20-POLY1305" => Self::EcdheEcdsaChacha20,
            "ECDHE-RSA-AES128-GCM-SHA256" => Self::EcdheRsaAes128Gcm,
            "ECDHE-RSA-AES256-GCM-SHA384" => Self::EcdheRsaAes256Gcm,
            "ECDHE-RSA-CHACHA20-POLY1305" => Self::EcdheRsaChacha20,
            weak if WEAK.contains(&weak) => return Some(Known::Unsupported),
            _ => return None,
        }))
    }
}

impl Group {
    /// The group of a name; `None` for a name BoringSSL does not know either.
    pub fn by_name(name: &str) -> Option<Known<Self>> {
        Some(Known::Supported(match name {
            "X25519MLKEM768" => Self::X25519MlKem768,
            "X25519" => Self::X25519,
            "P-256" | "prime256v1" => Self::P256,
            "P-384" | "secp384r1" => Self::P384,
            "P-521"
            | "secp521r1"
            | "P-224"
            | "secp224r1"
            | "X25519Kyber768Draft00"
            | "MLKEM1024" => return Some(Known::Unsupported),
            _ => return None,
        }))
    }
}
