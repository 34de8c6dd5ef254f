//! Tests of virtual host lookup: the order of Envoy's documentation.

use super::*;

fn index(domains: &[&str]) -> HostIndex {
    let mut index = HostIndex::default();
    for (vhost, domain) in domains.iter().enumerate() {
        index.insert(Domain::parse(domain).unwrap(), vhost).unwrap();
    }
    index
}

fn found(index: &HostIndex, host: &str) -> Option<usize> {
    index.find(host, false).map(|found| found.vhost)
}

#[test]
fn exact_comes_before_suffix_before_prefix_before_any() {
    let index = index(&[
        "*",
        "www.foo.*",
        "*.foo.com",
        "*-bar.foo.com",
        "www.foo.com",
        "*.com",
        "www.*",
    ]);
    for (host, vhost) in [
        ("www.foo.com", 4),
        ("WWW.Foo.COM", 4),
        ("baz-bar.foo.com", 3),
        ("x.foo.com", 2),
        ("www.foo.org", 1),
        ("other.com", 5),
        ("www.bar.org", 6),
        ("foo.org", 0),
        ("", 0),
    ] {
        assert_eq!(found(&index, host), Some(vhost), "{host}");
    }
}

#[test]
fn a_wildcard_stands_for_at_least_one_character() {
    let index = index(&["*.foo.com", "foo.*"]);
    assert_eq!(found(&index, ".foo.com"), None);
    assert_eq!(found(&index, "foo."), None);
    assert_eq!(found(&index, "a.foo.com"), Some(0));
    assert_eq!(found(&index, "foo.x"), Some(1));
}

#[test]
fn the_port_counts_unless_it_is_ignored() {
    let index = index(&["foo.com", "foo.com:8080"]);
    let find = |host, ignore| index.find(host, ignore).map(|found| found.vhost);
    assert_eq!(find("foo.com:8080", false), Some(1));
    assert_eq!(find("foo.com:80", false), None);
    assert_eq!(find("foo.com:80", true), Some(0));
}

#[test]
fn names_longer_than_the_stack_buffer_are_found() {
    let long = format!("{}.example.com", "A".repeat(400));
    let index = index(&[&long, "*.example.com"]);
    assert_eq!(found(&index, &long.to_uppercase()), Some(0));
    assert_eq!(found(&index, &format!("b{long}")), Some(1));
}

#[test]
fn names_with_other_than_ascii_do_not_panic() {
    let index = index(&["*é.com", "é*"]);
    assert_eq!(found(&index, "aé.com"), Some(0));
    assert_eq!(found(&index, "éa"), Some(1));
    assert_eq!(found(&index, "€"), None);
}

#[test]
fn only_wildcards_at_the_ends_are_domains() {
    for bad in ["a*b", "*a*", "", "**", "*.a.*"] {
        assert_eq!(Domain::parse(bad), None, "{bad:?}");
    }
}

#[test]
fn a_domain_belongs_to_one_virtual_host() {
    let mut index = index(&["a.com", "*"]);
    assert_eq!(index.insert(Domain::parse("A.com").unwrap(), 2), Err(0));
    assert_eq!(index.insert(Domain::Any, 3), Err(1));
}
