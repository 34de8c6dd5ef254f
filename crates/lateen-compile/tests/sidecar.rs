//! What a sidecar gets for bookinfo-like manifests.

mod common;

use common::{BOOKINFO, World, bookinfo_pods, each, get, names, pod, sidecar};
use lateen_envoy::TypeUrl;
use serde_json::json;

const REVIEWS: &str = "reviews.default.svc.cluster.local";

fn bookinfo() -> lateen_compile::Compiled {
    let pods = bookinfo_pods();
    let node = sidecar(&pods[0]);
    World::new(BOOKINFO, pods).compile(&node)
}

#[test]
fn every_service_port_and_subset_has_a_cluster() {
    let compiled = bookinfo();
    let clusters = names(&compiled, TypeUrl::Cluster);
    for name in [
        "BlackHoleCluster",
        "PassthroughCluster",
        "InboundPassthroughCluster",
        "inbound|9080||",
        &format!("outbound|9080||{REVIEWS}"),
        &format!("outbound|9080|v1|{REVIEWS}"),
        &format!("outbound|9080|v2|{REVIEWS}"),
        "outbound|7000||echo.default.svc.cluster.local",
    ] {
        assert!(
            clusters.contains(&name.to_owned()),
            "{name} in {clusters:?}"
        );
    }
}

#[test]
fn a_subset_keeps_the_rules_policy_unless_it_has_its_own() {
    let compiled = bookinfo();
    let policy = |subset: &str| {
        get(
            &compiled,
            TypeUrl::Cluster,
            &format!("outbound|9080|{subset}|{REVIEWS}"),
        )["lb_policy"]
            .clone()
    };
    assert_eq!(policy(""), json!("RANDOM"));
    assert_eq!(policy("v1"), json!("RANDOM"));
    assert_eq!(
        policy("v2"),
        json!(null),
        "ROUND_ROBIN is the default and left out"
    );
}

#[test]
fn clusters_use_mutual_tls_for_endpoints_that_can_and_expect_their_identity() {
    let compiled = bookinfo();
    let cluster = get(
        &compiled,
        TypeUrl::Cluster,
        &format!("outbound|9080|v1|{REVIEWS}"),
    );
    let matches = &cluster["transport_socket_matches"];
    assert_eq!(
        each(matches, "/name"),
        [&json!("tlsMode-istio"), &json!("tlsMode-disabled")]
    );
    let tls = &matches[0]["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], json!(format!("outbound_.9080_.v1_.{REVIEWS}")));
    let names = &tls["common_tls_context"]["combined_validation_context"]["default_validation_context"]
        ["match_typed_subject_alt_names"];
    assert_eq!(
        each(names, "/matcher/exact"),
        [&json!(
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
        )]
    );
    let endpoints = get(
        &compiled,
        TypeUrl::ClusterLoadAssignment,
        &format!("outbound|9080|v1|{REVIEWS}"),
    );
    let endpoint = &endpoints["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(
        endpoint["metadata"]["filter_metadata"]["envoy.transport_socket_match"]["tlsMode"],
        json!("istio")
    );
    assert_eq!(
        endpoint["endpoint"]["address"]["socket_address"],
        json!({"address": "10.244.0.11", "port_value": 9080})
    );
}

#[test]
fn http_ports_share_a_listener_and_opaque_ports_have_their_own() {
    let listeners = names(&bookinfo(), TypeUrl::Listener);
    assert_eq!(
        listeners,
        [
            "0.0.0.0_9080",
            "10.96.0.4_27017",
            "10.96.0.5_7000",
            "virtualInbound",
            "virtualOutbound"
        ]
    );
}

#[test]
fn a_port_of_unknown_protocol_is_looked_at_without_a_delay_for_servers_that_speak_first() {
    let compiled = bookinfo();
    let listener = get(&compiled, TypeUrl::Listener, "10.96.0.5_7000");
    assert_eq!(
        listener["continue_on_listener_filters_timeout"],
        json!(true)
    );
    assert_eq!(listener["listener_filters_timeout"], json!("0s"));
    assert_eq!(
        listener["filter_chains"][0]["filter_chain_match"],
        json!({"application_protocols": ["http/1.1", "h2c"], "transport_protocol": "raw_buffer"})
    );
    let routes = names(&compiled, TypeUrl::RouteConfiguration);
    assert_eq!(routes, ["9080", "echo.default.svc.cluster.local:7000"]);
    let mongo = get(&compiled, TypeUrl::Listener, "10.96.0.4_27017");
    assert_eq!(mongo["listener_filters"], json!(null));
}

#[test]
fn routes_follow_the_virtual_service_and_say_where_they_come_from() {
    let compiled = bookinfo();
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "9080");
    let hosts = routes["virtual_hosts"].as_array().unwrap();
    let names: Vec<_> = hosts
        .iter()
        .map(|host| host["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "productpage.default.svc.cluster.local:9080",
            "ratings.default.svc.cluster.local:9080",
            "reviews.default.svc.cluster.local:9080",
            "allow_any"
        ]
    );
    let reviews = &hosts[2];
    assert_eq!(
        reviews["domains"],
        json!([
            "reviews.default.svc.cluster.local",
            "reviews.default.svc.cluster.local.",
            "reviews",
            "reviews.default.svc",
            "reviews.default",
            "10.96.0.2"
        ])
    );
    let first = &reviews["routes"][0];
    assert_eq!(
        first["route"]["cluster"],
        json!(format!("outbound|9080|v2|{REVIEWS}"))
    );
    assert_eq!(
        first["metadata"]["filter_metadata"]["lateen"],
        json!({"object": "VirtualService/default/reviews", "field": "spec.http[0].match[0]", "retries": "default"})
    );
    let weights = &reviews["routes"][1]["route"]["weighted_clusters"]["clusters"];
    assert_eq!(each(weights, "/weight"), [&json!(80), &json!(20)]);
    assert_eq!(
        reviews["routes"][1]["route"]["retry_policy"]["retry_on"],
        json!("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes")
    );
}

