//! Protocol versions, cipher suites and key exchange groups (`TlsParameters`).

use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::super::XdsError;
use super::super::error::Within as _;
use crate::tls::{CipherSuite, Group, Known, TlsVersion};

/// What a handshake may use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) min_version: Option<TlsVersion>,
    pub(super) max_version: Option<TlsVersion>,
    pub(super) cipher_suites: Vec<CipherSuite>,
    pub(super) groups: Vec<Group>,
}

/// Reads them; what could never lead to a handshake is refused.
pub(super) fn parameters(from: Option<&tls::TlsParameters>) -> Result<Parameters, XdsError> {
    let Some(from) = from else {
        return Ok(Parameters::default());
    };
    let max_version = version(from.tls_maximum_protocol_version());
    let mut min_version = version(from.tls_minimum_protocol_version());
    if max_version.is_some_and(|max| max < TlsVersion::V1_2) {
        let reason = "TLS 1.0 and 1.1 are not offered (RFC 8996), so that nothing would be left";
        return Err(XdsError::new(reason).within("tls_maximum_protocol_version"));
    }
    if min_version
        .zip(max_version)
        .is_some_and(|(min, max)| min > max)
    {
        let reason = "is higher than tls_maximum_protocol_version";
        return Err(XdsError::new(reason).within("tls_minimum_protocol_version"));
    }
    let cipher_suites = cipher_suites(&from.cipher_suites)?;
    if cipher_suites.is_empty() && !from.cipher_suites.is_empty() {
        if max_version == Some(TlsVersion::V1_2) {
            let reason = "none of them is offered here (only ECDHE with AES-GCM or ChaCha20-Poly1305 is), and TLS 1.3, whose suites \
                are not configurable, is excluded";
            return Err(XdsError::new(reason).within("cipher_suites"));
        }
        min_version = Some(TlsVersion::V1_3);
    }
    Ok(Parameters {
        min_version,
        max_version,
        cipher_suites,
        groups: groups(&from.ecdh_curves)?,
    })
}

fn version(from: tls::tls_parameters::TlsProtocol) -> Option<TlsVersion> {
    use tls::tls_parameters::TlsProtocol;
    match from {
        TlsProtocol::TlsAuto => None,
        TlsProtocol::TlSv10 => Some(TlsVersion::V1_0),
        TlsProtocol::TlSv11 => Some(TlsVersion::V1_1),
        TlsProtocol::TlSv12 => Some(TlsVersion::V1_2),
        TlsProtocol::TlSv13 => Some(TlsVersion::V1_3),
    }
}

/// An entry may be a group of equal preference, `[A|B]`; the preference inside it is lost.
fn cipher_suites(names: &[String]) -> Result<Vec<CipherSuite>, XdsError> {
    let mut out = Vec::new();
    for (index, entry) in names.iter().enumerate() {
        let inner = entry.trim_start_matches('[').trim_end_matches(']');
        for name in inner.split('|') {
            match CipherSuite::by_name(name) {
                Some(Known::Supported(suite)) if !out.contains(&suite) => out.push(suite),
                Some(_) => {}
                None => {
                    return Err(XdsError::new(format!("{name:?} is no cipher suite")))
                        .at("cipher_suites", index);
                }
            }
        }
    }
    Ok(out)
}

fn groups(names: &[String]) -> Result<Vec<Group>, XdsError> {
    let mut out = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match Group::by_name(name) {
            Some(Known::Supported(group)) if !out.contains(&group) => out.push(group),
            Some(_) => {}
            None => {
                return Err(XdsError::new(format!("{name:?} is no key exchange group")))
                    .at("ecdh_curves", index);
            }
        }
    }
    if out.is_empty() && !names.is_empty() {
        let reason = "none of them is offered here (X25519MLKEM768, X25519, P-256 and P-384 are)";
        return Err(XdsError::new(reason).within("ecdh_curves"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tls::tls_parameters::TlsProtocol;

    fn with(change: impl FnOnce(&mut tls::TlsParameters)) -> Result<Parameters, String> {
        let mut from = tls::TlsParameters::default();
        change(&mut from);
        parameters(Some(&from)).map_err(|error| error.to_string())
    }

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn suites_that_are_not_offered_are_left_out_and_unknown_ones_refused() {
        let read = with(|p| {
            p.cipher_suites = texts(&[
                "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
                "AES128-SHA",
            ]);
        });
        assert_eq!(
            read.unwrap().cipher_suites,
            [
                CipherSuite::EcdheRsaAes128Gcm,
                CipherSuite::EcdheRsaChacha20
            ]
        );
        let error = with(|p| p.cipher_suites = texts(&["ECDHE-RSA-AES128-GCM"])).unwrap_err();
        assert!(error.contains("no cipher suite"), "{error}");
    }

    #[test]
    fn with_weak_suites_alone_only_tls_13_is_left() {
        let weak = texts(&["AES128-SHA", "AES256-SHA"]);
        let read = with(|p| p.cipher_suites.clone_from(&weak)).unwrap();
        assert_eq!(read.min_version, Some(TlsVersion::V1_3));
        let error = with(|p| {
            p.cipher_suites = weak;
            p.tls_maximum_protocol_version = TlsProtocol::TlSv12 as i32;
        });
        assert!(error.unwrap_err().contains("none of them is offered"));
    }

    #[test]
    fn versions_that_leave_nothing_are_refused() {
        let old = with(|p| p.tls_maximum_protocol_version = TlsProtocol::TlSv11 as i32);
        assert!(old.unwrap_err().contains("RFC 8996"));
        let crossed = with(|p| {
            p.tls_minimum_protocol_version = TlsProtocol::TlSv13 as i32;
            p.tls_maximum_protocol_version = TlsProtocol::TlSv12 as i32;
        });
        assert!(crossed.unwrap_err().contains("higher"));
    }

    #[test]
    fn groups_keep_their_order_and_may_not_all_be_missing() {
        let read = with(|p| p.ecdh_curves = texts(&["P-521", "P-384", "X25519"])).unwrap();
        assert_eq!(read.groups, [Group::P384, Group::X25519]);
        assert!(with(|p| p.ecdh_curves = texts(&["P-521"])).is_err());
        assert!(with(|p| p.ecdh_curves = texts(&["secp999"])).is_err());
    }
}
