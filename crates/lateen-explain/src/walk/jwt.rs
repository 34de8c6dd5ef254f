//! Tokens: each that was looked at, and why it is good or not.

use lateen_traffic::RequestView;
use lateen_traffic::filter::{FilterOverride, HttpFilterKind};
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::jwt::{JwtAuthn, JwtStatus, METADATA_NAMESPACE, TokenCheck};
use lateen_traffic::value::Metadata;

use super::connection::Connection;
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
            let (outcome, _) = config.explain(view, None, (self.options.now, self.random(7)), &());
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
        connection: &Connection,
        config: &JwtAuthn,
        view: &RequestView<'_>,
        told: Option<&FilterOverride>,
    ) -> Result<Step, Stopped> {
        let at = connection.at();
        let route = match told {
            Some(FilterOverride::Jwt(route)) => Some(route),
            _ => None,
        };
        let (outcome, checks) =
            config.explain(view, route, (self.options.now, self.random(7)), &());
        let notes: Vec<Note> = checks
            .iter()
            .map(|check| self.token_note(connection, check))
            .collect();
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
                let decisive = checks
                    .iter()
                    .zip(&notes)
                    .find(|(check, _)| check.result.is_err() && check.location.is_some())
                    .or_else(|| checks.iter().zip(&notes).find(|(c, _)| c.result.is_err()));
                let place = decisive.and_then(|(_, note)| note.place.clone());
                let reason = decisive.map_or_else(
                    || what.clone(),
                    |(check, _)| format!("{}: {}", refusal.body, self.why(check)),
                );
                let step = Step::new(at, Stage::Authentication, what)
                    .at_place(place.clone())
                    .with_notes(notes);
                let outcome = Outcome::new(End::Denied, reason)
                    .status(refusal.status)
                    .decided_at(place);
                Err(Box::new((step, outcome)))
            }
        }
    }
}

impl Walker<'_> {
    /// Why a token is refused. Without the issuer's keys its signature cannot be judged here, which is no fault of the token.
    fn why(&self, check: &TokenCheck) -> String {
        let issuer = check.issuer.as_deref().unwrap_or_default();
        let unknown = self.mesh.and_then(|mesh| mesh.unknown_keys(issuer));
        match (check.result, unknown) {
            (Err(JwtStatus::NoMatchingKey | JwtStatus::VerificationFails), Some(source)) => {
                format!(
                    "the keys of `{issuer}` are at {source} and are not read here: give them with --jwks {issuer}=FILE, \
                     or describe the token by its claims"
                )
            }
            (Err(status), _) if check.why.is_empty() => status.message().to_owned(),
            _ => check.why.clone(),
        }
    }

    fn token_note(&self, connection: &Connection, check: &TokenCheck) -> Note {
        let location = check.location.as_deref().unwrap_or("no token");
        let provider = check.provider.as_deref().unwrap_or("no rule");
        let rule = self
            .mesh
            .and_then(|mesh| mesh.token_rule(&connection.arrival.proxy, provider));
        let of = match &rule {
            Some(place) => place.object.trim_start_matches("RequestAuthentication/"),
            None => provider,
        };
        let note = match &check.result {
            Ok(()) => Note::new(
                NoteKind::Info,
                format!("{location}, for {of}: good, {}", who(check)),
            ),
            Err(_) => {
                let kind = if check.location.is_some() {
                    NoteKind::NearMiss
                } else {
                    NoteKind::Passed
                };
                Note::new(kind, format!("{location}, for {of}: {}", self.why(check)))
            }
        };
        note.at_place(rule)
    }
}

fn who(check: &TokenCheck) -> String {
    let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("?").to_owned();
    format!("{} of {}", text(&check.subject), text(&check.issuer))
}
