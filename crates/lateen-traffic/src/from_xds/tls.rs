//! TLS contexts and secrets.

mod parameters;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::basic::{data_source, flag, non_empty, number, texts};
use super::error::Within as _;
use super::{XdsError, extension, matchers};
use crate::secret::{Secret, SecretKind, external_key};
use crate::tls::{
    CertificateSource, DataSource, DownstreamTls, SanMatcher, SanType, TlsCertificate, TlsContext,
    TrustDomain, UpstreamTls, Validation, ValidationSource,
};

/// The cluster of a bootstrap that leads to the agent's secrets.
const AGENT: &str = "sds-grpc";

/// A listener's TLS.
pub(super) fn downstream(from: &tls::DownstreamTlsContext) -> Result<DownstreamTls, XdsError> {
    use tls::downstream_tls_context::SessionTicketKeysType;
    Ok(DownstreamTls {
        common: common(from.common_tls_context.as_ref()).within("common_tls_context")?,
        require_client_certificate: flag(from.require_client_certificate.as_ref(), false),
        require_sni: flag(from.require_sni.as_ref(), false),
        disable_stateless_session_resumption: matches!(
            from.session_ticket_keys_type,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(
                true
            ))
        ),
        disable_stateful_session_resumption: from.disable_stateful_session_resumption,
    })
}

/// A cluster's TLS.
pub(super) fn upstream(from: &tls::UpstreamTlsContext) -> Result<UpstreamTls, XdsError> {
    Ok(UpstreamTls {
        common: common(from.common_tls_context.as_ref()).within("common_tls_context")?,
        sni: non_empty(&from.sni),
        auto_host_sni: from.auto_host_sni,
        auto_sni_san_validation: from.auto_sni_san_validation,
        max_session_keys: number(from.max_session_keys.as_ref()),
    })
}

fn common(from: Option<&tls::CommonTlsContext>) -> Result<TlsContext, XdsError> {
    let Some(from) = from else {
        return Ok(TlsContext::default());
    };
    if from.custom_handshaker.is_some() || from.custom_tls_certificate_selector.is_some() {
        return Err(XdsError::new(
            "custom handshakers and certificate selectors are not supported",
        ));
    }
    let inline = from
        .tls_certificates
        .iter()
        .enumerate()
        .map(|(index, certificate)| {
            certificate_of(certificate)
                .map(CertificateSource::Inline)
                .at("tls_certificates", index)
        });
    let by_sds = from.tls_certificate_sds_secret_configs.iter();
    let by_sds = by_sds.map(|config| Ok(CertificateSource::Sds(sds_key(config))));
    let parameters = parameters::parameters(from.tls_params.as_ref()).within("tls_params")?;
    Ok(TlsContext {
        certificates: inline.chain(by_sds).collect::<Result<_, XdsError>>()?,
        validation: validation_source(from)?,
        alpn: texts(&from.alpn_protocols),
        min_version: parameters.min_version,
        max_version: parameters.max_version,
        cipher_suites: parameters.cipher_suites,
        groups: parameters.groups,
    })
}

/// What a secret is known by: its name, and the server that has it if that is neither the control plane nor the agent.
fn sds_key(config: &tls::SdsSecretConfig) -> Arc<str> {
    use core::config_source::ConfigSourceSpecifier;
    use core::grpc_service::TargetSpecifier;
    let source = config.sds_config.as_ref();
    let source = source.and_then(|source| source.config_source_specifier.as_ref());
    let service = match source {
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => api.grpc_services.first(),
        _ => None,
    };
    match service.and_then(|service| service.target_specifier.as_ref()) {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) if grpc.cluster_name != AGENT => {
            external_key(&grpc.cluster_name, &config.name)
        }
        _ => config.name.as_str().into(),
    }
}

