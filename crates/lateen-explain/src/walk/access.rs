//! Access rules: which policy decides, which came close, and which condition kept each from matching.

use lateen_traffic::rbac::{
    PolicyTrace, RbacAction, RbacConfig, Rules, Side, Subject, Topic, Unmet,
};

use super::{Step, Walker};
use crate::place::Place;
use crate::report::{Note, NoteKind, Stage, Verdict};

/// The outcome of one filter's rules.
pub(super) struct Judged {
    pub(super) step: Step,
    pub(super) refused: bool,
    /// The rules that matched, by object and field.
    pub(super) touched: Vec<(String, String)>,
}

/// What stands before the names of CUSTOM rules, with the provider and a dash behind it. Source: Istio, `extAuthzMatchPrefix`.
const CUSTOM: &str = "istio-ext-authz-";

/// A policy's rule, taken from the name Istio gives it: `ns[default]-policy[web]-rule[0]`, with the provider before it if the policy is
/// CUSTOM: `istio-ext-authz-PROVIDER-ns[…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleName {
    pub(crate) namespace: String,
    pub(crate) policy: String,
    pub(crate) rule: usize,
    /// The provider of a CUSTOM policy; may be empty.
    custom: Option<String>,
}

impl RuleName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (before, rest) = name.split_once("ns[")?;
        let custom = match before {
            "" => None,
            _ => Some(
                before
                    .strip_prefix(CUSTOM)?
                    .trim_end_matches('-')
                    .to_owned(),
            ),
        };
        let (namespace, rest) = rest.split_once("]-policy[")?;
        let (policy, rest) = rest.split_once("]-rule[")?;
        let (rule, _) = rest.split_once(']')?;
        Some(Self {
            namespace: namespace.to_owned(),
            policy: policy.to_owned(),
            rule: rule.parse().ok()?,
            custom,
        })
    }

    /// Whether the policy's action is CUSTOM.
    pub(crate) const fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// The provider a CUSTOM policy names.
    pub(crate) fn provider(&self) -> Option<&str> {
        self.custom.as_deref().filter(|name| !name.is_empty())
    }

    pub(crate) fn object(&self) -> String {
        format!("AuthorizationPolicy/{}/{}", self.namespace, self.policy)
    }

    pub(crate) fn field(&self) -> String {
        format!("spec.rules[{}]", self.rule)
    }
}

