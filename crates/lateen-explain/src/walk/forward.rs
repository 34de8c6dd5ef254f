//! What a forwarding route makes of a request before it goes to a cluster: path, host, headers, times, tries and copies.

use ::http::HeaderMap;
use lateen_traffic::filter::HttpFilterKind;
use lateen_traffic::route::{Forward, HostRewrite, RouteDecision, request_hash};

use super::filters::fraction;
use super::http::{Request, response_facts};
use super::upstream::{Onward, short};
use super::{Head, Outcome, Payload, Step, Trail, Walker};
use crate::place::Place;
use crate::report::{End, MirrorFacts, Note, NoteKind, RetryFacts, Stage, percent, seconds};

impl Walker<'_> {
    /// Forwards a request.
    pub(super) fn forward(
        &mut self,
        mut trail: Trail,
        request: &Request<'_>,
        decision: &RouteDecision<'_>,
        forward: &Forward,
    ) {
        let place = self.places.of_provenance(&decision.route.provenance);
        let mut head = request.head.clone();
        self.rewrite(&mut trail, request, decision, &mut head, place.as_ref());
        self.headers(&mut trail, request, decision, &mut head);
        response_facts(&mut trail, request, decision);
        if !request.inbound {
            // What the first proxy waits and retries is what the client sees.
            if !trail.through_http {
                self.times(&mut trail, request, decision, forward, place.as_ref());
            }
            self.mirrors(&mut trail, request, decision, place.as_ref());
        }
        trail.facts.path = Some(head.path.clone());
        trail.facts.host = Some(head.authority.clone());
        trail.facts.headers = header_facts(&head.headers);
        trail.through_http = true;
        let at = request.connection.at();
        let Some(name) = decision.cluster.as_deref() else {
            let what = "the header that names the cluster is absent";
            let outcome = Outcome::new(End::Failed, what).status(503).flags("NC");
            return self.stop(trail, Step::new(at, Stage::Cluster, what), outcome);
        };
        let program = &request.connection.arrival.proxy.program;
        let Some(cluster) = program.cluster(name) else {
            let outcome = self
                .no_cluster(name, request)
                .status(forward.cluster_not_found_status)
                .flags("NC")
                .decided_at(place.clone());
            let step = Step::new(at, Stage::Cluster, outcome.summary.clone()).at_place(place);
            return self.stop(trail, step, outcome);
        };
        let onward = Onward {
            cluster: std::sync::Arc::clone(cluster),
            hash: request_hash(&forward.hash_policy, request.after).hash,
            alpn: alpn(request),
            authority: Some(request.head.authority.clone()),
            payload: Payload::Http(Box::new(head)),
        };
        self.onward(trail, request.connection, onward);
    }

    fn no_cluster(&self, name: &str, request: &Request<'_>) -> Outcome {
        let rejections = &request.connection.arrival.proxy.rejections;
        let refused = rejections.iter().find(|rejection| &*rejection.name == name);
        let summary = match refused {
            Some(refused) => format!("the proxy refused cluster {name}: {}", refused.reason),
            None => format!(
                "there is no cluster {}: its service, port or subset does not exist here",
                short(name)
            ),
        };
        Outcome::new(End::Failed, summary)
    }

    fn rewrite(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        decision: &RouteDecision<'_>,
        head: &mut Head,
        place: Option<&Place>,
    ) {
        let mut words = Vec::new();
        if let Some(path) = decision.rewritten_path(request.after)
            && path != head.path
        {
            words.push(format!("path {} becomes {path}", head.path));
            head.path = path;
        }
        if let Some(host) = decision.rewritten_host(request.after) {
            words.push(format!("host {} becomes {host}", head.authority));
            head.authority = host.into_owned();
        } else if let Some(HostRewrite::Auto) = decision.host_rewrite() {
            words.push("host becomes the endpoint's name".to_owned());
        }
        if !words.is_empty() {
            let step = Step::new(request.connection.at(), Stage::Rewrite, words.join(", "));
            trail.push(step.at_place(self.part(place, "rewrite")));
        }
    }

    fn headers(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        decision: &RouteDecision<'_>,
        head: &mut Head,
    ) {
        let values = request.values(decision);
        let before = head.headers.clone();
        for mutations in decision.request_headers() {
            mutations.apply(&mut head.headers, &values);
        }
        let mut words = changes(&before, &head.headers);
        let mut response = HeaderMap::new();
        for mutations in decision.response_headers() {
            mutations.apply(&mut response, &values);
            let removed = mutations
                .remove
                .iter()
                .map(|name| format!("response: {name} goes"));
            words.extend(removed);
        }
        let added = changes(&HeaderMap::new(), &response);
        words.extend(added.into_iter().map(|word| format!("response: {word}")));
        if !words.is_empty() {
            let step = Step::new(request.connection.at(), Stage::Headers, words.join(", "));
            let place = self.places.of_provenance(&decision.route.provenance);
            trail.push(step.at_place(self.part(place.as_ref(), "headers")));
        }
    }

    fn times(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        decision: &RouteDecision<'_>,
        forward: &Forward,
        place: Option<&Place>,
    ) {
        let at = request.connection.at();
        trail.facts.timeout = forward.request_timeout(request.after.headers);
        if let Some(timeout) = trail.facts.timeout {
            let what = format!(
                "{} for the whole answer, retries included",
                seconds(timeout)
            );
            trail.push(Step::info(at, Stage::Timeout, what).at_place(self.part(place, "timeout")));
        }
        let policy = decision.retries_for(request.after);
        trail.facts.retries = policy.as_ref().map(|policy| RetryFacts {
            attempts: policy.num_retries,
            on: policy.on.to_string(),
            per_try_timeout: policy.per_try_timeout,
        });
        let Some(policy) = policy else { return };
        let each = policy
            .per_try_timeout
            .map_or_else(String::new, |each| format!(", {} each", seconds(each)));
        let codes: Vec<String> = policy
            .retriable_status_codes
            .iter()
            .map(u16::to_string)
            .collect();
        let codes = if codes.is_empty() {
            String::new()
        } else {
            format!(" ({})", codes.join(", "))
        };
        let place = self
            .part(place, "retries")
            .filter(|place| self.places.is_written(place));
        let default = if place.is_none() { ", by default" } else { "" };
        let what = format!(
            "{}{each} on {}{codes}{default}",
            policy.num_retries, policy.on
        );
        trail.push(Step::info(at, Stage::Retries, what).at_place(place));
    }

    fn mirrors(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        decision: &RouteDecision<'_>,
        place: Option<&Place>,
    ) {
        for mirror in decision.mirrors() {
            let Some(name) = mirror.target.name(request.after) else {
                continue;
            };
            let share = fraction(mirror.fraction);
            let what = format!(
                "{} of requests are copied to {}",
                percent(share),
                short(&name)
            );
            let known = request
                .connection
                .arrival
                .proxy
                .program
                .cluster(&name)
                .is_some();
            let notes = if known {
                Vec::new()
            } else {
                vec![Note::new(
                    NoteKind::Info,
                    "there is no such cluster: nothing is copied",
                )]
            };
            trail.push(
                Step::info(request.connection.at(), Stage::Mirror, what)
                    .at_place(self.part(place, "mirror"))
                    .with_notes(notes),
            );
            trail.facts.mirrors.push(MirrorFacts {
                cluster: name.into_owned(),
                percent: share,
            });
        }
    }

    /// A field of the route an HTTP route came from, if it did come from one.
    fn part(&self, place: Option<&Place>, field: &str) -> Option<Place> {
        let place = place?;
        let base = place.field.split(".match").next().unwrap_or_default();
        base.starts_with("spec.http[")
            .then(|| self.places.of(&place.object, &format!("{base}.{field}")))
    }
}