fn validation_source(from: &tls::CommonTlsContext) -> Result<ValidationSource, XdsError> {
    use tls::common_tls_context::ValidationContextType as Kind;
    Ok(match from.validation_context_type.as_ref() {
        None => ValidationSource::None,
        Some(Kind::ValidationContext(context)) => {
            let context = validation(context).and_then(whole);
            ValidationSource::Inline(Arc::new(context.within("validation_context")?))
        }
        Some(Kind::ValidationContextSdsSecretConfig(config)) => {
            ValidationSource::Sds(sds_key(config))
        }
        Some(Kind::CombinedValidationContext(combined)) => {
            combined_validation(combined).within("combined_validation_context")?
        }
        Some(_) => return Err(XdsError::new("certificate providers are not supported")),
    })
}

fn combined_validation(
    from: &tls::common_tls_context::CombinedCertificateValidationContext,
) -> Result<ValidationSource, XdsError> {
    let default = from.default_validation_context.clone().unwrap_or_default();
    let default = Arc::new(validation(&default).within("default_validation_context")?);
    match from.validation_context_sds_secret_config.as_ref() {
        Some(config) => Ok(ValidationSource::Combined {
            default,
            sds: sds_key(config),
        }),
        None => Ok(ValidationSource::Inline(default)),
    }
}

fn validation(from: &tls::CertificateValidationContext) -> Result<Validation, XdsError> {
    use tls::certificate_validation_context::TrustChainVerification;
    if from.ca_certificate_provider_instance.is_some() {
        return Err(XdsError::new("certificate providers are not supported")
            .within("ca_certificate_provider_instance"));
    }
    let optional = |source: Option<&core::DataSource>, field| {
        source.map(data_source).transpose().within(field)
    };
    Ok(Validation {
        trusted_ca: optional(from.trusted_ca.as_ref(), "trusted_ca")?,
        system_roots: from.system_root_certs.is_some(),
        crl: optional(from.crl.as_ref(), "crl")?,
        san_matchers: san_matchers(from)?,
        spki_hashes: pins(
            &from.verify_certificate_spki,
            "verify_certificate_spki",
            |pin| BASE64.decode(pin).ok(),
        )?,
        certificate_hashes: pins(
            &from.verify_certificate_hash,
            "verify_certificate_hash",
            unhex,
        )?,
        only_leaf_crl: from.only_verify_leaf_cert_crl,
        allow_expired: from.allow_expired_certificate,
        accept_untrusted: from.trust_chain_verification()
            == TrustChainVerification::AcceptUntrusted,
        trust_domains: from.custom_validator_config.as_ref().map_or_else(
            || Ok(Vec::new()),
            |config| trust_domains(config).within("custom_validator_config"),
        )?,
    })
}

/// What stands alone has to make sense alone: names in a certificate that anybody could have signed say nothing, and so does a list of
/// revoked ones. Source: Envoy refuses these.
fn whole(validation: Validation) -> Result<Validation, XdsError> {
    let reason = if validation.has_roots() || validation.accept_untrusted {
        return Ok(validation);
    } else if !validation.san_matchers.is_empty() {
        "SANs can only be verified together with a trusted CA (trusted_ca)"
    } else if validation.crl.is_some() {
        "revocation lists mean nothing without a trusted CA (trusted_ca)"
    } else {
        return Ok(validation);
    };
    Err(XdsError::new(reason))
}

