//! What an attacker with a certificate of his own tries, and what has to be let through all the same.

use lateen_traffic::matcher::{StringMatcher, StringPattern};
use lateen_traffic::tls::{DataSource, SanMatcher};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType as Name, SerialNumber, date_time_ymd,
};
use rustls::RootCertStore;

use super::*;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn root() -> Ca {
    CertifiedIssuer::self_signed(ca_params(), KeyPair::generate().unwrap()).unwrap()
}

fn named(names: &[Name]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params
}

fn dns(name: &str) -> Name {
    Name::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> Name {
    Name::URI(name.try_into().unwrap())
}

fn leaf(ca: &Ca, params: &CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, ca).unwrap().der().clone()
}

fn expect(ca: &Ca, change: impl FnOnce(&mut Validation)) -> Expectation {
    expect_with(ca, Vec::new(), change)
}

fn expect_with(
    ca: &Ca,
    crls: Vec<webpki::CertRevocationList<'static>>,
    change: impl FnOnce(&mut Validation),
) -> Expectation {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let mut settings = Validation {
        trusted_ca: Some(DataSource::Inline(ca.pem().into())),
        ..Validation::default()
    };
    change(&mut settings);
    let trust = Trust {
        roots: Arc::new(roots),
        crls: crls.into(),
        only_leaf_crl: settings.only_leaf_crl,
    };
    Expectation {
        trust: Some(trust),
        settings,
        name: NameRule::None,
        name_replaces_sans: false,
    }
}