#[test]
fn inbound_is_permissive_until_a_policy_says_strict() {
    let pods = bookinfo_pods();
    let node = sidecar(&pods[1]);
    let chains = |yaml: &str| {
        let compiled = World::new(yaml, pods.clone()).compile(&node);
        let listener = get(&compiled, TypeUrl::Listener, "virtualInbound");
        let chains = listener["filter_chains"].as_array().unwrap().clone();
        chains
            .iter()
            .filter(|chain| chain["filter_chain_match"]["destination_port"] == json!(9080))
            .map(|chain| {
                (
                    chain["filter_chain_match"]["transport_protocol"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                    chain["transport_socket"].is_object(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        chains(BOOKINFO),
        [("tls".to_owned(), true), ("raw_buffer".to_owned(), false)]
    );
    let strict = format!(
        "{BOOKINFO}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: default, namespace: default}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
    );
    assert_eq!(chains(&strict), [("tls".to_owned(), true)]);
}

#[test]
fn istios_private_filters_are_for_our_own_proxy_only() {
    let pods = bookinfo_pods();
    let world = World::new(BOOKINFO, pods.clone());
    let mut node = sidecar(&pods[0]);
    let text = |node: &lateen_compile::ProxyNode| {
        let compiled = world.compile(node);
        names(&compiled, TypeUrl::Listener)
            .iter()
            .map(|name| get(&compiled, TypeUrl::Listener, name).to_string())
            .collect::<String>()
    };
    assert!(!text(&node).contains("istio.stats"));
    node.native = true;
    let native = text(&node);
    for name in ["istio.stats", "istio.alpn", "istio.metadata_exchange"] {
        assert!(native.contains(name), "{name}");
    }
}

#[test]
fn names_of_services_resolve_to_their_addresses() {
    let compiled = bookinfo();
    let table = get(&compiled, TypeUrl::NameTable, "nametable");
    assert_eq!(
        table["table"][REVIEWS],
        json!({
            "ips": ["10.96.0.2"], "registry": "Kubernetes", "shortname": "reviews", "namespace": "default"
        })
    );
}

#[test]
fn a_headless_service_gets_a_listener_per_pod() {
    let yaml = r"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, selector: {app: reviews}, ports: [{name: tcp, port: 5432}]}
";
    let pods = bookinfo_pods();
    let compiled = World::new(yaml, pods.clone()).compile(&sidecar(&pods[0]));
    let listeners = names(&compiled, TypeUrl::Listener);
    assert!(
        listeners.contains(&"10.244.0.11_5432".to_owned()),
        "{listeners:?}"
    );
    assert!(listeners.contains(&"10.244.0.12_5432".to_owned()));
    let cluster = get(
        &compiled,
        TypeUrl::Cluster,
        "outbound|5432||db.default.svc.cluster.local",
    );
    assert_eq!(cluster["type"], json!("ORIGINAL_DST"));
    assert_eq!(
        cluster["transport_socket"]["name"],
        json!("envoy.transport_sockets.tls"),
        "every endpoint has a sidecar"
    );
}

#[test]
fn a_service_entry_resolved_by_dns_carries_its_endpoint_and_gets_an_address() {
    let yaml = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: google, namespace: default}
spec:
  hosts: [www.google.com]
  ports: [{number: 443, name: https, protocol: HTTPS}, {number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";
    let pods = bookinfo_pods();
    let compiled = World::new(yaml, pods.clone()).compile(&sidecar(&pods[0]));
    let cluster = get(&compiled, TypeUrl::Cluster, "outbound|443||www.google.com");
    assert_eq!(cluster["type"], json!("STRICT_DNS"));
    assert_eq!(
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"],
        json!({"address": "www.google.com", "port_value": 443})
    );
    assert_eq!(
        cluster["transport_socket_matches"],
        json!(null),
        "outside the mesh"
    );
    let table = get(&compiled, TypeUrl::NameTable, "nametable");
    let address = table["table"]["www.google.com"]["ips"][0]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(address.starts_with("240.240."), "{address}");
    let listeners = names(&compiled, TypeUrl::Listener);
    assert!(
        listeners.contains(&format!("{address}_443")),
        "{listeners:?}"
    );
}

#[test]
fn registry_only_blocks_what_is_unknown() {
    let pods = bookinfo_pods();
    let yaml = format!(
        "{BOOKINFO}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
         metadata: {{name: default, namespace: default}}\n\
         spec: {{outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}, egress: [{{hosts: ['./reviews.default.svc.cluster.local']}}]}}\n"
    );
    let compiled = World::new(&yaml, pods.clone()).compile(&sidecar(&pods[0]));
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "9080");
    let names: Vec<_> = each(&routes["virtual_hosts"], "/name");
    assert_eq!(
        names,
        [
            &json!("reviews.default.svc.cluster.local:9080"),
            &json!("block_all")
        ]
    );
    let outbound = get(&compiled, TypeUrl::Listener, "virtualOutbound");
    assert!(outbound.to_string().contains("BlackHoleCluster"));
    assert!(!outbound.to_string().contains("PassthroughCluster"));
}

#[test]
fn a_delegate_is_merged_into_its_root() {
    let yaml = format!(
        "{BOOKINFO}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: root, namespace: default}}
spec:
  hosts: [ratings]
  http:
  - match: [{{uri: {{prefix: /ratings}}}}]
    delegate: {{name: part, namespace: default}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: part, namespace: default}}
spec:
  http:
  - match: [{{uri: {{exact: /ratings/0}}}}]
    timeout: 3s
    route: [{{destination: {{host: ratings}}}}]
"
    );
    let pods = bookinfo_pods();
    let compiled = World::new(&yaml, pods.clone()).compile(&sidecar(&pods[0]));
    let routes = get(&compiled, TypeUrl::RouteConfiguration, "9080");
    let host = &routes["virtual_hosts"][1];
    assert_eq!(
        host["name"],
        json!("ratings.default.svc.cluster.local:9080")
    );
    assert_eq!(host["routes"][0]["match"]["path"], json!("/ratings/0"));
    assert_eq!(host["routes"][0]["route"]["timeout"], json!("3s"));
    assert_eq!(
        host["routes"][0]["metadata"]["filter_metadata"]["lateen"],
        json!({"object": "VirtualService/default/part", "field": "spec.http[0].match[0]", "retries": "default"})
    );
}

#[test]
fn policies_become_filters_in_istios_order_and_a_custom_one_denies() {
    let policy = |name: &str, action: &str, extra: &str| {
        format!(
            "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: default{extra}}}\n\
             spec: {{selector: {{matchLabels: {{app: reviews}}}}, action: {action}, {} \
             rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}\n",
            if action == "CUSTOM" {
                "provider: {name: x},"
            } else {
                ""
            }
        )
    };
    let yaml = [
        BOOKINFO.to_owned(),
        policy("allow", "ALLOW", ""),
        policy("deny", "DENY", ""),
        policy("dry", "DENY", ", annotations: {istio.io/dry-run: 'true'}"),
        policy("custom", "CUSTOM", ""),
    ]
    .concat();
    let pods = bookinfo_pods();
    let compiled = World::new(&yaml, pods.clone()).compile(&sidecar(&pods[1]));
    let listener = get(&compiled, TypeUrl::Listener, "virtualInbound");
    let chains = listener["filter_chains"].as_array().unwrap();
    let chain = chains
        .iter()
        .find(|c| c["filter_chain_match"]["destination_port"] == json!(9080))
        .unwrap();
    let filters = &chain["filters"][0]["typed_config"]["http_filters"];
    let rbac: Vec<_> = filters
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["name"] == json!("envoy.filters.http.rbac"))
        .map(|f| &f["typed_config"])
        .collect();
    assert_eq!(rbac.len(), 3);
    assert_eq!(rbac[0]["rules"]["action"], json!("DENY"));
    assert!(rbac[0]["rules"].to_string().contains("policy[custom]"));
    assert!(rbac[1]["rules"]["policies"]["ns[default]-policy[deny]-rule[0]"].is_object());
    assert_eq!(
        rbac[1]["shadow_rules_stat_prefix"],
        json!("istio_dry_run_deny_")
    );
    assert!(rbac[2]["rules"]["policies"]["ns[default]-policy[allow]-rule[0]"].is_object());
    let other = World::new(&yaml, pods.clone()).compile(&sidecar(&pods[0]));
    assert!(
        !get(&other, TypeUrl::Listener, "virtualInbound")
            .to_string()
            .contains("rbac")
    );
}

#[test]
fn a_pod_being_ended_gets_no_traffic_but_keeps_its_own_configuration() {
    let mut pods = bookinfo_pods();
    let node = sidecar(&pods[1]);
    let before = World::new(BOOKINFO, pods.clone()).compile(&node);
    pods[1].terminating = true;
    pods[1].ready = false;
    let after = World::new(BOOKINFO, pods).compile(&node);
    for ty in [TypeUrl::Listener, TypeUrl::Cluster] {
        assert_eq!(before.resources.get(ty), after.resources.get(ty));
    }
    let endpoints = |compiled| {
        get(
            compiled,
            TypeUrl::ClusterLoadAssignment,
            &format!("outbound|9080|v1|{REVIEWS}"),
        )["endpoints"]
            .clone()
    };
    assert!(endpoints(&before).is_array());
    assert_eq!(endpoints(&after), json!(null));
}

#[test]
fn entries_that_share_an_address_keep_the_others_for_themselves() {
    let entry = |name: &str, addresses: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}.example.com], addresses: [{addresses}], resolution: STATIC,\n\
             ports: [{{number: 9999, name: tcp, protocol: TCP}}]}}\n"
        )
    };
    let yaml = entry("one", "1.1.1.1") + &entry("two", "'2.2.2.2', '1.1.1.1'");
    let client = pod("default", "client", "client", "v1", 9);
    let compiled = World::new(&yaml, vec![client.clone()]).compile(&sidecar(&client));
    let cluster = |listener: &str| {
        let listener = get(&compiled, TypeUrl::Listener, listener);
        listener
            .pointer("/filter_chains/0/filters/0/typed_config/cluster")
            .cloned()
    };
    assert_eq!(
        cluster("1.1.1.1_9999"),
        Some(json!("outbound|9999||one.example.com"))
    );
    assert_eq!(
        cluster("2.2.2.2_9999"),
        Some(json!("outbound|9999||two.example.com"))
    );
}

