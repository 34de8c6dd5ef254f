//! Tests of external authorizers: what is refused, and what the filter says.

use super::*;

fn http(change: impl FnOnce(&mut HttpProvider)) -> ExtensionProvider {
    let mut provider = HttpProvider {
        service: "foo/authz.foo.svc.cluster.local".to_owned(),
        port: 8000,
        ..Default::default()
    };
    change(&mut provider);
    ExtensionProvider {
        name: "a".to_owned(),
        envoy_ext_authz_http: Some(provider),
        ..Default::default()
    }
}

fn lookup(service: &str) -> Result<String, String> {
    let host = service.rsplit('/').next().unwrap_or_default();
    host.contains('.')
        .then(|| host.to_owned())
        .ok_or_else(|| format!("there is no service `{service}`"))
}

fn refusal(change: impl FnOnce(&mut HttpProvider)) -> String {
    resolve(&[http(change)], "a", lookup).unwrap_err()
}

#[test]
fn a_mistake_makes_a_provider_unusable() {
    assert!(resolve(&[http(|_| {})], "a", lookup).is_ok());
    assert!(refusal(|p| p.port = 0).contains("`port`"));
    assert!(refusal(|p| p.port = 70_000).contains("70000"));
    assert!(refusal(|p| p.service = "gone".to_owned()).contains("no service"));
    assert!(refusal(|p| p.path_prefix = "check".to_owned()).contains("pathPrefix"));
    assert!(refusal(|p| p.status_on_error = "999".to_owned()).contains("statusOnError"));
    let star = |p: &mut HttpProvider| p.headers_to_upstream_on_allow = vec!["*".to_owned()];
    assert!(refusal(star).contains("headersToUpstreamOnAllow"));
    let twice = [http(|_| {}), http(|_| {})];
    assert!(
        resolve(&twice, "a", lookup)
            .unwrap_err()
            .contains("more than one")
    );
    let unknown = resolve(&[http(|_| {})], "b", lookup).unwrap_err();
    assert!(unknown.ends_with("its authorizers are a"), "{unknown}");
    let named = ExtensionProvider {
        name: "Not_a_label".to_owned(),
        ..http(|_| {})
    };
    assert!(resolve(&[named], "Not_a_label", lookup).is_err());
}

#[test]
fn headers_have_wildcards_at_one_end_and_no_case() {
    let provider = http(|p| {
        p.headers_to_upstream_on_allow = vec!["X-A".to_owned(), "x-b-*".to_owned()];
        p.status_on_error = "503".to_owned();
    });
    let filter = resolve(&[provider], "a", lookup).unwrap().http_filter("a");
    assert_eq!(filter.status_on_error.unwrap().code, 503);
    let Some(http_authz::ext_authz::Services::HttpService(service)) = filter.services else {
        panic!("not HTTP")
    };
    assert_eq!(service.server_uri.unwrap().timeout.unwrap().seconds, 600);
    let allowed = service.authorization_response.unwrap();
    let patterns = allowed.allowed_upstream_headers.unwrap().patterns;
    assert!(patterns.iter().all(|pattern| pattern.ignore_case));
    use matcher::string_matcher::MatchPattern;
    let wanted = [
        MatchPattern::Exact("X-A".to_owned()),
        MatchPattern::Prefix("x-b-".to_owned()),
    ];
    let found: Vec<_> = patterns
        .into_iter()
        .filter_map(|p| p.match_pattern)
        .collect();
    assert_eq!(found, wanted);
    assert!(allowed.allowed_client_headers.is_none());
}