fn accepts(expected: &Expectation, chain: &[CertificateDer<'_>], usage: Usage) -> bool {
    let (leaf, rest) = chain.split_first().unwrap();
    expected
        .verify(leaf, rest, UnixTime::now(), usage, None)
        .is_ok()
}

fn asked(expected: &Expectation, leaf: &CertificateDer<'_>, name: &str) -> bool {
    let name = ServerName::try_from(name).unwrap();
    let verified = expected.verify(leaf, &[], UnixTime::now(), Usage::Server, Some(&name));
    verified.is_ok()
}

fn exact(san_type: SanType, name: &str) -> Vec<SanMatcher> {
    vec![SanMatcher {
        san_type,
        matcher: StringMatcher::exact(name),
    }]
}

#[test]
fn a_wildcard_stands_for_one_label() {
    assert!(dns_matches("*.example.com", "a.example.com"));
    assert!(!dns_matches("*.example.com", "a.b.example.com"));
    assert!(!dns_matches("*.example.com", "example.com"));
    assert!(dns_matches("A.example.com", "a.EXAMPLE.com"));
}

#[test]
fn a_server_has_to_be_the_one_that_was_asked_for() {
    let ca = root();
    let address = Name::IpAddress("10.0.0.1".parse().unwrap());
    let certificate = leaf(
        &ca,
        &named(&[dns("a.example"), dns("*.b.example"), address]),
    );
    let expected = Expectation {
        name: NameRule::Asked,
        ..expect(&ca, |_| {})
    };
    for name in ["a.example", "A.EXAMPLE", "x.b.example", "10.0.0.1"] {
        assert!(asked(&expected, &certificate, name), "{name}");
    }
    for name in ["b.example", "x.y.b.example", "a.example.evil", "10.0.0.2"] {
        assert!(!asked(&expected, &certificate, name), "{name}");
    }
    assert!(
        !accepts(&expected, std::slice::from_ref(&certificate), Usage::Server),
        "with no name asked for there is nothing it could be for"
    );
    let fixed = Expectation {
        name: NameRule::Fixed("a.example".into()),
        ..expect(&ca, |_| {})
    };
    assert!(asked(&fixed, &certificate, "other.example"));
    let fixed = Expectation {
        name: NameRule::Fixed("c.example".into()),
        ..expect(&ca, |_| {})
    };
    assert!(!asked(&fixed, &certificate, "a.example"));
}

#[test]
fn the_name_asked_for_comes_on_top_of_san_conditions_unless_it_replaces_them() {
    let ca = root();
    let certificate = leaf(&ca, &named(&[dns("a.example")]));
    let mut expected = expect(&ca, |v| {
        v.san_matchers = exact(SanType::Dns, "other.example");
    });
    expected.name = NameRule::Asked;
    assert!(!asked(&expected, &certificate, "a.example"));
    expected.name_replaces_sans = true;
    assert!(asked(&expected, &certificate, "a.example"));
}

#[test]
fn a_name_with_a_nul_in_it_is_nobodys() {
    let ca = root();
    for name in [
        dns("good.example\0.evil.example"),
        uri("spiffe://cluster.local/ns/a/sa/admin\0x"),
        Name::Rfc822Name("a@good.example\0".try_into().unwrap()),
    ] {
        let certificate = leaf(&ca, &named(&[name]));
        let prefix = expect(&ca, |v| {
            v.san_matchers = vec![SanMatcher {
                san_type: SanType::Any,
                matcher: StringMatcher::new(StringPattern::Prefix("".into()), false),
            }];
        });
        assert!(!accepts(
            &prefix,
            std::slice::from_ref(&certificate),
            Usage::Client
        ));
        // Neither if no name is asked for: applications and access rules would be told it.
        assert!(!accepts(
            &expect(&ca, |_| {}),
            &[certificate],
            Usage::Client
        ));
    }
}

#[test]
fn a_workload_has_one_identity() {
    let ca = root();
    let (mine, admin) = (
        uri("spiffe://cluster.local/ns/a/sa/me"),
        uri("spiffe://cluster.local/ns/a/sa/admin"),
    );
    let expected = expect(&ca, |v| {
        v.san_matchers = exact(SanType::Uri, "spiffe://cluster.local/ns/a/sa/me");
    });
    let one = leaf(&ca, &named(&[mine.clone(), dns("me.example")]));
    assert!(accepts(&expected, &[one], Usage::Client));
    for order in [[mine.clone(), admin.clone()], [admin, mine.clone()]] {
        let two = leaf(&ca, &named(&order));
        assert!(!accepts(&expected, &[two], Usage::Client));
    }
    let other_scheme = leaf(&ca, &named(&[uri("https://a.example"), mine]));
    assert!(!accepts(&expected, &[other_scheme], Usage::Client));
}

#[test]
fn a_name_counts_as_what_it_is_only_and_byte_for_byte() {
    let ca = root();
    let spiffe = "spiffe://cluster.local/ns/a/sa/a.b";
    let expected = expect(&ca, |v| v.san_matchers = exact(SanType::Uri, spiffe));
    assert!(accepts(
        &expected,
        &[leaf(&ca, &named(&[uri(spiffe)]))],
        Usage::Client
    ));
    for name in [
        dns(spiffe),
        uri("spiffe://cluster.local/ns/a/sa/aXb"),
        uri("spiffe://CLUSTER.local/ns/a/sa/a.b"),
        uri("spiffe://cluster.local/ns/a/sa/a.b/"),
        uri("spiffe://cluster.local/ns/a/sa/a%2Eb"),
    ] {
        let certificate = leaf(&ca, &named(std::slice::from_ref(&name)));
        assert!(
            !accepts(&expected, &[certificate], Usage::Client),
            "{name:?}"
        );
    }
}

#[test]
fn a_certificate_is_good_for_what_it_says_only() {
    let ca = root();
    let with = |usage| {
        let mut params = named(&[dns("a.example")]);
        params.extended_key_usages = vec![usage];
        leaf(&ca, &params)
    };
    let expected = expect(&ca, |_| {});
    let server = with(ExtendedKeyUsagePurpose::ServerAuth);
    let client = with(ExtendedKeyUsagePurpose::ClientAuth);
    let signing = with(ExtendedKeyUsagePurpose::CodeSigning);
    for (certificate, usage, accepted) in [
        (&server, Usage::Server, true),
        (&server, Usage::Client, false),
        (&client, Usage::Client, true),
        (&client, Usage::Server, false),
        (&signing, Usage::Client, false),
    ] {
        let got = accepts(&expected, std::slice::from_ref(certificate), usage);
        assert_eq!(got, accepted, "{usage:?}");
    }
}

#[test]
fn a_leaf_cannot_sign_and_a_stranger_is_not_trusted() {
    let ca = root();
    let mut params = named(&[dns("me.example")]);
    params.is_ca = IsCa::NoCa;
    let mine = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &ca).unwrap();
    let forged = leaf(&mine, &named(&[dns("victim.example")]));
    let expected = expect(&ca, |_| {});
    assert!(!accepts(
        &expected,
        &[forged, mine.der().clone()],
        Usage::Client
    ));
    let stranger = root();
    let theirs = leaf(&stranger, &named(&[dns("victim.example")]));
    assert!(!accepts(
        &expected,
        &[theirs, stranger.der().clone()],
        Usage::Client
    ));
}

#[test]
fn no_link_of_a_chain_may_have_expired() {
    let ca = root();
    let mut params = ca_params();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
    let old = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &ca).unwrap();
    let chain = [leaf(&old, &named(&[dns("a.example")])), old.der().clone()];
    assert!(!accepts(&expect(&ca, |_| {}), &chain, Usage::Client));

    let fresh = CertifiedIssuer::signed_by(ca_params(), KeyPair::generate().unwrap(), &ca).unwrap();
    let chain = [
        leaf(&fresh, &named(&[dns("a.example")])),
        fresh.der().clone(),
    ];
    assert!(accepts(&expect(&ca, |_| {}), &chain, Usage::Client));
}

/// Limit: 6 intermediates. Each is a signature to verify for who has not said who he is yet.
#[test]
fn a_chain_has_an_end() {
    let ca = root();
    let mut chain: Vec<Ca> = Vec::new();
    for _ in 0..7 {
        let above = chain.last().unwrap_or(&ca);
        let key = KeyPair::generate().unwrap();
        chain.push(CertifiedIssuer::signed_by(ca_params(), key, above).unwrap());
    }
    for (intermediates, good) in [(6, true), (7, false)] {
        let used = &chain[..intermediates];
        let mut presented = vec![leaf(used.last().unwrap(), &named(&[dns("a.example")]))];
        presented.extend(used.iter().rev().map(|one| one.der().clone()));
        let accepted = accepts(&expect(&ca, |_| {}), &presented, Usage::Client);
        assert_eq!(accepted, good, "{intermediates}");
    }
}

