//! Tokens: each that was looked at, and why it is good or not.

use lateen_traffic::RequestView;
use lateen_traffic::filter::{FilterOverride, HttpFilterKind};
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::jwt::{METADATA_NAMESPACE, TokenCheck};
use lateen_traffic::value::Metadata;

use super::filters::Stopped;
use super::{Head, Outcome, Step, Walker};
use crate::report::{End, Note, NoteKind, Stage};

/// What the JWT filters make of a request.
pub(super) struct Authenticated {
    /// The head they hand on.
    pub(super) head: Head,
    /// What later filters see of its tokens.
    pub(super) metadata: Metadata,
    /// Routes are looked for again with it.
    pub(super) reroutes: bool,
}

impl Walker<'_> {
    /// What the JWT filters of a chain make of a request, whether or not they let it pass. `None` without such filters.
    pub(super) fn authenticate(
        &self,
        manager: &HttpConnectionManager,
        head: &Head,
        view: &RequestView<'_>,
    ) -> Option<Authenticated> {
        let mut found: Option<Authenticated> = None;
        for filter in &manager.filters {
            let HttpFilterKind::JwtAuthn(config) = &filter.kind else {
                continue;
            };
            let (outcome, _) = config.explain(view, None, (self.options.now, self.random(7)));
            let found = found.get_or_insert_with(|| Authenticated {
                head: head.clone(),
                metadata: Metadata::default(),
                reroutes: false,
            });
            let head = &mut found.head;
            outcome.edits.apply(&mut head.headers, &mut head.path);
            if let Some(metadata) = outcome.metadata {
                found.metadata.set(METADATA_NAMESPACE, metadata);
            }
            found.reroutes |= outcome.clear_route_cache;
        }
        found
    }

    /// What a JWT filter says of a request.
    pub(super) fn tokens(
        &self,
        at: &str,
        config: &lateen_traffic::jwt::JwtAuthn,
        view: &RequestView<'_>,
        told: Option<&FilterOverride>,
    ) -> Result<Step, Stopped> {
        let route = match told {
            Some(FilterOverride::Jwt(route)) => Some(route),
            _ => None,
        };
        let (outcome, checks) = config.explain(view, route, (self.options.now, self.random(7)));
        let notes: Vec<Note> = checks.iter().map(note).collect();
        match outcome.verdict {
            Ok(()) => {
                let good = checks.iter().find(|check| check.result.is_ok());
                let what = match good {
                    Some(check) => format!("a good token: {}", who(check)),
                    None => "no token is asked for, and there is none that counts".to_owned(),
                };
                Ok(Step::new(at, Stage::Authentication, what).with_notes(notes))
            }
            Err(refusal) => {
                let what = format!("{}: {}", refusal.status, refusal.body);
                let step = Step::new(at, Stage::Authentication, what.clone()).with_notes(notes);
                let reason = checks
                    .iter()
                    .find(|check| check.result.is_err() && !check.why.is_empty())
                    .map_or(what, |check| format!("{}: {}", refusal.body, check.why));
                Err(Box::new((
                    step,
                    Outcome::new(End::Denied, reason).status(refusal.status),
                )))
            }
        }
    }
}

fn who(check: &TokenCheck) -> String {
    let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("?").to_owned();
    format!("{} of {}", text(&check.subject), text(&check.issuer))
}

fn note(check: &TokenCheck) -> Note {
    let location = check.location.as_deref().unwrap_or("no token");
    let provider = check.provider.as_deref().unwrap_or("no rule");
    match &check.result {
        Ok(()) => Note::new(
            NoteKind::Info,
            format!("{location}, for {provider}: good, {}", who(check)),
        ),
        Err(status) => {
            let why = if check.why.is_empty() {
                status.message().to_owned()
            } else {
                check.why.clone()
            };
            let kind = if check.location.is_some() {
                NoteKind::NearMiss
            } else {
                NoteKind::Passed
            };
            Note::new(kind, format!("{location}, for {provider}: {why}"))
        }
    }
}