/// SHA-256 pins in either of Envoy's notations.
fn pins(
    from: &[String],
    field: &str,
    decode: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<[u8; 32]>, XdsError> {
    let pins = from.iter().enumerate().map(|(index, pin)| {
        let bytes = decode(pin).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let wrong = || XdsError::new(format!("{pin:?} is not a SHA-256 hash"));
        bytes.ok_or_else(wrong).at(field, index)
    });
    pins.collect()
}

/// Hexadecimal, with or without colons between the bytes.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

fn san_matchers(from: &tls::CertificateValidationContext) -> Result<Vec<SanMatcher>, XdsError> {
    let typed = from.match_typed_subject_alt_names.iter().enumerate();
    let typed = typed
        .map(|(index, matcher)| san_matcher(matcher).at("match_typed_subject_alt_names", index));
    #[expect(deprecated, reason = "Istio writes the untyped form")]
    let untyped = from.match_subject_alt_names.iter().enumerate();
    let untyped = untyped.map(|(index, matcher)| {
        let matcher = matchers::string(matcher).at("match_subject_alt_names", index)?;
        Ok(SanMatcher {
            san_type: SanType::Any,
            matcher,
        })
    });
    typed.chain(untyped).collect()
}

/// A condition on SANs of one type.
pub(super) fn san_matcher(from: &tls::SubjectAltNameMatcher) -> Result<SanMatcher, XdsError> {
    use tls::subject_alt_name_matcher::SanType as Kind;
    let san_type = match from.san_type() {
        Kind::Unspecified => SanType::Any,
        Kind::Email => SanType::Email,
        Kind::Dns => SanType::Dns,
        Kind::Uri => SanType::Uri,
        Kind::IpAddress => SanType::IpAddress,
        Kind::OtherName => SanType::OtherName,
    };
    Ok(SanMatcher {
        san_type,
        matcher: matchers::required_string(from.matcher.as_ref()).within("matcher")?,
    })
}

fn trust_domains(config: &core::TypedExtensionConfig) -> Result<Vec<TrustDomain>, XdsError> {
    let any = config
        .typed_config
        .as_ref()
        .ok_or_else(|| XdsError::new("the configuration is missing"))?;
    let name = extension::type_name(any)?;
    if name != "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig" {
        return Err(XdsError::new(format!(
            "the certificate validator {name} is not supported"
        )));
    }
    let spiffe: tls::SpiffeCertValidatorConfig = extension::message(any)?;
    if spiffe.trust_bundles.is_some() {
        return Err(
            XdsError::new("trust bundles in SPIFFE's format are not supported")
                .within("trust_bundles"),
        );
    }
    let domains = spiffe
        .trust_domains
        .iter()
        .enumerate()
        .map(|(index, domain)| {
            let bundle = domain
                .trust_bundle
                .as_ref()
                .ok_or_else(|| XdsError::new("the trust bundle is missing"));
            let bundle = bundle.and_then(data_source).at("trust_domains", index)?;
            Ok(TrustDomain {
                name: domain.name.as_str().into(),
                bundle,
            })
        });
    domains.collect()
}

fn certificate_of(from: &tls::TlsCertificate) -> Result<TlsCertificate, XdsError> {
    let required = |source: Option<&core::DataSource>, field| {
        source
            .ok_or_else(|| XdsError::new("is missing"))
            .and_then(data_source)
            .within(field)
    };
    Ok(TlsCertificate {
        chain: required(from.certificate_chain.as_ref(), "certificate_chain")?,
        key: required(from.private_key.as_ref(), "private_key")?,
    })
}

/// A secret.
pub(super) fn secret(from: &tls::Secret) -> Result<Secret, XdsError> {
    use tls::secret::Type;
    let kind = match from.r#type.as_ref() {
        Some(Type::TlsCertificate(certificate)) => {
            SecretKind::TlsCertificate(certificate_of(certificate).within("tls_certificate")?)
        }
        Some(Type::ValidationContext(context)) => {
            SecretKind::Validation(Arc::new(validation(context).within("validation_context")?))
        }
        Some(Type::SessionTicketKeys(keys)) => {
            let keys = keys
                .keys
                .iter()
                .map(data_source)
                .collect::<Result<Vec<DataSource>, _>>();
            SecretKind::SessionTicketKeys(keys.within("session_ticket_keys")?)
        }
        Some(Type::GenericSecret(generic)) => {
            let source = generic
                .secret
                .as_ref()
                .ok_or_else(|| XdsError::new("is missing"));
            SecretKind::Generic(
                source
                    .and_then(data_source)
                    .within("generic_secret.secret")?,
            )
        }
        None => return Err(XdsError::new("the secret is empty")),
    };
    Ok(Secret {
        name: from.name.as_str().into(),
        kind,
    })
}
