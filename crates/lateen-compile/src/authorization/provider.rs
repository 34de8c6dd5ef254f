//! External authorizers: a MeshConfig extension provider to Envoy's ext_authz filters, or what is wrong with it.
//!
//! Source: Istio, `authz/builder/extauthz.go`. A provider with any mistake is no provider: the policies that name it deny.

use std::time::Duration;

use lateen_api::mesh::{
    EnvoyExternalAuthorizationGrpcProvider as GrpcProvider,
    EnvoyExternalAuthorizationHttpProvider as HttpProvider,
    EnvoyExternalAuthorizationRequestBody as RequestBody, ExtensionProvider,
};

use crate::names;
use crate::proto::{core, duration, envoy_type, extensions, matcher};

use extensions::filters::http::ext_authz::v3 as http_authz;
use extensions::filters::network::ext_authz::v3 as tcp_authz;
use matcher::metadata_matcher::{PathSegment, path_segment::Segment};

/// What policies' rules are named by where an authorizer is asked, before the provider's name.
pub(super) const MATCH_PREFIX: &str = "istio-ext-authz";
/// Where the rules that only decide whether an authorizer is asked leave their verdict.
pub(super) const SHADOW_PREFIX: &str = "istio_ext_authz_";
/// How long an authorizer has if the provider does not say.
const TIMEOUT: Duration = Duration::from_secs(600);
/// A provider's name is part of rule names and metadata: a DNS label.
const NAME_LENGTH: usize = 63;

/// A provider that policies may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Authorizer {
    hostname: String,
    cluster: String,
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Protocol {
    Http(HttpProvider),
    Grpc(GrpcProvider),
}

/// The provider of a name, or why there is none. `lookup` finds the host name of a service as written.
pub(crate) fn resolve(
    providers: &[ExtensionProvider],
    name: &str,
    lookup: impl Fn(&str) -> Result<String, String>,
) -> Result<Authorizer, String> {
    let mut found = providers.iter().filter(|provider| {
        provider.name == name
            && (provider.envoy_ext_authz_http.is_some() || provider.envoy_ext_authz_grpc.is_some())
    });
    let provider = found.next().ok_or_else(|| unknown(providers, name))?;
    if found.next().is_some() {
        return Err(format!("MeshConfig has more than one provider `{name}`"));
    }
    check_name(name)?;
    let (protocol, service, port) = match (
        &provider.envoy_ext_authz_http,
        &provider.envoy_ext_authz_grpc,
    ) {
        (Some(http), _) => {
            check_http(http)?;
            (Protocol::Http(http.clone()), &http.service, http.port)
        }
        (None, Some(grpc)) => {
            status(&grpc.status_on_error)?;
            (Protocol::Grpc(grpc.clone()), &grpc.service, grpc.port)
        }
        (None, None) => return Err(unknown(providers, name)),
    };
    if !(1..=65535).contains(&port) {
        return Err(format!("`port` is 1 to 65535, not {port}"));
    }
    let hostname = lookup(service)?;
    Ok(Authorizer {
        cluster: names::outbound_cluster("", &hostname, port),
        hostname,
        protocol,
    })
}

fn unknown(providers: &[ExtensionProvider], name: &str) -> String {
    let known: Vec<&str> = providers
        .iter()
        .filter(|p| p.envoy_ext_authz_http.is_some() || p.envoy_ext_authz_grpc.is_some())
        .map(|provider| provider.name.as_str())
        .collect();
    if known.is_empty() {
        return format!("MeshConfig has no provider `{name}`, and no external authorizer at all");
    }
    format!(
        "MeshConfig has no provider `{name}`; its authorizers are {}",
        known.join(", ")
    )
}

fn check_name(name: &str) -> Result<(), String> {
    let fine = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fine || name.len() > NAME_LENGTH || name.starts_with('-') || name.ends_with('-') {
        return Err(format!(
            "the provider's name `{name}` has to be lower-case letters, digits and hyphens, at most {NAME_LENGTH}"
        ));
    }
    Ok(())
}

fn check_http(provider: &HttpProvider) -> Result<(), String> {
    status(&provider.status_on_error)?;
    let prefix = &provider.path_prefix;
    if !prefix.is_empty() && !prefix.starts_with('/') {
        return Err(format!(
            "`pathPrefix` has to begin with `/`, not `{prefix}`"
        ));
    }
    let lists = [
        (
            "includeRequestHeadersInCheck",
            &provider.include_request_headers_in_check,
        ),
        ("includeHeadersInCheck", &provider.include_headers_in_check),
        (
            "headersToDownstreamOnDeny",
            &provider.headers_to_downstream_on_deny,
        ),
        (
            "headersToDownstreamOnAllow",
            &provider.headers_to_downstream_on_allow,
        ),
        (
            "headersToUpstreamOnAllow",
            &provider.headers_to_upstream_on_allow,
        ),
    ];
    match lists
        .iter()
        .find(|(_, list)| list.iter().any(|name| name == "*"))
    {
        Some((field, _)) => Err(format!(
            "`{field}` cannot have `*` alone: write a prefix or a suffix"
        )),
        None => Ok(()),
    }
}

/// The status clients get while the authorizer cannot be asked; none: 403.
fn status(written: &str) -> Result<Option<envoy_type::HttpStatus>, String> {
    if written.is_empty() {
        return Ok(None);
    }
    let known = |code: &i32| envoy_type::StatusCode::try_from(*code).is_ok();
    match written.parse::<i32>().ok().filter(known) {
        Some(code) => Ok(Some(envoy_type::HttpStatus { code })),
        None => Err(format!(
            "`statusOnError` is an HTTP status that Envoy knows, not `{written}`"
        )),
    }
}

