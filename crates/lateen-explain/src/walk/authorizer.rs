//! External authorizers: which requests and connections they are asked about, and what follows from the answer they are taken to give.
//!
//! Nobody is asked: an answer is what the user says it is, and unknown otherwise.

use lateen_traffic::ext_authz::{ExtAuthz, NetworkExtAuthz, Service, When};
use lateen_traffic::rbac::{RbacConfig, Subject};
use lateen_traffic::value::Metadata;

use super::access::RuleName;
use super::connection::Connection;
use super::filters::Stopped;
use super::upstream::short;
use super::{Authorizer, Outcome, Step, Walker};
use crate::place::Place;
use crate::report::{End, Note, Stage};

/// What CUSTOM rules before an authorizer came to.
#[derive(Default)]
pub(super) struct Custom {
    /// The rule that wants it asked.
    rule: Option<RuleName>,
    /// Why others do not.
    notes: Vec<Note>,
}

impl Custom {
    /// The rule that decided, by object and field.
    pub(super) fn touched(&self) -> Option<(String, String)> {
        let rule = self.rule.as_ref()?;
        Some((rule.object(), rule.field()))
    }
}

/// Who is asked, and what holds if that cannot be done.
struct Asked<'a> {
    cluster: &'a str,
    when: &'a When,
    failure_mode_allow: bool,
    /// What a request is answered that is not to be asked about, if it is not let through.
    at_disable: Option<u16>,
    on_error: Option<u16>,
}

impl Walker<'_> {
    /// What CUSTOM rules say of a request or connection, if these are some.
    pub(super) fn custom(&self, rbac: &RbacConfig, subject: &Subject<'_>) -> Option<Custom> {
        let rules = rbac.shadow_rules.as_deref()?;
        let is_custom = |name: &str| RuleName::parse(name).is_some_and(|rule| rule.is_custom());
        if !rules
            .policies()
            .iter()
            .any(|policy| is_custom(&policy.name))
        {
            return None;
        }
        let (decision, trace) = rules.explain(subject);
        let matched = decision.policy.map(|name| &**name);
        let others = trace
            .policies
            .iter()
            .filter(|policy| Some(&*policy.name) != matched);
        Some(Custom {
            rule: matched.and_then(RuleName::parse),
            notes: others.map(|policy| self.rule_note(policy)).collect(),
        })
    }

    /// The filter for requests.
    pub(super) fn authorizer(
        &self,
        connection: &Connection,
        settings: &ExtAuthz,
        metadata: &Metadata,
        custom: Custom,
    ) -> Result<Step, Stopped> {
        let cluster = match &settings.service {
            Service::Http(service) => &service.cluster,
            Service::Grpc(service) => &service.cluster,
        };
        let error = settings.status_on_error;
        let asked = Asked {
            cluster,
            when: &settings.when,
            failure_mode_allow: settings.failure_mode_allow,
            at_disable: settings.deny_at_disable.then_some(error),
            on_error: Some(error),
        };
        self.ask(connection, &asked, metadata, custom)
    }

    /// The filter for connections.
    pub(super) fn network_authorizer(
        &self,
        connection: &Connection,
        settings: &NetworkExtAuthz,
        metadata: &Metadata,
        custom: Custom,
    ) -> Result<Step, Stopped> {
        let asked = Asked {
            cluster: &settings.service.cluster,
            when: &settings.when,
            failure_mode_allow: settings.failure_mode_allow,
            at_disable: None,
            on_error: None,
        };
        self.ask(connection, &asked, metadata, custom)
    }

    fn ask(
        &self,
        connection: &Connection,
        asked: &Asked<'_>,
        metadata: &Metadata,
        custom: Custom,
    ) -> Result<Step, Stopped> {
        let at = connection.at();
        let who = who(asked.cluster, custom.rule.as_ref());
        let place = self.custom_place(custom.rule.as_ref());
        let step = |what: String| {
            Step::new(at, Stage::Authorization, what)
                .at_place(place.clone())
                .with_notes(custom.notes.clone())
        };
        let refuse = |what: String, status: Option<u16>| {
            let outcome = Outcome {
                status,
                flags: status.map(|_| "UAEX"),
                ..Outcome::new(End::Denied, what.clone()).decided_at(place.clone())
            };
            Err(Box::new((step(what), outcome)) as Stopped)
        };
        if !asked.when.holds(metadata, self.random(8)) {
            let what = format!("{who} is not asked");
            return match asked.at_disable {
                Some(status) => refuse(
                    format!("{what}, and what it is not asked about is refused"),
                    Some(status),
                ),
                None => Ok(Step::info(
                    at,
                    Stage::Authorization,
                    format!("{what}: no CUSTOM rule matches"),
                )
                .with_notes(custom.notes)),
            };
        }
        if connection
            .arrival
            .proxy
            .program
            .cluster(asked.cluster)
            .is_none()
        {
            let what = format!(
                "asked of {who}, which the proxy cannot reach: it has no cluster {}",
                asked.cluster
            );
            return if asked.failure_mode_allow {
                Ok(step(format!("{what}; failOpen lets it pass")))
            } else {
                refuse(what, asked.on_error)
            };
        }
        match self.options.authorizer {
            Some(Authorizer::Allows) => {
                Ok(step(format!("asked of {who}, which is taken to allow it")))
            }
            Some(Authorizer::Denies) => refuse(
                format!("denied by {who}, as is taken to be its answer"),
                asked.on_error.map(|_| 403),
            ),
            None => {
                let what = format!(
                    "asked of {who}: its answer is not known here; say what it is with --ext-authz allow or deny"
                );
                Ok(Step {
                    verdict: crate::report::Verdict::Info,
                    ..step(what)
                })
            }
        }
    }

    fn custom_place(&self, rule: Option<&RuleName>) -> Option<Place> {
        rule.map(|rule| self.places.of(&rule.object(), &rule.field()))
    }
}

fn who(cluster: &str, rule: Option<&RuleName>) -> String {
    let cluster = short(cluster);
    match rule.and_then(RuleName::provider) {
        Some(provider) => format!("provider {provider} ({cluster})"),
        None => format!("the authorizer {cluster}"),
    }
}