#[test]
fn slices_stand_beside_what_a_selector_finds() {
    let yaml = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.9, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-extra, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}]
ports: [{name: http, port: 9090}]
";
    let own = pod("default", "web", "web", "v1", 9);
    let compiled = World::new(yaml, vec![own.clone()]).compile(&sidecar(&own));
    let name = "outbound|80||web.default.svc.cluster.local";
    let endpoints = get(&compiled, TypeUrl::ClusterLoadAssignment, name).to_string();
    assert!(
        endpoints.contains("192.0.2.7") && endpoints.contains("10.244.0.9"),
        "{endpoints}"
    );
}

#[test]
fn names_nobody_declared_are_resolved_by_the_proxy_if_the_mesh_says_so() {
    let client = pod("default", "client", "client", "v1", 9);
    let mut world = World::new(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wiki}
spec:
  hosts: ['*.wikipedia.org']
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
",
        vec![client.clone()],
    );
    let policy = lateen_api::mesh::OutboundTrafficPolicy {
        mode: lateen_api::mesh::OutboundTrafficPolicyMode::AllowAnyDynamicDns,
        ..Default::default()
    };
    world.mesh.outbound_traffic_policy = Some(policy);
    let compiled = world.compile(&sidecar(&client));
    let unknown = get(&compiled, TypeUrl::Cluster, "AllowAnyDynamicDNSCluster");
    let kind = "/cluster_type/name";
    assert_eq!(
        unknown.pointer(kind),
        Some(&json!("envoy.clusters.dynamic_forward_proxy"))
    );
    let known = get(&compiled, TypeUrl::Cluster, "outbound|80||*.wikipedia.org");
    assert_eq!(unknown.pointer(kind), known.pointer(kind));
    // Filters share the clusters' answers by the very same settings.
    let cache = unknown
        .pointer("/cluster_type/typed_config/dns_cache_config")
        .unwrap();
    for listener in ["0.0.0.0_80", "0.0.0.0_443", "virtualOutbound"] {
        let built = get(&compiled, TypeUrl::Listener, listener).to_string();
        assert!(built.contains(&cache.to_string()), "{listener}: {built}");
    }
    let tls = get(&compiled, TypeUrl::Listener, "0.0.0.0_443");
    assert_eq!(
        tls.pointer("/filter_chains/0/filter_chain_match/server_names"),
        Some(&json!(["*.wikipedia.org"]))
    );
}

