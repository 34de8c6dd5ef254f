//! Tests of authorization's filters: CUSTOM, dry runs, order.

use lateen_api::mesh::{EnvoyExternalAuthorizationGrpcProvider as GrpcProvider, ExtensionProvider};
use lateen_api::security::{ExtensionProvider as ProviderName, Operation, Rule, RuleTo};

use super::*;

fn rule(path: &str) -> Rule {
    Rule {
        to: vec![RuleTo {
            operation: Some(Operation {
                paths: vec![path.to_owned()],
                ports: vec!["80".to_owned()],
                ..Default::default()
            }),
        }],
        ..Default::default()
    }
}

fn policy(name: &str, action: Action, provider: &str, dry_run: bool) -> Shared<PolicyConfig> {
    let provider = (!provider.is_empty()).then(|| ProviderName {
        name: provider.to_owned(),
    });
    Shared::new(PolicyConfig {
        object: ObjectRef::new("AuthorizationPolicy", "foo", name),
        spec: AuthorizationPolicy {
            action,
            provider,
            rules: vec![rule("/x")],
            ..Default::default()
        },
        dry_run,
    })
}

fn grpc(name: &str) -> ExtensionProvider {
    ExtensionProvider {
        name: name.to_owned(),
        envoy_ext_authz_grpc: Some(GrpcProvider {
            service: "authz.foo.svc.cluster.local".to_owned(),
            port: 9000,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn policies(list: Vec<Shared<PolicyConfig>>, known: &[ExtensionProvider]) -> Policies {
    let providers = list
        .iter()
        .filter_map(|policy| policy.provider())
        .map(|name| {
            let found = resolve(known, name, |service| Ok(service.to_owned()));
            (name.to_owned(), found.ok())
        })
        .collect();
    Policies {
        list,
        trust_domains: TrustDomains::default(),
        providers,
    }
}

fn http_rbac(filter: &hcm::HttpFilter) -> HttpRbac {
    let Some(hcm::http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("no configuration")
    };
    lateen_envoy::unpack(any).unwrap()
}

#[test]
fn an_authorizer_is_asked_about_what_its_rules_match() {
    let policies = policies(vec![policy("p", Action::Custom, "a", false)], &[grpc("a")]);
    let filters = policies.custom_http_filters();
    let names: Vec<_> = filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(names, [HTTP_RBAC, HTTP_EXT_AUTHZ]);
    let rules = http_rbac(&filters[0]);
    assert!(rules.rules.is_none(), "the rules decide nothing themselves");
    let shadow = rules.shadow_rules.unwrap();
    let key = "istio-ext-authz-a-ns[foo]-policy[p]-rule[0]";
    assert!(shadow.policies.contains_key(key));
    assert_eq!(policies.custom_network_filters().len(), 2);
    assert!(policies.http_filters().is_empty());
}

#[test]
fn without_its_authorizer_what_a_policy_matches_is_denied() {
    let list = || vec![policy("p", Action::Custom, "gone", false)];
    let filters = policies(list(), &[grpc("a")]).custom_http_filters();
    assert_eq!(filters.len(), 1);
    let rules = http_rbac(&filters[0]).rules.unwrap();
    assert_eq!(rules.action(), rbac::rbac::Action::Deny);
    let key = "istio-ext-authz-gone-ns[foo]-policy[p]-rule[0]-deny-due-to-bad-CUSTOM-action";
    assert!(rules.policies.contains_key(key));
    assert_eq!(policies(list(), &[]).custom_network_filters().len(), 1);
}

#[test]
fn of_several_authorizers_none_is_asked() {
    let list = vec![
        policy("p", Action::Custom, "a", false),
        policy("q", Action::Custom, "b", false),
    ];
    let filters = policies(list, &[grpc("a"), grpc("b")]).custom_http_filters();
    assert_eq!(filters.len(), 2);
    assert!(
        filters
            .iter()
            .all(|filter| http_rbac(filter).rules.is_some())
    );
}

#[test]
fn a_dry_run_is_recorded_and_decides_nothing() {
    let list = vec![
        policy("p", Action::Deny, "", true),
        policy("q", Action::Custom, "a", true),
    ];
    let policies = policies(list, &[grpc("a")]);
    assert!(policies.custom_http_filters().is_empty());
    let filters = policies.http_filters();
    let rules = http_rbac(&filters[0]);
    assert!(rules.rules.is_none() && rules.shadow_rules.is_some());
    assert_eq!(rules.shadow_rules_stat_prefix, "istio_dry_run_deny_");
}

#[test]
fn audit_stands_before_deny_and_deny_before_allow() {
    let list = [Action::Allow, Action::Deny, Action::Audit]
        .map(|action| policy("p", action, "", false))
        .to_vec();
    let actions: Vec<_> = policies(list, &[])
        .http_filters()
        .iter()
        .map(|filter| http_rbac(filter).rules.unwrap().action())
        .collect();
    use rbac::rbac::Action as Effect;
    assert_eq!(actions, [Effect::Log, Effect::Deny, Effect::Allow]);
}
