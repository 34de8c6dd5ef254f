//! The HTTP filters before the router, in the order of the chain, with what the route says of them.
//!
//! A filter whose meaning is not known here never lets more through than it would: what it guards is refused.

mod local_rate_limit;
mod small;

pub(super) use small::{count_authorizer, mutate_response};

use std::fmt::Write;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use lateen_telemetry::ResponseFlag;
use lateen_traffic::RequestView;
use lateen_traffic::cors::CorsDecision;
use lateen_traffic::fault::{AbortStatus, Fault};
use lateen_traffic::filter::{FilterOverride, HttpFilter, HttpFilterKind};
use lateen_traffic::format::{Command, RequestValues, Values};
use lateen_traffic::matcher::HeaderMatcher;
use lateen_traffic::rbac::{RbacConfig, Subject};
use lateen_traffic::route::RouteDecision;

use super::exchange::Exchange;
use super::ext_authz;
use super::grpc_web::Web;
use super::jwt;
use super::local_reply::LocalReply;
use super::passage::Passage;
use super::record::Record;
use crate::connection::Connection;
use crate::decisions::Cause;

/// Where RBAC filters leave what their shadow rules came to.
const HTTP_RBAC: &str = "envoy.filters.http.rbac";

/// Runs the filters.
///
/// # Errors
/// A filter answers the request.
pub(super) async fn run(
    exchange: &mut Exchange,
    filters: &[HttpFilter],
    passage: &mut Passage<'_>,
) -> Result<(), LocalReply> {
    for filter in filters {
        let decision = passage.decision();
        let told = decision.and_then(|decision| decision.filter_override(&filter.name));
        if is_off(filter, told) {
            continue;
        }
        match &filter.kind {
            HttpFilterKind::Rbac(chain) => {
                let rules = match told {
                    Some(FilterOverride::Rbac(None)) => continue,
                    Some(FilterOverride::Rbac(Some(route))) => route,
                    _ => chain,
                };
                access(exchange, rules, passage)?;
            }
            HttpFilterKind::Fault(chain) => {
                let fault = match told {
                    Some(FilterOverride::Fault(route)) => route,
                    _ => chain,
                };
                Box::pin(inject(exchange, fault, passage)).await?;
            }
            HttpFilterKind::GrpcWeb => {
                exchange.web = Web::begin(&mut passage.head.headers);
                if let Some(web) = exchange.web {
                    exchange.record.is_grpc = true;
                    if web.text_request {
                        passage.body.decode_base64();
                    }
                }
            }
            HttpFilterKind::Cors => cors(exchange, &passage.view(), decision)?,
            HttpFilterKind::LocalRateLimit(chain) => {
                let limit = match told {
                    Some(FilterOverride::LocalRateLimit(route)) => route,
                    _ => chain,
                };
                local_rate_limit::apply(exchange, limit, passage)?;
            }
            HttpFilterKind::HealthCheck(settings) if !settings.pass_through => {
                health_check(&settings.headers, &passage.view())?;
            }
            HttpFilterKind::Buffer { max_request_bytes } => {
                let most = match told {
                    Some(FilterOverride::Buffer(route)) => *route,
                    _ => *max_request_bytes,
                };
                Box::pin(buffer(passage, most)).await?;
            }
            HttpFilterKind::JwtAuthn(chain) => {
                let route = match told {
                    Some(FilterOverride::Jwt(route)) => Some(route),
                    _ => None,
                };
                jwt::authenticate(exchange, chain, route, passage).await?;
            }
            HttpFilterKind::HeaderMutation(own) => {
                small::mutate_request(exchange, own, &filter.name, passage);
            }
            HttpFilterKind::SetFilterState(values) => small::set_state(exchange, values, passage),
            HttpFilterKind::ExtAuthz(settings) => {
                let route = match told {
                    Some(FilterOverride::ExtAuthz(route)) => Some(&**route),
                    _ => None,
                };
                let check = ext_authz::check(exchange, settings, route, passage);
                // Boxed, like the others that wait: every request's task would have to hold room for all of them.
                Box::pin(check).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a filter does not run for a request.
fn is_off(filter: &HttpFilter, told: Option<&FilterOverride>) -> bool {
    matches!(told, Some(FilterOverride::Disabled)) || (filter.disabled && told.is_none())
}

/// Waits for the whole body, which then has a length. Source: Envoy's buffer filter.
async fn buffer(passage: &mut Passage<'_>, most: u32) -> Result<(), LocalReply> {
    if passage.head.protocol.is_some() {
        return Ok(()); // an upgrade's bytes are no body
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let body = &mut passage.body;
    let read = body.read_ahead(most.saturating_add(1)).await;
    match read {
        Ok(_) if body.ahead_bytes() > most => Err(LocalReply::payload_too_large()),
        Ok(_) => {
            let length = HeaderValue::from(body.ahead_bytes());
            let headers = &mut passage.head.headers;
            if body.ahead_bytes() > 0 && !headers.contains_key(header::CONTENT_LENGTH) {
                headers.insert(header::CONTENT_LENGTH, length);
            }
            Ok(())
        }
        Err(_) => Err(LocalReply::downstream_ended()),
    }
}

fn health_check(headers: &[HeaderMatcher], view: &RequestView<'_>) -> Result<(), LocalReply> {
    if headers.iter().all(|matcher| matcher.matches(view)) {
        return Err(LocalReply::new(StatusCode::OK, "", "health_check_ok"));
    }
    Ok(())
}

/// Notes what the rules that decide nothing come to, then applies those that do.
fn access(
    exchange: &Exchange,
    rbac: &RbacConfig,
    passage: &mut Passage<'_>,
) -> Result<(), LocalReply> {
    let verdict = rbac.shadow(&Subject::of_request(&passage.view()));
    if let Some(verdict) = verdict {
        small::note_dry_run(exchange, rbac, &verdict);
        rbac.note_shadow(HTTP_RBAC, &verdict, &mut passage.metadata);
    }
    let Some(rules) = &rbac.rules else {
        return Ok(());
    };
    let verdict = rules.decide(&Subject::of_request(&passage.view()));
    small::count_access(exchange, rbac, verdict.allowed);
    if verdict.allowed {
        Ok(())
    } else {
        let cause = Cause::Rules(Arc::clone(rules), verdict.policy.cloned());
        Err(LocalReply::rbac_denied(verdict.policy.map(|name| &**name)).denied_by(cause))
    }
}

async fn inject(
    exchange: &mut Exchange,
    fault: &Fault,
    passage: &Passage<'_>,
) -> Result<(), LocalReply> {
    let cluster = passage
        .decision()
        .and_then(|decision| decision.cluster.as_deref())
        .unwrap_or_default();
    let view = passage.view();
    let injection = fault.decide(&view, cluster, 0, (rand::random(), rand::random()));
    if let Some(delay) = injection.delay {
        exchange.record.flags.insert(ResponseFlag::DelayInjected);
        tokio::time::sleep(delay).await;
    }
    match injection.abort {
        None | Some(AbortStatus::Header) => Ok(()),
        Some(AbortStatus::Http(code)) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Err(LocalReply::fault_abort(status, None))
        }
        Some(AbortStatus::Grpc(code)) => Err(LocalReply::fault_abort(StatusCode::OK, Some(code))),
    }
}

fn cors(
    exchange: &mut Exchange,
    view: &RequestView<'_>,
    decision: Option<&RouteDecision<'_>>,
) -> Result<(), LocalReply> {
    let Some(policy) = decision.and_then(RouteDecision::cors) else {
        return Ok(());
    };
    match policy.decide(view, rand::random()) {
        CorsDecision::Pass => Ok(()),
        CorsDecision::Annotate(headers) => {
            exchange.additions.extend(headers);
            Ok(())
        }
        CorsDecision::Preflight(headers) => Err(LocalReply {
            headers: Box::new(headers),
            ..LocalReply::new(StatusCode::OK, "", "cors_response")
        }),
    }
}

/// The values of command operators in headers that routes add.
pub(super) struct CommandValues<'a> {
    /// The request.
    pub(super) view: &'a RequestView<'a>,
    /// Its connection.
    pub(super) connection: &'a Connection,
    /// What is known of it so far: where it goes, how it went.
    pub(super) record: &'a Record,
    /// Status and headers of the response, once there is one.
    pub(super) response: Option<(StatusCode, &'a HeaderMap)>,
}

impl CommandValues<'_> {
    fn request_header(&self, argument: &str) -> Option<String> {
        argument
            .split('?')
            .find_map(|name| match name.to_ascii_lowercase().as_str() {
                ":method" => Some(self.view.method.to_owned()),
                ":scheme" => Some(self.view.scheme.to_owned()),
                ":authority" | "host" => Some(self.view.authority.to_owned()),
                ":path" => Some(self.view.path.to_owned()),
                name => self
                    .view
                    .headers
                    .get(name)
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            })
    }
}

impl CommandValues<'_> {
    fn response_header(&self, argument: &str) -> Option<String> {
        let (status, headers) = self.response?;
        argument.split('?').find_map(|name| match name {
            ":status" => Some(status.as_u16().to_string()),
            name => headers
                .get(name.to_ascii_lowercase())
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        })
    }
}

fn protocol_name(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl Values for CommandValues<'_> {
    fn write(&self, command: &Command, out: &mut String) -> bool {
        let facts = &self.connection.facts;
        let peer = self.connection.peer.as_ref();
        let text = match &*command.name {
            "REQ" => self.request_header(&command.argument),
            "DOWNSTREAM_REMOTE_ADDRESS" => Some(self.view.client.to_string()),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Some(self.view.client.ip().to_string()),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Some(facts.direct_remote.to_string()),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Some(facts.direct_remote.ip().to_string())
            }
            "DOWNSTREAM_LOCAL_ADDRESS" => Some(facts.local.to_string()),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Some(facts.local.ip().to_string()),
            "DOWNSTREAM_LOCAL_PORT" => Some(facts.local.port().to_string()),
            "DOWNSTREAM_PEER_URI_SAN" => peer.and_then(|p| p.principal().map(str::to_owned)),
            "DOWNSTREAM_PEER_SUBJECT" => peer.map(|p| p.subject.clone()),
            "DOWNSTREAM_PEER_FINGERPRINT_256" => peer.map(|p| p.sha256_fingerprint.clone()),
            "REQUESTED_SERVER_NAME" => facts.server_name.clone(),
            "UPSTREAM_HOST" => self.record.upstream.host.as_ref().map(ToString::to_string),
            "UPSTREAM_CLUSTER" => self.record.upstream.cluster.as_deref().map(str::to_owned),
            "ROUTE_NAME" => self.record.route.as_deref().map(str::to_owned),
            "PROTOCOL" => Some(protocol_name(self.record.version).to_owned()),
            "RESP" => self.response_header(&command.argument),
            "RESPONSE_CODE" => self.response.map(|(status, _)| status.as_u16().to_string()),
            "RESPONSE_FLAGS" => self.response.map(|_| self.record.flags.to_string()),
            "RESPONSE_CODE_DETAILS" => self.response.map(|_| self.record.details.to_string()),
            "HOSTNAME" => std::env::var("HOSTNAME").ok(),
            "DYNAMIC_METADATA" | "FILTER_STATE" => {
                let values = RequestValues {
                    request: self.view,
                    protocol: "",
                    route_name: "",
                    cluster: "",
                };
                let mut text = String::new();
                values.write(command, &mut text).then_some(text)
            }
            _ => None,
        };
        let Some(text) = text else { return false };
        let cut = command
            .max_length
            .map_or(text.as_str(), |max| text.get(..max).unwrap_or(&text));
        out.write_str(cut).is_ok()
    }
}
