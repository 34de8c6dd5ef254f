//! The fields of `security.v1beta1` (authorization policy), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use crate::schema::{enumeration, object};
use crate::selector::{PolicyTargetReference, WorkloadSelector};

object! {
    /// `security.v1beta1.AuthorizationPolicy` of Istio's API.
    pub struct AuthorizationPolicy {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>,
        rules: Vec<Rule>,
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
        from: Vec<RuleFrom>,
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
    pub struct Source {
        principals: Vec<String>,
        not_principals: Vec<String>,
        request_principals: Vec<String>,
        not_request_principals: Vec<String>,
        namespaces: Vec<String>,
        not_namespaces: Vec<String>,
        service_accounts: Vec<String>,
        not_service_accounts: Vec<String>,
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
        key: String,
        values: Vec<String>,
        not_values: Vec<String>,
    }
}