impl Walker<'_> {
    /// What rules say of a connection or request; `None` if there are none.
    pub(super) fn judge(
        &self,
        at: &str,
        rbac: &RbacConfig,
        subject: &Subject<'_>,
    ) -> Option<Judged> {
        let mut judged = rbac
            .rules
            .as_deref()
            .map(|rules| self.enforced(at, rules, subject));
        // Those of CUSTOM policies are told by the authorizer they belong to.
        let on_trial = |rules: &&Rules| {
            let first = rules.policies().first();
            !first.is_some_and(|policy| policy.name.starts_with(CUSTOM))
        };
        if let Some(shadow) = rbac.shadow_rules.as_deref().filter(on_trial) {
            let note = self.shadow_note(shadow, subject);
            match &mut judged {
                Some(judged) => judged.step.notes.push(note),
                None => {
                    judged = Some(Judged {
                        step: Step::info(at, Stage::Authorization, "policies on trial only")
                            .with_notes(vec![note]),
                        refused: false,
                        touched: Vec::new(),
                    });
                }
            }
        }
        judged
    }

    fn enforced(&self, at: &str, rules: &Rules, subject: &Subject<'_>) -> Judged {
        let (decision, trace) = rules.explain(subject);
        let matched = decision.policy.map(|name| &**name);
        let mut notes: Vec<Note> = trace
            .policies
            .iter()
            .filter(|policy| Some(&*policy.name) != matched)
            .map(|policy| self.rule_note(policy))
            .collect();
        // The nearest first; the sort keeps the order of the rest.
        notes.sort_by_key(|note| note.kind != NoteKind::NearMiss);
        let what = verdict(rules, matched);
        let place = match matched {
            Some(name) => self.rule_place(name),
            // What is missing is a rule: the policies that might have had it are the decision.
            None if !decision.allowed => self.nearest(&trace.policies),
            None => None,
        };
        let touched = matched.and_then(RuleName::parse);
        let step = Step {
            verdict: if decision.allowed {
                Verdict::Pass
            } else {
                Verdict::Stop
            },
            ..Step::new(at, Stage::Authorization, what)
        };
        Judged {
            step: step.at_place(place).with_notes(notes),
            refused: !decision.allowed,
            touched: touched
                .map(|rule| (rule.object(), rule.field()))
                .into_iter()
                .collect(),
        }
    }

    fn rule_place(&self, name: &str) -> Option<Place> {
        let rule = RuleName::parse(name)?;
        Some(self.places.of(&rule.object(), &rule.field()))
    }

    /// The rule with the fewest conditions unmet.
    fn nearest(&self, policies: &[PolicyTrace]) -> Option<Place> {
        let nearest = policies.iter().min_by_key(|policy| policy.unmet.len())?;
        let rule = RuleName::parse(&nearest.name)?;
        Some(self.unmet_place(&rule, nearest.unmet.first()))
    }

    /// The field of a rule's condition, as far as the condition tells.
    fn unmet_place(&self, rule: &RuleName, unmet: Option<&Unmet>) -> Place {
        let field = rule.field();
        let detail = unmet.map_or_else(String::new, |unmet| {
            let list = match &unmet.topic {
                Topic::Method => ".methods",
                Topic::Host => ".hosts",
                Topic::Path => ".paths",
                Topic::Port => ".ports",
                Topic::SourceIp => ".ipBlocks",
                Topic::RemoteIp => ".remoteIpBlocks",
                _ => "",
            };
            match unmet.side {
                Side::Permission => format!(".to[{}].operation{list}", unmet.alternative),
                Side::Principal => format!(".from[{}].source{list}", unmet.alternative),
            }
        });
        self.places.of(&rule.object(), &format!("{field}{detail}"))
    }

    pub(super) fn rule_note(&self, policy: &PolicyTrace) -> Note {
        let rule = RuleName::parse(&policy.name);
        let name = rule.as_ref().map_or_else(
            || policy.name.to_string(),
            |rule| format!("rule {} of {}.{}", rule.rule, rule.policy, rule.namespace),
        );
        let place = rule.map(|rule| self.unmet_place(&rule, policy.unmet.first()));
        let reasons: Vec<String> = policy.unmet.iter().map(Unmet::to_string).collect();
        let (kind, text) = match &policy.unmet[..] {
            [] => (NoteKind::Info, format!("{name} matches")),
            [only] if only.topic != Topic::Never => (
                NoteKind::NearMiss,
                format!("{name} matches but for {}: it {only}", only.topic),
            ),
            _ => (
                NoteKind::Passed,
                format!("{name}: it {}", reasons.join("; it ")),
            ),
        };
        Note::new(kind, text).at_place(place)
    }

    fn shadow_note(&self, rules: &Rules, subject: &Subject<'_>) -> Note {
        let decision = rules.decide(subject);
        let would = if decision.allowed { "allow" } else { "deny" };
        let place = decision.policy.and_then(|name| self.rule_place(name));
        Note::new(
            NoteKind::Info,
            format!("policies on trial (istio.io/dry-run) would {would} it"),
        )
        .at_place(place)
    }
}

fn verdict(rules: &Rules, matched: Option<&str>) -> String {
    let named = matched.map(|name| match RuleName::parse(name) {
        Some(rule) if rule.is_custom() => format!(
            "rule {} of {}.{}, whose provider {} cannot be asked",
            rule.rule,
            rule.policy,
            rule.namespace,
            rule.provider().unwrap_or("(none)")
        ),
        Some(rule) => format!("rule {} of {}.{}", rule.rule, rule.policy, rule.namespace),
        None => name.to_owned(),
    });
    let count = match rules.policies().len() {
        1 => "the only rule does not match".to_owned(),
        count => format!("none of {count} rules matches"),
    };
    match (rules.action, named) {
        (RbacAction::Allow, Some(rule)) => format!("allowed by {rule}"),
        (RbacAction::Allow, None) => format!("denied, as no ALLOW policy allows it: {count}"),
        (RbacAction::Deny, Some(rule)) => format!("denied by {rule}"),
        (RbacAction::Deny, None) => format!("not denied: {count}"),
        (RbacAction::Log, Some(rule)) => format!("recorded by {rule}"),
        (RbacAction::Log, None) => format!("not recorded: {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_name_leads_to_its_policy() {
        let rule = RuleName::parse("ns[shop]-policy[web-1]-rule[2]").unwrap();
        assert_eq!(rule.object(), "AuthorizationPolicy/shop/web-1");
        assert_eq!(rule.field(), "spec.rules[2]");
        assert!(!rule.is_custom());
        assert_eq!(RuleName::parse("istio-ext-authz"), None);
        let custom =
            "istio-ext-authz-opa-x-ns[shop]-policy[ask]-rule[0]-deny-due-to-bad-CUSTOM-action";
        let custom = RuleName::parse(custom).unwrap();
        assert_eq!((custom.provider(), custom.rule), (Some("opa-x"), 0));
    }
}
