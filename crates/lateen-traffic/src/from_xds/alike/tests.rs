//! Tests of likenesses: what they leave out, and that whatever has the likeness of something that compiles compiles, too, however it is broken.

use std::sync::{Arc, LazyLock};

use lateen_envoy::pb::envoy::config::{
    cluster::v3 as cds, core::v3 as core, endpoint::v3 as eds, route::v3 as rds,
};
use lateen_envoy::pb::google::protobuf::value::Kind as ValueKind;
use lateen_envoy::pb::google::protobuf::{Any, ListValue, Struct, Value};
use lateen_envoy::{TypeUrl, descriptor, json};
use proptest::prelude::*;
use prost::{Message, Name};
use serde_json::{Value as Json, json};

use super::*;
use crate::cluster::Cluster;
use crate::from_xds;

/// The paths of what a shape leaves out, by the names that the descriptors have for its numbers.
fn paths(shape: &Shape, message: &str, within: &str, out: &mut Vec<String>) {
    let message = descriptor::find(message).unwrap();
    for part in shape {
        let field = message.get_field(part.number).unwrap();
        assert_eq!(field.is_list(), part.times != Times::Once, "{field:?}");
        let path = format!("{within}{}", field.name());
        let kind = field.kind();
        match &part.kind {
            Kind::Text | Kind::Told(_) | Kind::Address => {
                assert_eq!(format!("{kind:?}"), "string", "{path}");
                out.push(path);
            }
            Kind::Port => {
                assert_eq!(format!("{kind:?}"), "uint32", "{path}");
                out.push(path);
            }
            Kind::Metadata => {
                let name = kind.as_message().unwrap().full_name();
                assert_eq!(name, "envoy.config.core.v3.Metadata");
                out.push(path);
            }
            Kind::Message(shape) => {
                let inner = kind.as_message().unwrap().full_name();
                paths(shape, inner, &format!("{path}."), out);
            }
            Kind::Packed(url, shape) => {
                let name = kind.as_message().unwrap().full_name();
                assert_eq!(name, "google.protobuf.Any");
                paths(shape, url, &format!("{path}."), out);
            }
        }
    }
}

#[test]
fn the_numbers_are_those_of_fields_that_decide_nothing() {
    let of = |shape, ty: &str| {
        let mut out = Vec::new();
        paths(shape, ty, "", &mut out);
        out
    };
    const TLS: &str =
        "typed_config.common_tls_context.combined_validation_context.default_validation_context.";
    let tls = |socket: &str| {
        [
            format!("{socket}.{TLS}match_subject_alt_names.exact"),
            format!("{socket}.{TLS}match_typed_subject_alt_names.matcher.exact"),
            format!("{socket}.typed_config.sni"),
        ]
    };
    let mut cluster = vec![
        "name".to_owned(),
        "eds_cluster_config.service_name".to_owned(),
    ];
    cluster.extend(tls("transport_socket"));
    cluster.extend(["metadata".to_owned(), "alt_stat_name".to_owned()]);
    cluster.extend(tls("transport_socket_matches.transport_socket"));
    assert_eq!(of(shapes::CLUSTER, TypeUrl::Cluster.as_str()), cluster);
    assert_eq!(
        of(shapes::ASSIGNMENT, TypeUrl::ClusterLoadAssignment.as_str()),
        [
            "cluster_name",
            "endpoints.locality.region",
            "endpoints.locality.zone",
            "endpoints.locality.sub_zone",
            "endpoints.lb_endpoints.endpoint.address.socket_address.address",
            "endpoints.lb_endpoints.endpoint.address.socket_address.port_value",
            "endpoints.lb_endpoints.endpoint.hostname",
            "endpoints.lb_endpoints.metadata",
            "endpoints.metadata",
        ]
    );
    assert_eq!(
        of(shapes::HOST, "envoy.config.route.v3.VirtualHost"),
        [
            "name",
            "domains",
            "routes.route.cluster",
            "routes.route.weighted_clusters.clusters.name",
            "routes.metadata",
            "routes.decorator.operation",
            "routes.name",
            "metadata",
        ]
    );
}

fn encoded<M: Message + Name + Default>(value: Json) -> Vec<u8> {
    json::from_value::<M>(value).unwrap().encode_to_vec()
}

fn metadata() -> Json {
    json!({ "filter_metadata": {
        "istio": { "services": [{ "host": "a", "name": "a", "namespace": "n" }], "weight": 1.5, "is": true, "not": null },
        "lateen": { "retries": "default" },
    }, "typed_filter_metadata": { "x": {
        "@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s",
    } } })
}