/// What the ALPN filter offers in place of the transport socket's own protocols.
fn alpn(request: &Request<'_>) -> Vec<String> {
    let filter = request
        .manager
        .filters
        .iter()
        .find_map(|filter| match &filter.kind {
            HttpFilterKind::Alpn(alpn) => Some(alpn),
            _ => None,
        });
    let Some(filter) = filter else {
        return Vec::new();
    };
    let list = if request.head.http2 {
        &filter.http2
    } else {
        &filter.http11
    };
    list.iter().map(ToString::to_string).collect()
}

fn changes(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let mut names: Vec<&::http::HeaderName> = before.keys().chain(after.keys()).collect();
    names.sort_by_key(|name| name.as_str());
    names.dedup();
    let text = |headers: &HeaderMap, name: &::http::HeaderName| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    };
    let changed = names.into_iter().filter_map(|name| {
        let (old, new) = (text(before, name), text(after, name));
        match (old.is_empty(), new.is_empty()) {
            _ if old == new => None,
            (_, true) => Some(format!("{name} goes")),
            (_, false) => Some(format!("{name}: {}", new.join(", "))),
        }
    });
    changed.collect()
}

fn header_facts(headers: &HeaderMap) -> std::collections::BTreeMap<String, String> {
    let mut out: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined = out.entry(name.to_string()).or_default();
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(&value);
    }
    out
}
