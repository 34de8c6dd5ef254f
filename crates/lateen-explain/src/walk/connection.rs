//! A connection at a proxy: the listener, the filter chain, TLS and the network filters.

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_traffic::filter::NetworkFilterKind;
use lateen_traffic::listener::{
    ChainDecision, ChainTrace, Criterion, FilterChain, Inspection, TrafficDirection,
};
use lateen_traffic::program::DispatchReason;
use lateen_traffic::rbac::{RbacConfig, Subject};
use lateen_traffic::request::{FilterState, TransportProtocol};
use lateen_traffic::tls::{CertificateSource, DownstreamTls};
use lateen_traffic::value::Metadata;
use lateen_traffic::{ConnectionInfo, Listener, PeerTls};

use super::access::Judged;
use super::authorizer::Custom;
use super::{Arrival, Hello, MOST_HOPS, Outcome, Payload, Step, Trail, Walker};
use crate::report::{End, Note, NoteKind, Stage, TlsMode};

/// Where RBAC filters leave what their shadow rules came to.
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

/// A connection whose chain is known and whose TLS is ended.
pub(super) struct Connection {
    pub(super) arrival: Arrival,
    pub(super) listener: Arc<Listener>,
    pub(super) seen: Seen,
    pub(super) secure: bool,
    pub(super) presented: bool,
    pub(super) sans: Vec<String>,
}

/// What the inspectors found.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    transport: TransportProtocol,
    server_name: Option<String>,
    protocols: Vec<String>,
}

impl Seen {
    /// Source: the inspectors of `lateen-proxy`, which read the same out of bytes.
    fn of(payload: &Payload, inspection: Inspection) -> Self {
        match payload {
            Payload::Tls(hello) if inspection.tls => Self {
                transport: TransportProtocol::Tls,
                server_name: hello.sni.clone(),
                protocols: hello.alpn.clone(),
            },
            Payload::Http(head) if inspection.http => Self {
                protocols: vec![if head.http2 { "h2c" } else { "http/1.1" }.to_owned()],
                ..Self::default()
            },
            Payload::Tls(_) | Payload::Http(_) | Payload::Opaque => Self::default(),
        }
    }
}

impl Connection {
    /// Calls `with` with the view decisions take.
    pub(super) fn with_info<T>(
        &self,
        with: impl FnOnce(&ConnectionInfo<'_>, &PeerTls<'_>) -> T,
    ) -> T {
        let peer = PeerTls {
            is_tls: self.secure,
            presented: self.presented,
            validated: self.presented,
            uri_sans: &self.sans,
            ..PeerTls::default()
        };
        with_seen(
            &self.seen,
            self.arrival.local,
            self.arrival.remote,
            |info| with(info, &peer),
        )
    }

    pub(super) fn at(&self) -> &str {
        &self.arrival.proxy.name
    }
}