impl Authorizer {
    /// The filter of HTTP connections. It asks about requests that a rule of the provider's policies matched.
    pub(super) fn http_filter(&self, provider: &str) -> http_authz::ExtAuthz {
        let base = http_authz::ExtAuthz {
            transport_api_version: core::ApiVersion::V3 as i32,
            filter_enabled_metadata: Some(asked(super::HTTP_RBAC, provider)),
            ..Default::default()
        };
        match &self.protocol {
            Protocol::Http(http) => http_authz::ExtAuthz {
                failure_mode_allow: http.fail_open,
                clear_route_cache: http.clear_route_cache,
                // Checked when the provider was resolved.
                status_on_error: status(&http.status_on_error).unwrap_or_default(),
                with_request_body: body(http.include_request_body_in_check.as_ref()),
                allowed_headers: headers(&http.include_request_headers_in_check)
                    .or_else(|| headers(&http.include_headers_in_check)),
                services: Some(http_authz::ext_authz::Services::HttpService(
                    self.http_service(http),
                )),
                ..base
            },
            Protocol::Grpc(grpc) => http_authz::ExtAuthz {
                failure_mode_allow: grpc.fail_open,
                clear_route_cache: grpc.clear_route_cache,
                status_on_error: status(&grpc.status_on_error).unwrap_or_default(),
                with_request_body: body(grpc.include_request_body_in_check.as_ref()),
                services: Some(http_authz::ext_authz::Services::GrpcService(
                    self.grpc_service(grpc),
                )),
                ..base
            },
        }
    }

    /// The filter of opaque connections; none for an authorizer that only knows HTTP, which Istio passes over there.
    pub(super) fn tcp_filter(&self, provider: &str) -> Option<tcp_authz::ExtAuthz> {
        let Protocol::Grpc(grpc) = &self.protocol else {
            return None;
        };
        Some(tcp_authz::ExtAuthz {
            stat_prefix: super::TCP_STAT_PREFIX.to_owned(),
            failure_mode_allow: grpc.fail_open,
            transport_api_version: core::ApiVersion::V3 as i32,
            grpc_service: Some(self.grpc_service(grpc)),
            filter_enabled_metadata: Some(asked(super::NETWORK_RBAC, provider)),
            ..Default::default()
        })
    }

    fn http_service(&self, http: &HttpProvider) -> http_authz::HttpService {
        let added: Vec<core::HeaderValue> = http
            .include_additional_headers_in_check
            .iter()
            .map(|(key, value)| core::HeaderValue {
                key: key.clone(),
                value: value.clone(),
                ..Default::default()
            })
            .collect();
        let answers = [
            &http.headers_to_upstream_on_allow,
            &http.headers_to_downstream_on_deny,
            &http.headers_to_downstream_on_allow,
        ];
        let response = http_authz::AuthorizationResponse {
            allowed_upstream_headers: headers(&http.headers_to_upstream_on_allow),
            allowed_client_headers: headers(&http.headers_to_downstream_on_deny),
            allowed_client_headers_on_success: headers(&http.headers_to_downstream_on_allow),
            ..Default::default()
        };
        http_authz::HttpService {
            server_uri: Some(core::HttpUri {
                // Required, and not used: the cluster says where it is.
                uri: format!("http://{}", self.hostname),
                timeout: Some(duration(http.timeout.unwrap_or(TIMEOUT))),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
                    self.cluster.clone(),
                )),
            }),
            path_prefix: http.path_prefix.clone(),
            authorization_request: (!added.is_empty()).then(|| http_authz::AuthorizationRequest {
                headers_to_add: added,
                ..Default::default()
            }),
            authorization_response: answers
                .iter()
                .any(|list| !list.is_empty())
                .then_some(response),
            ..Default::default()
        }
    }

    fn grpc_service(&self, grpc: &GrpcProvider) -> core::GrpcService {
        core::GrpcService {
            timeout: Some(duration(grpc.timeout.unwrap_or(TIMEOUT))),
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                core::grpc_service::EnvoyGrpc {
                    cluster_name: self.cluster.clone(),
                    authority: self.hostname.clone(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }
    }
}

fn body(settings: Option<&RequestBody>) -> Option<http_authz::BufferSettings> {
    settings.map(|settings| http_authz::BufferSettings {
        max_request_bytes: settings.max_request_bytes,
        allow_partial_message: settings.allow_partial_message,
        pack_as_bytes: settings.pack_as_bytes,
    })
}

/// Header names, with `*` at one end; none if there are none.
fn headers(names: &[String]) -> Option<matcher::ListStringMatcher> {
    if names.is_empty() {
        return None;
    }
    let pattern = |name: &String| matcher::StringMatcher {
        ignore_case: true,
        ..super::matchers::text(name, "")
    };
    Some(matcher::ListStringMatcher {
        patterns: names.iter().map(pattern).collect(),
    })
}

/// Holds for what a rule of the provider's policies matched, as the rules' filter noted it.
fn asked(rbac: &str, provider: &str) -> matcher::MetadataMatcher {
    matcher::MetadataMatcher {
        filter: rbac.to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(format!(
                "{SHADOW_PREFIX}shadow_effective_policy_id"
            ))),
        }],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(
                crate::proto::prefix(&format!("{MATCH_PREFIX}-{provider}")),
            )),
        }),
        invert: false,
    }
}

#[cfg(test)]
mod tests;