#[test]
fn a_tunnel_carries_connections_to_where_the_rule_says() {
    let client = pod("default", "client", "client", "v1", 9);
    let compiled = World::new(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: proxy}
spec:
  hosts: [proxy.example.com]
  addresses: [192.0.2.1]
  resolution: STATIC
  ports: [{number: 3128, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: proxy}
spec: {host: proxy.example.com, trafficPolicy: {tunnel: {protocol: POST, targetHost: db.example.com, targetPort: 5432}}}
",
        vec![client.clone()],
    )
    .compile(&sidecar(&client));
    let listener = get(&compiled, TypeUrl::Listener, "192.0.2.1_3128");
    let filters = listener.pointer("/filter_chains/0/filters").unwrap();
    let proxy = filters.as_array().unwrap().last().unwrap();
    assert_eq!(
        proxy.pointer("/typed_config/tunneling_config"),
        Some(&json!({"hostname": "db.example.com:5432", "use_post": true}))
    );
}

#[test]
fn retries_nobody_asked_for_are_marked_as_such() {
    let compiled = bookinfo();
    let of = |name: &str, host: &str| {
        let routes = get(&compiled, TypeUrl::RouteConfiguration, name);
        let hosts = routes["virtual_hosts"].as_array().unwrap().clone();
        let found = hosts
            .iter()
            .find(|vhost| vhost["name"] == json!(host))
            .unwrap()
            .clone();
        found["routes"][0]["metadata"]["filter_metadata"]["lateen"]["retries"].clone()
    };
    assert_eq!(
        of("9080", "reviews.default.svc.cluster.local:9080"),
        json!("default")
    );
    assert_eq!(
        of("9080", "ratings.default.svc.cluster.local:9080"),
        json!("default")
    );
}

