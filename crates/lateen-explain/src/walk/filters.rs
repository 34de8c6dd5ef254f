//! The HTTP filters before the router, in the order of the chain, with what the route says of them.
//!
//! Source of the order and of what each does: `lateen-proxy`'s filters, which ask the same functions.

use lateen_traffic::RequestView;
use lateen_traffic::cors::CorsDecision;
use lateen_traffic::fault::{AbortStatus, DelayDuration, Fault};
use lateen_traffic::filter::{FilterOverride, HttpFilterKind};
use lateen_traffic::matcher::Fraction;
use lateen_traffic::rbac::{RbacConfig, RbacDecision, Subject};
use lateen_traffic::route::RouteDecision;

use super::authorizer::Custom;
use super::http::{Request, share};
use super::{Outcome, Step, Trail, Walker};
use crate::report::{End, FaultFacts, Stage, percent, seconds};

/// Where RBAC filters leave what their shadow rules came to.
const HTTP_RBAC: &str = "envoy.filters.http.rbac";

/// A step that ends a request, and how.
pub(super) type Stopped = Box<(Step, Outcome)>;

/// What access rules said of a request that they let pass.
struct Passed<'r> {
    step: Option<Step>,
    touched: Vec<(String, String)>,
    /// What those came to that decide nothing.
    shadow: Option<RbacDecision<'r>>,
}

