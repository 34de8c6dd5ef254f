//! The fields of `security.v1beta1` (authorization policy), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use crate::schema::check::is_set;
use crate::schema::{enumeration, object};
use crate::selector::{PolicyTargetReference, WorkloadSelector};
use crate::tree::Node;

object! {
    /// `security.v1beta1.AuthorizationPolicy` of Istio's API.
    pub struct AuthorizationPolicy [AtMostOne(&["selector", "targetRef", "targetRefs"])] {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference> [max_items(16)],
        rules: Vec<Rule> [max_items(512)],
        action: Action,
        provider: Option<ExtensionProvider>,
    }
}

object! {
    /// `security.v1beta1.AuthorizationPolicy.ExtensionProvider` of Istio's API.
    pub struct ExtensionProvider {
        name: String,
    }
}

enumeration! {
    /// `security.v1beta1.AuthorizationPolicy.Action` of Istio's API.
    pub enum Action {
        Allow = "ALLOW",
        Deny = "DENY",
        Audit = "AUDIT",
        Custom = "CUSTOM",
    }
}

object! {
    /// `security.v1beta1.Rule` of Istio's API.
    pub struct Rule {
        from: Vec<RuleFrom> [max_items(512)],
        to: Vec<RuleTo>,
        when: Vec<Condition>,
    }
}

object! {
    /// `security.v1beta1.Rule.From` of Istio's API.
    pub struct RuleFrom {
        source: Option<Source>,
    }
}

object! {
    /// `security.v1beta1.Rule.To` of Istio's API.
    pub struct RuleTo {
        operation: Option<Operation>,
    }
}

object! {
    /// `security.v1beta1.Source` of Istio's API.
    pub struct Source [Custom(service_accounts_alone)] {
        principals: Vec<String>,
        not_principals: Vec<String>,
        request_principals: Vec<String>,
        not_request_principals: Vec<String>,
        namespaces: Vec<String>,
        not_namespaces: Vec<String>,
        service_accounts: Vec<String> [max_items(16), Check::Each(&Check::MaxLen(320))],
        not_service_accounts: Vec<String> [max_items(16), Check::Each(&Check::MaxLen(320))],
        ip_blocks: Vec<String>,
        not_ip_blocks: Vec<String>,
        remote_ip_blocks: Vec<String>,
        not_remote_ip_blocks: Vec<String>,
        trust_domains: Vec<String>,
        not_trust_domains: Vec<String>,
    }
}

object! {
    /// `security.v1beta1.Operation` of Istio's API.
    pub struct Operation {
        hosts: Vec<String>,
        not_hosts: Vec<String>,
        ports: Vec<String>,
        not_ports: Vec<String>,
        methods: Vec<String>,
        not_methods: Vec<String>,
        paths: Vec<String>,
        not_paths: Vec<String>,
    }
}

object! {
    /// `security.v1beta1.Condition` of Istio's API.
    pub struct Condition {
        key: String [REQUIRED],
        values: Vec<String>,
        not_values: Vec<String>,
    }
}

fn service_accounts_alone(node: &Node) -> Option<(&'static str, &'static str)> {
    let any = |names: &[&str]| names.iter().any(|name| is_set(node, name));
    let name = ["serviceAccounts", "notServiceAccounts"]
        .into_iter()
        .find(|name| is_set(node, name))?;
    any(&["principals", "notPrincipals", "namespaces", "notNamespaces"]).then_some((
        name,
        "serviceAccounts cannot be set together with principals or namespaces",
    ))
}