fn with_seen<T>(
    seen: &Seen,
    local: SocketAddr,
    remote: SocketAddr,
    with: impl FnOnce(&ConnectionInfo<'_>) -> T,
) -> T {
    let protocols: Vec<&str> = seen.protocols.iter().map(String::as_str).collect();
    with(&ConnectionInfo {
        server_name: seen.server_name.as_deref(),
        transport_protocol: seen.transport,
        application_protocols: &protocols,
        ..ConnectionInfo::plain(remote, local)
    })
}

impl Walker<'_> {
    /// A connection arrives at a proxy.
    pub(super) fn arrive(&mut self, mut trail: Trail, arrival: Arrival) {
        trail.hops += 1;
        let proxy = Arc::clone(&arrival.proxy);
        if trail.hops > MOST_HOPS {
            let what = format!("the request passed {MOST_HOPS} proxies: it goes in circles");
            let outcome = Outcome::new(End::Failed, what.clone());
            return self.stop(
                trail,
                Step::new(&proxy.name, Stage::Listener, what),
                outcome,
            );
        }
        let dispatched = proxy.program.dispatch(&arrival.accepting, arrival.local);
        let listener = Arc::clone(dispatched.listener);
        trail.push(self.listener_step(&arrival, &listener, dispatched.reason));
        let seen = Seen::of(&arrival.payload, listener.inspection(arrival.local.port()));
        let (chain, trace) = with_seen(&seen, arrival.local, arrival.remote, |info| {
            let (decision, trace) = listener.explain_filter_chain(info);
            (decided(decision), trace)
        });
        let notes = self.chain_notes(&trace);
        let Some(chain) = chain else {
            return self.no_chain(trail, &arrival, &listener, &trace, notes);
        };
        let name = match (&*chain.name, trace.rejected.is_empty()) {
            ("", true) => "the only one",
            ("", false) => "the one that matches",
            (name, _) => name,
        };
        let what = match (&chain.tls, trace.is_default) {
            (_, true) => format!("{name}, as no other matches"),
            (Some(_), false) => format!("{name}, for TLS that ends here"),
            (None, false) if seen.transport == TransportProtocol::Tls => {
                format!("{name}, for TLS that passes through")
            }
            (None, false) => name.to_owned(),
        };
        let place = self.places.of_provenance(&chain.provenance);
        super::http::touch(&mut trail, place.as_ref());
        // A port that several services share has a chain made of them all, not of the first.
        let place = place.filter(|place| !place.object.starts_with("Service/"));
        trail.push(
            Step::new(&proxy.name, Stage::Chain, what)
                .at_place(place)
                .with_notes(notes),
        );
        self.end_tls(trail, arrival, listener, &chain, seen);
    }

    fn listener_step(&self, arrival: &Arrival, listener: &Listener, why: DispatchReason) -> Step {
        let local = arrival.local;
        let what = match why {
            DispatchReason::NotRedirected => format!("{} takes {local}", listener.name),
            DispatchReason::ExactAddress => format!("{} is {local} itself", listener.name),
            DispatchReason::WildcardPort => {
                format!(
                    "{} has port {} on every address",
                    listener.name,
                    local.port()
                )
            }
            DispatchReason::Accepting => {
                format!("{}, as no listener is for {local}", listener.name)
            }
        };
        Step::new(&arrival.proxy.name, Stage::Listener, what)
            .at_place(self.places.of_provenance(&listener.provenance))
    }

    fn chain_notes(&self, trace: &ChainTrace) -> Vec<Note> {
        let notes = trace.rejected.iter().map(|rejected| {
            let name = if rejected.name.is_empty() {
                format!("chain {}", rejected.index)
            } else {
                rejected.name.to_string()
            };
            // Chains for other ports, and more general ones, are no alternatives.
            let kind = match rejected.failed {
                None | Some(Criterion::DestinationPort) => NoteKind::Passed,
                Some(_) => NoteKind::NearMiss,
            };
            Note::new(kind, format!("{name}: {}", rejected.reason))
                .at_place(self.places.of_provenance(&rejected.provenance))
        });
        notes.collect()
    }

    fn no_chain(
        &mut self,
        trail: Trail,
        arrival: &Arrival,
        listener: &Listener,
        trace: &ChainTrace,
        notes: Vec<Note>,
    ) {
        let plain = !matches!(arrival.payload, Payload::Tls(_));
        // The chains for this very port say whether the port wants mutual TLS.
        let strict = trace.rejected.iter().find(|rejected| {
            rejected.failed > Some(Criterion::ServerName)
                && listener.chains[rejected.index]
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.require_client_certificate)
        });
        let (outcome, place) = match strict.filter(|_| plain) {
            Some(strict) => {
                let port = arrival.local.port();
                let what =
                    format!("port {port} takes mutual TLS only, and the client speaks plain text");
                (
                    Outcome::new(End::Denied, what),
                    self.places.of_provenance(&strict.provenance),
                )
            }
            None => (
                Outcome::new(
                    End::Failed,
                    "no filter chain matches: the connection is closed",
                ),
                None,
            ),
        };
        let outcome = outcome.behind(&trail, "UC").decided_at(place.clone());
        let step = Step::new(&arrival.proxy.name, Stage::Chain, outcome.summary.clone())
            .at_place(place)
            .with_notes(notes);
        self.stop(trail, step, outcome);
    }

    /// The chain's transport socket.
    fn end_tls(
        &mut self,
        mut trail: Trail,
        mut arrival: Arrival,
        listener: Arc<Listener>,
        chain: &Arc<FilterChain>,
        seen: Seen,
    ) {
        let (mut secure, mut sans, mut presented) = (false, Vec::new(), false);
        if let Some(tls) = &chain.tls {
            let Payload::Tls(hello) = arrival.payload else {
                let outcome = Outcome::new(
                    End::Failed,
                    "the chain wants TLS, and the client speaks plain text",
                )
                .behind(&trail, "UC");
                let step = Step::new(&arrival.proxy.name, Stage::Tls, outcome.summary.clone());
                return self.stop(trail, step, outcome);
            };
            if let Err(summary) = handshake(&arrival.proxy, tls, &hello) {
                let outcome = Outcome::new(End::Denied, summary)
                    .behind(&trail, "UF")
                    .decided_at(self.places.of_provenance(&chain.provenance));
                let step = Step::new(&arrival.proxy.name, Stage::Tls, outcome.summary.clone())
                    .at_place(outcome.place.clone());
                return self.stop(trail, step, outcome);
            }
            let what = match &hello.certificate {
                Some(identity) => format!("mutual TLS: the peer is {identity}"),
                None => "TLS: the peer presents no certificate".to_owned(),
            };
            let place = self.places.of_provenance(&chain.provenance);
            let place = place.filter(|place| !place.object.starts_with("Service/"));
            trail.push(Step::new(&arrival.proxy.name, Stage::Tls, what).at_place(place));
            secure = true;
            presented = hello.certificate.is_some();
            sans = hello.certificate.into_iter().collect();
            arrival.payload = hello.inner;
        } else if listener.direction == TrafficDirection::Inbound && arrival.workload.is_some() {
            let what = match &arrival.payload {
                Payload::Tls(_) => {
                    "TLS that the workload itself ends: the peer has no identity here"
                }
                Payload::Http(_) | Payload::Opaque => {
                    "plain text is taken: the peer has no identity"
                }
            };
            let place = self.places.of_provenance(&chain.provenance);
            let place = place.filter(|place| place.object.starts_with("PeerAuthentication/"));
            trail.push(Step::info(&arrival.proxy.name, Stage::Tls, what).at_place(place));
        }
        trail.facts.identity = sans.first().cloned();
        let connection = Connection {
            arrival,
            listener,
            seen,
            secure,
            presented,
            sans,
        };
        self.network_filters(trail, connection, chain);
    }

    fn network_filters(&mut self, mut trail: Trail, connection: Connection, chain: &FilterChain) {
        let (mut metadata, mut custom) = (Metadata::default(), Custom::default());
        for filter in &chain.filters {
            match &filter.kind {
                NetworkFilterKind::Rbac(rbac) => {
                    let judged =
                        self.judge_connection(&connection, rbac, &mut metadata, &mut custom);
                    let Some(judged) = judged else { continue };
                    trail.facts.touched.extend(judged.touched);
                    if judged.refused {
                        let outcome = Outcome::new(End::Denied, judged.step.what.clone())
                            .decided_at(judged.step.place.clone())
                            .behind(&trail, "UC");
                        return self.stop(trail, judged.step, outcome);
                    }
                    trail.push(judged.step);
                }
                NetworkFilterKind::ExtAuthz(settings) => {
                    let custom = std::mem::take(&mut custom);
                    trail.facts.touched.extend(custom.touched());
                    match self.network_authorizer(&connection, settings, &metadata, custom) {
                        Ok(step) => trail.push(step),
                        Err(stopped) => {
                            let (step, outcome) = *stopped;
                            let outcome = outcome.behind(&trail, "UC");
                            return self.stop(trail, step, outcome);
                        }
                    }
                }
                NetworkFilterKind::Http(manager) => {
                    let manager = Arc::clone(manager);
                    return self.http(trail, connection, &manager);
                }
                NetworkFilterKind::Tcp(proxy) => {
                    let proxy = Arc::clone(proxy);
                    return self.tcp(trail, connection, &proxy);
                }
                NetworkFilterKind::Echo | NetworkFilterKind::DirectResponse(_) => {
                    let outcome = Outcome::new(End::Answered, "the proxy itself answers");
                    let step = Step::new(connection.at(), Stage::Filter, filter.name.to_string());
                    return self.stop(trail, step, outcome);
                }
                _ => {}
            }
        }
        let outcome = Outcome::new(
            End::Failed,
            "the chain has no terminal filter: the connection is closed",
        );
        let step = Step::new(connection.at(), Stage::Filter, outcome.summary.clone());
        self.stop(trail, step, outcome);
    }
}