impl Walker<'_> {
    /// Runs the filters.
    pub(super) fn filters(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        decision: Option<&RouteDecision<'_>>,
    ) -> Result<(), Stopped> {
        // Filters before the one for tokens see the request as it arrived, those behind it what that made of it.
        let mut view = request.arrived;
        let (mut metadata, mut custom) = (view.dynamic_metadata.clone(), Custom::default());
        for filter in &request.manager.filters {
            let told = decision.and_then(|decision| decision.filter_override(&filter.name));
            if matches!(told, Some(FilterOverride::Disabled)) || (filter.disabled && told.is_none())
            {
                continue;
            }
            match &filter.kind {
                HttpFilterKind::Rbac(chain) => {
                    let rules = match told {
                        Some(FilterOverride::Rbac(None)) => continue,
                        Some(FilterOverride::Rbac(Some(route))) => route,
                        _ => chain,
                    };
                    let seen = RequestView {
                        dynamic_metadata: &metadata,
                        ..*view
                    };
                    let judged = self.access(request, rules, &seen, &mut custom)?;
                    trail.facts.touched.extend(judged.touched);
                    trail.steps.extend(judged.step);
                    if let Some(verdict) = judged.shadow {
                        rules.note_shadow(HTTP_RBAC, &verdict, &mut metadata);
                    }
                }
                HttpFilterKind::JwtAuthn(config) => {
                    let step = self.tokens(request.connection, config, request.arrived, told)?;
                    trail.push(step);
                    view = request.after;
                    let found = view.dynamic_metadata.namespaces.clone();
                    metadata.namespaces.extend(found);
                }
                HttpFilterKind::ExtAuthz(settings) => {
                    let custom = std::mem::take(&mut custom);
                    trail.facts.touched.extend(custom.touched());
                    let connection = request.connection;
                    trail.push(self.authorizer(connection, settings, &metadata, custom)?);
                }
                HttpFilterKind::Fault(chain) => {
                    let fault = match told {
                        Some(FilterOverride::Fault(route)) => route,
                        _ => chain,
                    };
                    self.fault(trail, request, fault, decision)?;
                }
                HttpFilterKind::Cors => self.cors(trail, request, decision)?,
                HttpFilterKind::HealthCheck(settings)
                    if !settings.pass_through
                        && settings.headers.iter().all(|m| m.matches(request.view)) =>
                {
                    let what = "a health check: the proxy itself answers 200";
                    let step = Step::new(request.connection.at(), Stage::Filter, what);
                    return Err(Box::new((
                        step,
                        Outcome::new(End::Answered, what).status(200),
                    )));
                }
                HttpFilterKind::LocalRateLimit(limit) if limit.bucket.is_some() => {
                    let what = format!(
                        "{}: a local rate limit may answer {}",
                        filter.name, limit.status
                    );
                    trail.push(Step::info(request.connection.at(), Stage::Filter, what));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What access rules say of a request.
    fn access<'r>(
        &self,
        request: &Request<'_>,
        rules: &'r RbacConfig,
        seen: &RequestView<'_>,
        custom: &mut Custom,
    ) -> Result<Passed<'r>, Stopped> {
        let subject = Subject::of_request(seen);
        if let Some(found) = self.custom(rules, &subject) {
            *custom = found;
        }
        let shadow = rules.shadow(&subject);
        let Some(judged) = self.judge(request.connection.at(), rules, &subject) else {
            return Ok(Passed {
                step: None,
                touched: Vec::new(),
                shadow,
            });
        };
        if judged.refused {
            let outcome = Outcome::new(End::Denied, judged.step.what.clone())
                .status(403)
                .decided_at(judged.step.place.clone());
            return Err(Box::new((judged.step, outcome)));
        }
        Ok(Passed {
            step: Some(judged.step),
            touched: judged.touched,
            shadow,
        })
    }

    fn fault(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        fault: &Fault,
        decision: Option<&RouteDecision<'_>>,
    ) -> Result<(), Stopped> {
        let cluster = decision
            .and_then(|decision| decision.cluster.as_deref())
            .unwrap_or_default();
        let draws = (self.random(2), self.random(3));
        // Asked with every share hit, the engine says what may be injected; the shares are told beside it.
        let possible = certain(fault).decide(request.view, cluster, 0, (0, 0));
        if possible.delay.is_none() && possible.abort.is_none() {
            return Ok(());
        }
        let delays = fault.delay.map_or(0.0, |delay| fraction(delay.percentage));
        let aborts = fault.abort.map_or(0.0, |abort| fraction(abort.percentage));
        let mut words = Vec::new();
        if let Some(delay) = possible.delay {
            words.push(format!(
                "{} of requests wait {}",
                percent(delays),
                seconds(delay)
            ));
        }
        let status = possible.abort.map(answer);
        if let Some((code, grpc)) = status {
            let kind = grpc.map_or_else(|| code.to_string(), |grpc| format!("gRPC status {grpc}"));
            words.push(format!("{} are answered {kind}", percent(aborts)));
        }
        trail.facts.fault = Some(FaultFacts {
            delay: possible.delay,
            delay_percent: if possible.delay.is_some() {
                delays
            } else {
                0.0
            },
            abort_status: status
                .filter(|(_, grpc)| grpc.is_none())
                .map(|(code, _)| code),
            abort_grpc_status: status.and_then(|(_, grpc)| grpc),
            abort_percent: if status.is_some() { aborts } else { 0.0 },
        });
        let place = decision.and_then(|d| self.places.of_provenance(&d.route.provenance));
        let step = Step::new(request.connection.at(), Stage::Fault, words.join(", ")).at_place(
            place.map(|place| {
                let base = place
                    .field
                    .split(".match")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                self.places.of(&place.object, &format!("{base}.fault"))
            }),
        );
        let certain_abort = aborts >= 100.0;
        let drawn = self.options.seed.is_some()
            && fault
                .decide(request.view, cluster, 0, draws)
                .abort
                .is_some();
        if let Some((code, _)) = status.filter(|_| certain_abort || drawn) {
            let outcome = Outcome::new(End::Failed, format!("an injected fault answers {code}"))
                .status(code)
                .flags("FI")
                .decided_at(step.place.clone());
            return Err(Box::new((step, outcome)));
        }
        trail.push(step);
        Ok(())
    }

    fn cors(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        decision: Option<&RouteDecision<'_>>,
    ) -> Result<(), Stopped> {
        let Some(policy) = decision.and_then(RouteDecision::cors) else {
            return Ok(());
        };
        let at = request.connection.at();
        match policy.decide(request.view, self.random(4)) {
            CorsDecision::Pass => Ok(()),
            CorsDecision::Annotate(headers) => {
                for (name, value) in &headers {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    trail.facts.response_headers.insert(name.to_string(), value);
                }
                trail.push(Step::info(at, Stage::Filter, "CORS: the origin is allowed"));
                Ok(())
            }
            CorsDecision::Preflight(headers) => {
                let what = if headers.is_empty() {
                    "CORS: a preflight of an origin that is not allowed, answered without permission"
                } else {
                    "CORS: a preflight, answered 200"
                };
                let step = Step::new(at, Stage::Filter, what);
                Err(Box::new((
                    step,
                    Outcome::new(End::Answered, what).status(200),
                )))
            }
        }
    }
}

/// The fault with every share at all requests.
fn certain(fault: &Fault) -> Fault {
    let mut fault = fault.clone();
    if let Some(delay) = &mut fault.delay
        && delay.percentage.numerator > 0
        && delay.duration != DelayDuration::Header
    {
        delay.percentage = Fraction::ALL;
    }
    if let Some(abort) = &mut fault.abort
        && abort.percentage.numerator > 0
        && abort.status != AbortStatus::Header
    {
        abort.percentage = Fraction::ALL;
    }
    fault
}

/// The status of an abort, and gRPC's if it is one.
fn answer(abort: AbortStatus) -> (u16, Option<u32>) {
    match abort {
        AbortStatus::Http(code) => (code, None),
        AbortStatus::Grpc(code) => (200, Some(code)),
        AbortStatus::Header => (503, None),
    }
}

/// A fraction in percent.
pub(super) fn fraction(fraction: Fraction) -> f64 {
    share(
        u64::from(fraction.numerator),
        u64::from(fraction.denominator),
    )
    .min(100.0)
}