#[test]
fn a_proxy_that_asks_is_told_of_its_peers_in_its_region() {
    let at = |place: &str, number: u8| {
        let mut pod = pod("default", &format!("web-{number}"), "web", "v1", number);
        pod.locality = lateen_compile::Locality::parse(place);
        pod
    };
    let mut other = at("here/a", 6);
    other.workload_name = "web-v2".to_owned();
    let mut next = at("here/a", 7);
    next.labels
        .insert("pod-template-hash".to_owned(), "new".to_owned());
    let pods = vec![
        at("here/a", 1),
        at("here/b", 2),
        at("here/b", 3),
        at("there/a", 4),
        other,
        next,
    ];
    let services = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
";
    let world = World::new(services, pods.clone());
    let mut node = sidecar(&pods[0]);
    node.workload_name.clone_from(&pods[0].workload_name);
    let kind = TypeUrl::ClusterLoadAssignment;
    let plain = world.compile(&node);
    assert!(!names(&plain, kind).contains(&"local_cluster".to_owned()));
    node.self_discovery = true;
    let compiled = world.compile(&node);
    let peers = get(&compiled, kind, "local_cluster");
    let zones = each(&peers["endpoints"], "/locality/zone");
    assert_eq!(zones, [&json!("a"), &json!("b")]);
    let counts: Vec<usize> = each(&peers["endpoints"], "/lb_endpoints")
        .into_iter()
        .map(|list| list.as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [1, 2]);
    // Who is behind no service has nobody beside it.
    let lonely = World::new("", pods).compile(&node);
    let peers = get(&lonely, kind, "local_cluster");
    assert_eq!(peers["endpoints"], json!(null));
}