fn tls(sni: &str, san: &str) -> Json {
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": sni,
        "common_tls_context": {
            "alpn_protocols": ["istio"],
            "tls_certificate_sds_secret_configs": [{ "name": "default" }],
            "combined_validation_context": {
                "default_validation_context": { "match_subject_alt_names": [{ "exact": san }, { "exact": "other" }] },
                "validation_context_sds_secret_config": { "name": "ROOTCA" },
            },
        },
    } })
}

/// Clusters as a mesh has them, and some that are refused.
fn clusters(name: &str) -> Vec<Vec<u8>> {
    let raw = json!({ "name": "raw", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    } });
    let host = json!({ "endpoint": { "address": { "socket_address": { "address": "h", "port_value": 1 } } } });
    let extras = [
        json!({ "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} }, "service_name": name } }),
        json!({ "type": "EDS" }),
        json!({ "type": "EDS", "transport_socket_matches": [
            { "name": "tlsMode-istio", "match": { "tlsMode": "istio" }, "transport_socket": tls(name, name) },
            { "name": "tlsMode-disabled", "match": {}, "transport_socket": raw },
        ] }),
        json!({ "type": "ORIGINAL_DST", "transport_socket": tls(name, "san"), "alt_stat_name": name }),
        json!({ "type": "STRICT_DNS", "load_assignment": { "endpoints": [{ "lb_endpoints": [host] }] } }),
        json!({ "type": "EDS", "lb_subset_config": {} }),
        json!({ "type": "EDS", "transport_socket": { "name": "tls" } }),
    ];
    let of = |extra: Json| {
        let mut cluster = json!({ "name": name, "connect_timeout": "10s", "metadata": metadata() });
        let fields = cluster.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        encoded::<cds::Cluster>(cluster)
    };
    extras.into_iter().map(of).collect()
}

fn assignments(name: &str, address: &str) -> Vec<Vec<u8>> {
    let host = |port: u32, priority: u32| {
        json!({ "locality": { "region": name, "zone": "z" }, "priority": priority, "metadata": metadata(), "lb_endpoints": [
            { "endpoint": { "address": { "socket_address": { "address": address, "port_value": port } }, "hostname": name },
              "metadata": metadata(), "health_status": "HEALTHY", "load_balancing_weight": 2 },
            { "endpoint": { "address": { "socket_address": { "address": "::1", "port_value": port } } }, "metadata": metadata() },
        ] })
    };
    let pipe = json!({ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": "/run/x" } } } }] });
    let groups = [
        json!([host(80, 0)]),
        json!([host(80, 0), host(8080, 1)]),
        json!([host(80, 0), pipe]),
        json!([]),
        json!([host(80, 200)]),
        json!([host(80, 0), host(70_000, 0)]),
    ];
    let of = |groups| {
        encoded::<eds::ClusterLoadAssignment>(json!({ "cluster_name": name, "endpoints": groups }))
    };
    groups.into_iter().map(of).collect()
}

fn hosts(name: &str) -> Vec<Vec<u8>> {
    let route = |action: Json| {
        let mut route = json!({ "name": name, "match": { "prefix": "/" }, "metadata": metadata(), "decorator": { "operation": name } });
        let fields = route.as_object_mut().unwrap();
        fields.extend(action.as_object().unwrap().clone());
        route
    };
    let to = json!({ "route": { "cluster": name, "timeout": "0s", "retry_policy": { "retry_on": "5xx" } } });
    let weighted = json!({ "route": { "weighted_clusters": { "clusters": [
        { "name": name, "weight": 1 }, { "name": "b", "weight": 2 },
    ] } } });
    let nothing = json!({ "route": { "weighted_clusters": { "clusters": [{ "weight": 1 }] } } });
    let routes = [
        json!([route(to.clone())]),
        json!([route(to.clone()), route(weighted)]),
        json!([route(json!({ "direct_response": { "status": 200 } }))]),
        json!([]),
        json!([route(nothing)]),
        json!([route(to), route(json!({}))]),
    ];
    let of = |routes| {
        let host = json!({ "name": name, "domains": [name, format!("*.{name}")], "routes": routes, "metadata": metadata() });
        encoded::<rds::VirtualHost>(host)
    };
    routes.into_iter().map(of).collect()
}

/// Something of a message that a test asks about.
type Facts = Option<(String, Vec<String>)>;

fn cluster_facts(encoded: &[u8]) -> Facts {
    let value = encoded.to_vec();
    let type_url = TypeUrl::Cluster.as_str().to_owned();
    let cluster: Cluster = from_xds::cluster(&Any { type_url, value }).ok()?;
    let tls = cluster
        .transports()
        .filter_map(|one| Some(&one.tls()?.common));
    let secrets: Vec<&Arc<str>> = tls.flat_map(|tls| tls.sds_names()).collect();
    let kind = std::mem::discriminant(&cluster.discovery);
    let facts = format!("{kind:?} {secrets:?} {:?}", cluster.health_check.is_some());
    let service = cluster.discovery.service_name().unwrap_or_default();
    Some((facts, vec![cluster.name.to_string(), service.to_owned()]))
}

fn assignment_facts(encoded: &[u8]) -> Facts {
    let value = encoded.to_vec();
    let type_url = TypeUrl::ClusterLoadAssignment.as_str().to_owned();
    from_xds::endpoints(&Any { type_url, value }).ok()?;
    Some((String::new(), Vec::new()))
}

fn host_facts(encoded: &[u8]) -> Facts {
    let message = rds::VirtualHost::decode(encoded).ok()?;
    let domains = message.domains.clone();
    let value = rds::RouteConfiguration {
        virtual_hosts: vec![message],
        ..rds::RouteConfiguration::default()
    };
    from_xds::route_config(&lateen_envoy::pack(&value)).ok()?;
    Some((String::new(), domains))
}

/// Messages of one type.
struct Subject {
    alike: fn() -> Alike<String>,
    facts: fn(&[u8]) -> Facts,
    known: Vec<Vec<u8>>,
    others: Vec<Vec<u8>>,
}

/// Clusters, endpoint sets and virtual hosts.
static SUBJECTS: LazyLock<[Subject; 3]> = LazyLock::new(|| {
    [
        Subject {
            alike: Alike::clusters,
            facts: cluster_facts,
            known: clusters("a"),
            others: clusters("another"),
        },
        Subject {
            alike: Alike::assignments,
            facts: assignment_facts,
            known: assignments("a", "10.0.0.1"),
            others: assignments("another", "fd00::1"),
        },
        Subject {
            alike: Alike::hosts,
            facts: host_facts,
            known: hosts("a"),
            others: hosts("another"),
        },
    ]
});

impl Subject {
    /// What is known after all that are known were seen.
    fn seen(&self) -> Alike<String> {
        let mut alike = (self.alike)();
        for message in &self.known {
            assert_eq!(alike.find(message, 0, &mut |_, _| true), None);
            if let Some((facts, _)) = (self.facts)(message) {
                alike.learn(facts);
            }
        }
        alike
    }

    /// Whether a message is alike; then it compiles, with the same facts and the texts that were told.
    fn is_alike(&self, alike: &mut Alike<String>, message: &[u8]) -> bool {
        let mut told = Vec::new();
        let mut tell = |what, text: &str| {
            told.push((what, text.to_owned()));
            what != Told::Domain || crate::route::Domain::parse(text).is_some()
        };
        let Some(known) = alike.find(message, 0, &mut tell) else {
            return false;
        };
        let (facts, texts) = (self.facts)(message).expect("what is alike compiles");
        assert_eq!(*known, facts);
        let domains = told.iter().filter(|(what, _)| *what == Told::Domain);
        let domains: Vec<&String> = domains.map(|(_, text)| text).collect();
        let of = |wanted| {
            let text = told.iter().find(|(what, _)| *what == wanted);
            text.map_or("", |(_, text)| text)
        };
        match (of(Told::Cluster), of(Told::Service), texts.as_slice()) {
            ("", "", texts) => assert!(domains.iter().copied().eq(texts)),
            (name, "", [compiled, service]) => {
                assert!(name == compiled && (service == name || service.is_empty()));
            }
            (name, service, [compiled, other]) => {
                assert!(name == compiled && (service == other || other.is_empty()));
            }
            _ => panic!("{texts:?}"),
        }
        true
    }
}

#[test]
fn what_differs_in_names_addresses_and_metadata_is_alike() {
    for subject in &*SUBJECTS {
        let mut alike = subject.seen();
        for message in &subject.others {
            let compiles = (subject.facts)(message).is_some();
            assert_eq!(subject.is_alike(&mut alike, message), compiles);
        }
    }
}

#[test]
fn what_differs_in_anything_else_is_not() {
    let mut alike = SUBJECTS[0].seen();
    let slow = encoded::<cds::Cluster>(
        json!({ "name": "a", "type": "EDS", "connect_timeout": "11s", "metadata": metadata() }),
    );
    assert!(alike.find(&slow, 0, &mut |_, _| true).is_none());
    let known = &clusters("b")[1];
    assert!(alike.find(known, 0, &mut |_, _| true).is_some());
    assert!(alike.find(known, 1, &mut |_, _| true).is_none());
    assert!(alike.find(known, 0, &mut |_, text| text != "b").is_none());
    let mut hosts_alike = SUBJECTS[2].seen();
    let nameless = hosts("");
    assert!(
        hosts_alike
            .find(&nameless[0], 0, &mut |_, _| true)
            .is_none()
    );
}

#[test]
fn any_number_of_endpoints_that_are_alike_are_like_one() {
    let host = |n: u32| json!({ "endpoint": { "address": { "socket_address": { "address": "10.0.0.9", "port_value": n } } } });
    let of = |hosts: Vec<Json>| {
        encoded::<eds::ClusterLoadAssignment>(json!({ "endpoints": [{ "lb_endpoints": hosts }] }))
    };
    let mut alike = Alike::assignments();
    assert!(
        alike
            .find(&of(vec![host(1)]), 0, &mut |_, _| true)
            .is_none()
    );
    alike.learn(());
    assert!(
        alike
            .find(&of((1..50).map(host).collect()), 0, &mut |_, _| true)
            .is_some()
    );
    assert!(alike.find(&of(vec![]), 0, &mut |_, _| true).is_none());
    let drained = json!({ "health_status": "DRAINING", "endpoint": host(3)["endpoint"] });
    assert!(
        alike
            .find(&of(vec![host(1), drained]), 0, &mut |_, _| true)
            .is_none()
    );
}

#[test]
fn a_field_that_comes_twice_has_no_likeness() {
    let subject = &SUBJECTS[0];
    let mut alike = subject.seen();
    let mut twice = clusters("b")[0].clone();
    twice.extend_from_slice(&[0x0a, 1, b'c']);
    assert!(!subject.is_alike(&mut alike, &twice));
    alike.learn("nothing".to_owned());
    assert!(!subject.is_alike(&mut alike, &twice));
}

/// A field that holds a message or a text.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    [&[number << 3 | 2, length], content].concat()
}

#[test]
fn a_text_that_is_there_but_empty_is_not_like_one_that_says_something() {
    let host = |name: &str| {
        let weight = [field(1, name.as_bytes()), field(2, &[8, 1])].concat();
        let action = field(2, &field(3, &field(1, &weight)));
        let route = [field(1, &field(1, b"/")), action].concat();
        [field(2, b"domain"), field(3, &route)].concat()
    };
    assert!(host_facts(&host("a")).is_some() && host_facts(&host("")).is_none());
    let mut alike = Alike::hosts();
    assert!(alike.find(&host("a"), 0, &mut |_, _| true).is_none());
    alike.learn(());
    assert!(alike.find(&host("b"), 0, &mut |_, _| true).is_some());
    assert!(alike.find(&host(""), 0, &mut |_, _| true).is_none());
}

#[test]
fn what_is_within_a_message_is_not_like_what_comes_after_it() {
    // `lb_subset_config` is refused in a cluster, and nothing that is known where endpoints come from.
    const SUBSETS: &[u8] = &[0xb2, 1, 0];
    let eds = [0x10, 3];
    let within = [&eds, field(3, SUBSETS).as_slice()].concat();
    let after = [&eds, field(3, &[]).as_slice(), SUBSETS].concat();
    assert!(cluster_facts(&within).is_some() && cluster_facts(&after).is_none());
    let mut alike = Alike::clusters();
    assert!(alike.find(&within, 0, &mut |_, _| true).is_none());
    alike.learn(());
    assert!(alike.find(&within, 0, &mut |_, _| true).is_some());
    assert!(alike.find(&after, 0, &mut |_, _| true).is_none());
}

#[test]
fn where_all_are_different_nobody_looks_any_longer() {
    let mut alike = Alike::clusters();
    let number = |n: usize| {
        encoded::<cds::Cluster>(json!({ "name": "a", "connect_timeout": format!("{n}s") }))
    };
    for n in 1..=MOST {
        assert!(alike.find(&number(n), 0, &mut |_, _| true).is_none());
        alike.learn(());
    }
    assert!(
        alike
            .find(&number(1), 0, &mut |_, _| panic!("it looked"))
            .is_none()
    );
}

/// A change to the bytes of a message.
#[derive(Clone, Debug)]
struct Corruption {
    at: prop::sample::Index,
    length: usize,
    byte: u8,
    how: u8,
}

impl Corruption {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.at.index(bytes.len());
        let end = (at + self.length).min(bytes.len());
        match self.how {
            0 => bytes[at] = self.byte,
            1 => bytes[at] ^= 1 << (self.byte % 8),
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes.insert(at, self.byte),
            4 => drop(bytes.drain(at..end)),
            5 => bytes.truncate(at),
            _ => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

fn corruptions() -> impl Strategy<Value = Vec<Corruption>> {
    let one = (
        any::<prop::sample::Index>(),
        0..40_usize,
        any::<u8>(),
        0..7_u8,
    );
    let one = one.prop_map(|(at, length, byte, how)| Corruption {
        at,
        length,
        byte,
        how,
    });
    prop::collection::vec(one, 0..4)
}

fn value() -> impl Strategy<Value = Value> {
    let kind = |kind| Value { kind: Some(kind) };
    let leaf = prop_oneof![
        Just(Value { kind: None }),
        Just(kind(ValueKind::NullValue(0))),
        any::<f64>().prop_map(move |number| kind(ValueKind::NumberValue(number))),
        any::<bool>().prop_map(move |flag| kind(ValueKind::BoolValue(flag))),
        ".{0,8}".prop_map(move |text| kind(ValueKind::StringValue(text))),
    ];
    leaf.prop_recursive(12, 64, 4, move |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        let fields = prop::collection::hash_map(".{0,4}", inner, 0..4);
        prop_oneof![
            list.prop_map(move |values| kind(ValueKind::ListValue(ListValue { values }))),
            fields.prop_map(move |fields| kind(ValueKind::StructValue(Struct { fields }))),
        ]
    })
}

fn any_metadata() -> impl Strategy<Value = core::Metadata> {
    let of = |value: Value| match value.kind {
        Some(ValueKind::StructValue(fields)) => fields,
        kind => Struct {
            fields: [("x".to_owned(), Value { kind })].into(),
        },
    };
    let typed = Any {
        type_url: "t".to_owned(),
        value: vec![255],
    };
    prop::collection::hash_map(".{0,4}", value().prop_map(of), 0..3).prop_map(
        move |filter_metadata| core::Metadata {
            filter_metadata,
            typed_filter_metadata: [("a".to_owned(), typed.clone())].into(),
        },
    )
}

#[test]
fn metadata_that_is_deeper_than_anybody_writes_is_for_the_decoder() {
    let mut value = Value::default();
    for _ in 0..40 {
        let fields = [("x".to_owned(), value)].into();
        value = Value {
            kind: Some(ValueKind::StructValue(Struct { fields })),
        };
    }
    let Some(ValueKind::StructValue(deep)) = value.kind else {
        unreachable!("it was put there");
    };
    let deep = core::Metadata {
        filter_metadata: [("x".to_owned(), deep)].into(),
        ..core::Metadata::default()
    };
    let encoded = deep.encode_to_vec();
    assert!(
        metadata::check(&encoded).is_none() && core::Metadata::decode(encoded.as_slice()).is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_checked_of_metadata_is_what_the_decoder_refuses(metadata in any_metadata(), corruptions in corruptions()) {
        let mut bytes = metadata.encode_to_vec();
        prop_assert!(metadata::check(&bytes).is_some());
        corruptions.iter().for_each(|one| one.apply(&mut bytes));
        if metadata::check(&bytes).is_some() {
            prop_assert!(core::Metadata::decode(bytes.as_slice()).is_ok());
        }
    }

    #[test]
    fn whatever_is_alike_compiles(
        which in any::<(prop::sample::Index, prop::sample::Index)>(),
        metadata in any_metadata(),
        corruptions in corruptions(),
    ) {
        let subject = which.0.get(&*SUBJECTS);
        let mut alike = subject.seen();
        let mut message = which.1.get(&subject.others).clone();
        if let (Ok(mut cluster), 0) = (cds::Cluster::decode(message.as_slice()), which.0.index(SUBJECTS.len())) {
            cluster.metadata = Some(metadata);
            message = cluster.encode_to_vec();
        }
        if corruptions.is_empty() {
            let compiles = (subject.facts)(&message).is_some();
            prop_assert_eq!(subject.is_alike(&mut alike, &message), compiles);
        }
        for one in &corruptions {
            one.apply(&mut message);
            subject.is_alike(&mut alike, &message);
        }
    }
}