#[test]
fn forgiving_an_expiry_forgives_nothing_else() {
    let (ca, stranger) = (root(), root());
    let mut params = named(&[dns("a.example")]);
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
    let lenient = expect(&ca, |v| v.allow_expired = true);
    // Valid when the root was not yet: what was never trusted is not trusted now either; roots have no age here.
    assert!(accepts(&lenient, &[leaf(&ca, &params)], Usage::Client));
    assert!(!accepts(
        &expect(&ca, |_| {}),
        &[leaf(&ca, &params)],
        Usage::Client
    ));
    assert!(!accepts(
        &lenient,
        &[leaf(&stranger, &params)],
        Usage::Client
    ));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(!accepts(&lenient, &[leaf(&ca, &params)], Usage::Client));
}

#[test]
fn one_pin_has_to_fit_and_a_pin_alone_is_enough() {
    let ca = root();
    let certificate = leaf(&ca, &named(&[dns("a.example")]));
    let hash = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
    let (whole, key) = (hash(&certificate), hash(public_key(&certificate).unwrap()));
    let pinned = |certificates: &[[u8; 32]], keys: &[[u8; 32]]| {
        expect(&ca, |v| {
            v.certificate_hashes = certificates.to_vec();
            v.spki_hashes = keys.to_vec();
        })
    };
    let one = std::slice::from_ref(&certificate);
    assert!(accepts(&pinned(&[whole], &[]), one, Usage::Client));
    assert!(accepts(&pinned(&[], &[[0; 32], key]), one, Usage::Client));
    assert!(
        accepts(&pinned(&[[0; 32]], &[key]), one, Usage::Client),
        "either kind will do"
    );
    assert!(!accepts(&pinned(&[[0; 32]], &[]), one, Usage::Client));
    assert!(
        !accepts(&pinned(&[key], &[whole]), one, Usage::Client),
        "each list has its own kind"
    );

    let other = leaf(&root(), &named(&[dns("a.example")]));
    let mut alone = pinned(&[hash(&other)], &[]);
    assert!(!accepts(
        &alone,
        std::slice::from_ref(&other),
        Usage::Client
    ));
    alone.trust = None;
    assert!(accepts(&alone, std::slice::from_ref(&other), Usage::Client));
    assert!(!accepts(&alone, one, Usage::Client));
}

/// A revocation list of an authority: serial numbers that are revoked, and whether the list is in date.
fn crl(ca: &Ca, revoked: &[u64], current: bool) -> webpki::CertRevocationList<'static> {
    let year = if current { 2099 } else { 2001 };
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2001, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2000, 1, 1),
        next_update: date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(ca).unwrap();
    crate::tls::revocation_list(list.der()).unwrap()
}

fn numbered(ca: &Ca, serial: u64) -> CertificateDer<'static> {
    let mut params = named(&[dns("a.example")]);
    params.serial_number = Some(SerialNumber::from(serial));
    leaf(ca, &params)
}

#[test]
fn what_is_revoked_is_refused_and_so_is_what_no_current_list_speaks_of() {
    let ca = root();
    let with = |lists| expect_with(&ca, lists, |_| {});
    let expected = with(vec![crl(&ca, &[7], true)]);
    assert!(accepts(&expected, &[numbered(&ca, 8)], Usage::Client));
    assert!(!accepts(&expected, &[numbered(&ca, 7)], Usage::Client));
    let outdated = with(vec![crl(&ca, &[7], false)]);
    assert!(!accepts(&outdated, &[numbered(&ca, 8)], Usage::Client));
    let anothers = with(vec![crl(&root(), &[7], true)]);
    assert!(!accepts(&anothers, &[numbered(&ca, 8)], Usage::Client));
}

#[test]
fn every_link_is_looked_up_unless_only_the_leaf_is_asked_for() {
    let ca = root();
    let mut params = ca_params();
    params.serial_number = Some(SerialNumber::from(5));
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "middle");
    let middle = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &ca).unwrap();
    let chain = [numbered(&middle, 8), middle.der().clone()];
    let with = |lists, only_leaf| expect_with(&ca, lists, |v| v.only_leaf_crl = only_leaf);
    let both = || vec![crl(&ca, &[], true), crl(&middle, &[], true)];
    assert!(accepts(&with(both(), false), &chain, Usage::Client));
    let revoked = || vec![crl(&ca, &[5], true), crl(&middle, &[], true)];
    assert!(!accepts(&with(revoked(), false), &chain, Usage::Client));
    assert!(accepts(&with(revoked(), true), &chain, Usage::Client));
    assert!(!accepts(
        &with(vec![crl(&middle, &[], true)], false),
        &chain,
        Usage::Client
    ));
}