#[test]
fn a_stock_envoy_is_told_what_to_offer_by_the_clusters_metadata() {
    let services = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: main, port: 80}, {name: http, port: 81}, {name: grpc, port: 82}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: default}
spec: {host: plain, trafficPolicy: {tls: {mode: SIMPLE}}}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: default}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: main, port: 80}]}
";
    let pods = vec![pod("default", "web-1", "web", "v1", 1)];
    let world = World::new(services, pods.clone());
    let mut node = sidecar(&pods[0]);
    let offer = |node: &lateen_compile::ProxyNode, name: &str| {
        let cluster = get(&world.compile(node), TypeUrl::Cluster, name);
        let metadata = &cluster["metadata"]["filter_metadata"]["lateen.alpn"];
        [&metadata["HTTP/1.1"], &metadata["HTTP/2"]].map(|text| text.as_str().map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    let (one, two) = ("istio-http/1.1,istio,http/1.1", "istio-h2,istio,h2");
    let web = |port: u16| format!("outbound|{port}||web.default.svc.cluster.local");
    assert_eq!(offer(&node, &web(80)), [some(one), some(two)]);
    assert_eq!(offer(&node, &web(81)), [some(one), some(one)]);
    // What is always HTTP/2 offers that by itself.
    assert_eq!(offer(&node, &web(82)), [None, None]);
    assert_eq!(
        offer(&node, "outbound|80||plain.default.svc.cluster.local"),
        [None, None]
    );
    node.native = true;
    assert_eq!(offer(&node, &web(80)), [None, None]);
}

#[test]
fn hosts_are_weighed_by_their_reports_where_a_rule_says_so() {
    let rule = "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: default}
spec:
  host: ratings
  trafficPolicy:
    loadBalancer:
      backendUtilization: {errorUtilizationPenaltyPercent: 50, metricNamesForComputingUtilization: [named_metrics.queue], weightUpdatePeriod: 2s}
";
    let pods = bookinfo_pods();
    let node = sidecar(&pods[0]);
    let compiled = World::new(&format!("{BOOKINFO}{rule}"), pods).compile(&node);
    let name = "outbound|9080||ratings.default.svc.cluster.local";
    let cluster = get(&compiled, TypeUrl::Cluster, name);
    let policies = each(
        &cluster["load_balancing_policy"]["policies"],
        "/typed_extension_config/typed_config",
    );
    let [policy] = policies[..] else {
        panic!("{cluster}")
    };
    assert!(
        policy["@type"]
            .as_str()
            .unwrap()
            .ends_with("ClientSideWeightedRoundRobin")
    );
    assert_eq!(policy["error_utilization_penalty"], json!(0.5));
    assert_eq!(policy["weight_update_period"], json!("2s"));
}