impl Walker<'_> {
    /// What access rules say of a connection.
    fn judge_connection(
        &self,
        connection: &Connection,
        rbac: &RbacConfig,
        metadata: &mut Metadata,
        custom: &mut Custom,
    ) -> Option<Judged> {
        let state = FilterState::new();
        let (judged, shadow) = connection.with_info(|info, peer| {
            let subject = Subject {
                connection: info,
                peer,
                request: None,
                dynamic_metadata: metadata,
                filter_state: &state,
            };
            if let Some(found) = self.custom(rbac, &subject) {
                *custom = found;
            }
            let judged = self.judge(connection.at(), rbac, &subject);
            (judged, rbac.shadow(&subject))
        });
        if let Some(verdict) = shadow {
            rbac.note_shadow(NETWORK_RBAC, &verdict, metadata);
        }
        judged
    }
}

fn decided(decision: ChainDecision<'_>) -> Option<Arc<FilterChain>> {
    decision.chain().cloned()
}

/// Whether the handshake succeeds, as far as names and secrets tell.
fn handshake(proxy: &super::Proxy, tls: &DownstreamTls, hello: &Hello) -> Result<(), String> {
    for source in &tls.common.certificates {
        if let CertificateSource::Sds(name) = source
            && !is_own(name)
            && proxy.program.secret(name).is_none()
        {
            return Err(format!(
                "the server has no certificate: there is no secret {name}"
            ));
        }
    }
    if tls.require_client_certificate && hello.certificate.is_none() {
        return Err("the server wants a client certificate, and there is none".to_owned());
    }
    let Some(identity) = proxy
        .identity
        .as_ref()
        .filter(|_| !hello.expects.is_empty())
    else {
        return Ok(());
    };
    let sans = [identity.clone()];
    let peer = PeerTls {
        is_tls: true,
        presented: true,
        validated: true,
        uri_sans: &sans,
        ..PeerTls::default()
    };
    if hello.expects.iter().any(|san| san.matches(&peer)) {
        return Ok(());
    }
    let wanted: Vec<String> = hello
        .expects
        .iter()
        .map(|san| san.matcher.to_string())
        .collect();
    Err(format!(
        "the client refuses the server: it is {identity}, and should be {}",
        wanted.join(" or ")
    ))
}

/// The secrets that a proxy's agent provides: its own certificate.
fn is_own(name: &str) -> bool {
    name == "default"
}

/// How a transport socket speaks.
pub(crate) fn mode_of(tls: &lateen_traffic::tls::UpstreamTls) -> TlsMode {
    match tls.common.certificates.first() {
        None => TlsMode::Simple,
        Some(CertificateSource::Sds(name)) if is_own(name) => TlsMode::IstioMutual,
        Some(_) => TlsMode::Mutual,
    }
}
