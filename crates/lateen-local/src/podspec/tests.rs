//! Manifests to what is run.

use std::path::Path;
use std::sync::Arc;

use lateen_api::kube::{
    ConfigMapVolumeSource, Container, ContainerPort, EnvFromSource, EnvSource, EnvVar,
    EnvVarSource, GrpcAction, HttpGetAction, KeySelector, KeyToPath, ObjectFieldSelector, PodSpec,
    Probe, ResourceRequirements, TcpSocketAction, VolumeMount,
};
use lateen_api::value::{IntOrString, Value};
use lateen_sources::plan::Owner;

use super::*;
use crate::images::ImageRule;
use crate::probe::Check;

fn plan(role: PodRole, container: Container) -> PodPlan {
    PodPlan {
        namespace: "shop".to_owned(),
        name: "cart-1".to_owned(),
        owner: Owner {
            kind: "Deployment".to_owned(),
            name: "cart".to_owned(),
        },
        template_hash: 1,
        labels: BTreeMap::from([("app".to_owned(), "cart".to_owned())]),
        annotations: BTreeMap::new(),
        service_account: "cart-account".to_owned(),
        ipv4: "10.244.9.8".parse().unwrap(),
        ipv6: None,
        role,
        settings: lateen_sources::plan::ProxySettings::default(),
        spec: Arc::new(PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        }),
    }
}

fn container(command: &[&str]) -> Container {
    Container {
        name: "app".to_owned(),
        image: "example/cart:1".to_owned(),
        command: command.iter().map(|w| (*w).to_owned()).collect(),
        ..Container::default()
    }
}

fn resolve_with(plan: &PodPlan, desired: &Desired, images: &Images) -> Resolved {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    let proxy = CommandLine {
        argv: vec![
            "/proc/self/exe".to_owned(),
            "proxy".to_owned(),
            "sidecar".to_owned(),
        ],
        env: vec![("FROM_CALLER".to_owned(), "1".to_owned())],
    };
    let credentials = Credentials {
        token: "t".to_owned(),
        root_cert_pem: "r".to_owned(),
        refresh_after: None,
    };
    let around = Surroundings {
        desired,
        images,
        state: &state,
        proxy: &proxy,
        credentials: &credentials,
        trust_domain: "cluster.local",
        cluster_id: "Kubernetes",
        hold: Some(Duration::from_secs(5)),
        packet_filter: PacketFilter::default(),
        path: "/bin",
        home: "/root",
    };
    resolve(plan, &around)
}

fn resolved(plan: &PodPlan) -> Resolved {
    resolve_with(plan, &Desired::default(), &Images::new())
}

fn env_of<'a>(container: &'a sandbox::Container, name: &str) -> Option<&'a str> {
    container
        .env
        .iter()
        .find(|(own, _)| own == name)
        .map(|(_, value)| value.as_str())
}

fn var(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: value.to_owned(),
        value_from: None,
    }
}

fn entries(pairs: &[(&str, &str)]) -> Arc<BTreeMap<String, Vec<u8>>> {
    Arc::new(
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
            .collect(),
    )
}

fn key(name: &str) -> (String, String) {
    ("shop".to_owned(), name.to_owned())
}

/// A container with every kind of reference in its environment.
fn container_with_references(command: &[&str]) -> Container {
    let mut app = container(command);
    app.env_from = vec![EnvFromSource {
        prefix: "C_".to_owned(),
        config_map_ref: Some(EnvSource {
            name: "settings".to_owned(),
            optional: None,
        }),
        secret_ref: None,
    }];
    app.resources = Some(ResourceRequirements {
        limits: BTreeMap::from([("memory".to_owned(), Value::String("1.5Gi".to_owned()))]),
        ..Default::default()
    });
    let from = |name: &str, change: &dyn Fn(&mut EnvVarSource)| {
        let mut source = EnvVarSource::default();
        change(&mut source);
        EnvVar {
            value_from: Some(source),
            ..var(name, "")
        }
    };
    let field = |path: &str| {
        let field_path = path.to_owned();
        Some(ObjectFieldSelector {
            field_path,
            ..Default::default()
        })
    };
    let secret = KeySelector {
        name: "keys".to_owned(),
        key: "k".to_owned(),
        optional: None,
    };
    let text = |text: &str| Value::String(text.to_owned());
    let limit = BTreeMap::from([
        ("resource".to_owned(), text("limits.memory")),
        ("divisor".to_owned(), text("1Mi")),
    ]);
    app.env = vec![
        from("IP", &|s| s.field_ref = field("status.podIP")),
        from("APP", &|s| s.field_ref = field("metadata.labels['app']")),
        from("KEY", &|s| s.secret_key_ref = Some(secret.clone())),
        from("MEMORY", &|s| {
            s.resource_field_ref = Some(Value::Object(limit.clone()));
        }),
        var("GREETING", "hello $(APP) of $(C_TEAM)"),
    ];
    app
}

#[test]
fn environment_is_resolved_in_the_order_kubernetes_uses() {
    let command = ["run", "$(GREETING)", "$$(GREETING)", "$(UNKNOWN)", "5$"];
    let app = container_with_references(&command);
    let mut desired = Desired::default();
    desired
        .config_maps
        .insert(key("settings"), entries(&[("TEAM", "blue")]));
    desired
        .secrets
        .insert(key("keys"), entries(&[("k", "s3cret")]));
    let resolved = resolve_with(&plan(PodRole::Plain, app), &desired, &Images::new());
    let app = &resolved.spec.containers[0];
    for (name, value) in [
        ("IP", "10.244.9.8"),
        ("APP", "cart"),
        ("KEY", "s3cret"),
        ("MEMORY", "1536"),
        ("GREETING", "hello cart of blue"),
        ("PATH", "/bin"),
    ] {
        assert_eq!(env_of(app, name), Some(value), "{name}");
    }
    let argv = [
        "run",
        "hello cart of blue",
        "$(GREETING)",
        "$(UNKNOWN)",
        "5$",
    ];
    assert_eq!(app.start, Start::Command(argv.map(str::to_owned).to_vec()));
}

#[test]
fn a_missing_object_holds_the_container_back_and_says_which() {
    let mut app = container(&["run"]);
    app.env_from = vec![EnvFromSource {
        config_map_ref: Some(EnvSource {
            name: "gone".to_owned(),
            optional: None,
        }),
        ..Default::default()
    }];
    let Start::Blocked { status, message } =
        &resolved(&plan(PodRole::Plain, app.clone())).spec.containers[0].start
    else {
        panic!("it would start")
    };
    assert_eq!(status, "CreateContainerConfigError");
    assert_eq!(message, "ConfigMap gone of namespace shop does not exist");
    app.env_from[0].config_map_ref.as_mut().unwrap().optional = Some(true);
    let start = &resolved(&plan(PodRole::Plain, app)).spec.containers[0].start;
    assert!(matches!(start, Start::Command(_)));
}

#[test]
fn images_stand_for_commands_and_an_unknown_one_says_what_to_do() {
    let mut app = container(&[]);
    let start = &resolved(&plan(PodRole::Plain, app.clone())).spec.containers[0].start;
    let Start::Blocked { status, message } = start else {
        panic!("{start:?}")
    };
    assert_eq!(status, "ErrImageNeverPull");
    assert!(
        message.contains("--image 'example/cart:1=COMMAND'"),
        "{message}"
    );
    let mut images = Images::new();
    let rule = ImageRule::parse("cart=/opt/cart serve").unwrap();
    images.push(ImageRule {
        default_args: vec!["--all".to_owned()],
        env: vec![("A".to_owned(), "1".to_owned())],
        ..rule
    });
    let start = |app: Container| {
        let resolved = resolve_with(&plan(PodRole::Plain, app), &Desired::default(), &images);
        assert_eq!(env_of(&resolved.spec.containers[0], "A"), Some("1"));
        resolved.spec.containers[0].start.clone()
    };
    let command = |words: &[&str]| Start::Command(words.iter().map(|w| (*w).to_owned()).collect());
    assert_eq!(
        start(app.clone()),
        command(&["/opt/cart", "serve", "--all"])
    );
    app.args = vec!["--some".to_owned()];
    assert_eq!(start(app), command(&["/opt/cart", "serve", "--some"]));
}

#[test]
fn a_sidecar_comes_first_with_istios_environment() {
    let mut app = container(&["run"]);
    app.ports = vec![ContainerPort {
        name: "http".to_owned(),
        container_port: 8080,
        ..Default::default()
    }];
    let resolved = resolved(&plan(PodRole::Sidecar, app));
    let proxy = &resolved.spec.init[0];
    assert!(proxy.sidecar && proxy.name == "istio-proxy" && proxy.capabilities.is_none());
    for (name, value) in [
        ("POD_NAME", "cart-1"),
        ("POD_NAMESPACE", "shop"),
        ("INSTANCE_IP", "10.244.9.8"),
        ("SERVICE_ACCOUNT", "cart-account"),
        ("ISTIO_META_WORKLOAD_NAME", "cart"),
        (
            "ISTIO_META_OWNER",
            "kubernetes://apis/apps/v1/namespaces/shop/deployments/cart",
        ),
        (
            "ISTIO_META_POD_PORTS",
            r#"[{"containerPort":8080,"protocol":"TCP","name":"http"}]"#,
        ),
        ("ISTIO_META_APP_CONTAINERS", "app"),
        ("ISTIO_METAJSON_LABELS", r#"{"app":"cart"}"#),
        ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        ("FROM_CALLER", "1"),
    ] {
        assert_eq!(env_of(proxy, name), Some(value), "{name}");
    }
    assert!(resolved.spec.redirection.is_some() && resolved.spec.hold_ms == Some(5000));
    let paths: Vec<&str> = proxy.mounts.iter().map(|m| m.path.as_str()).collect();
    let expected = [
        "/var/run/secrets/tokens",
        "/var/run/secrets/istio",
        "/etc/istio/proxy",
    ];
    assert_eq!(paths, expected);
    let app = &resolved.spec.containers[0];
    assert!(
        app.mounts.iter().all(|m| m.volume != TOKEN_VOLUME),
        "only the proxy sees the token"
    );
}

#[test]
fn applications_cannot_pass_for_the_proxy() {
    use rustix::thread::CapabilitySet;
    let rights = |change: fn(&mut Container)| {
        let mut app = container(&["run"]);
        change(&mut app);
        let resolved = resolved(&plan(PodRole::Sidecar, app));
        resolved.spec.containers[0]
            .capabilities
            .map(CapabilitySet::from_bits_retain)
    };
    let default = rights(|_| {}).unwrap();
    // Either of the two allows `SO_MARK`.
    assert!(!default.intersects(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW));
    assert!(default.contains(CapabilitySet::NET_BIND_SERVICE));
    let privileged = rights(|app| {
        app.security_context = Some(lateen_api::kube::SecurityContext {
            privileged: Some(true),
            ..Default::default()
        });
    });
    assert_eq!(privileged, None);
}

fn probed(role: PodRole, annotation: Option<(&str, &str)>) -> Resolved {
    let mut app = container(&["run"]);
    app.ports = vec![ContainerPort {
        name: "web".to_owned(),
        container_port: 8080,
        ..Default::default()
    }];
    let port = || IntOrString::String("web".to_owned());
    let get = HttpGetAction {
        path: "/ok".to_owned(),
        port: port(),
        ..Default::default()
    };
    app.readiness_probe = Some(Probe {
        http_get: Some(get),
        period_seconds: Some(2),
        ..Default::default()
    });
    let tcp_socket = Some(TcpSocketAction {
        port: port(),
        host: String::new(),
    });
    app.liveness_probe = Some(Probe {
        tcp_socket,
        timeout_seconds: Some(4),
        ..Default::default()
    });
    let grpc = Some(GrpcAction {
        port: 9000,
        service: "cart".to_owned(),
    });
    app.startup_probe = Some(Probe {
        grpc,
        failure_threshold: Some(30),
        ..Default::default()
    });
    let mut plan = plan(role, app);
    plan.annotations
        .extend(annotation.map(|(k, v)| (k.to_owned(), v.to_owned())));
    resolved(&plan)
}

#[test]
fn probes_have_kubernetes_defaults_and_named_ports_are_looked_up() {
    let resolved = probed(PodRole::Plain, None);
    let probes = &resolved.probes["app"];
    let readiness = probes.readiness.as_ref().unwrap();
    let path = "/ok".to_owned();
    assert_eq!(
        readiness.check,
        Check::Http {
            tls: false,
            host: None,
            port: 8080,
            path,
            headers: vec![]
        }
    );
    assert_eq!(
        (readiness.period, readiness.timeout),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    assert_eq!(
        (readiness.success_threshold, readiness.failure_threshold),
        (1, 3)
    );
    assert_eq!(
        probes.liveness.as_ref().unwrap().check,
        Check::Tcp { port: 8080 }
    );
    assert_eq!(probes.startup.as_ref().unwrap().failure_threshold, 30);
}

#[test]
fn with_a_sidecar_probes_go_to_the_status_port_and_the_proxy_knows_where_they_led() {
    let resolved = probed(PodRole::Sidecar, None);
    let probes = &resolved.probes["app"];
    let asked = |probe: &Option<crate::probe::Probe>| match &probe.as_ref().unwrap().check {
        Check::Http { port, path, .. } => format!("{port}{path}"),
        other => format!("{other:?}"),
    };
    assert_eq!(asked(&probes.readiness), "15020/app-health/app/readyz");
    assert_eq!(asked(&probes.liveness), "15020/app-health/app/livez");
    assert_eq!(asked(&probes.startup), "15020/app-health/app/startupz");
    let probers = env_of(&resolved.spec.init[0], "ISTIO_KUBE_APP_PROBERS").unwrap();
    let probers: serde_json::Value = serde_json::from_str(probers).unwrap();
    let expected = serde_json::json!({
        "/app-health/app/readyz": { "httpGet": { "path": "/ok", "port": 8080 } },
        "/app-health/app/livez": { "tcpSocket": { "port": 8080 }, "timeoutSeconds": 4 },
        "/app-health/app/startupz": { "grpc": { "port": 9000, "service": "cart" } },
    });
    assert_eq!(probers, expected);
    let opted_out = probed(
        PodRole::Sidecar,
        Some(("sidecar.istio.io/rewriteAppHTTPProbers", "false")),
    );
    assert_eq!(asked(&opted_out.probes["app"].readiness), "8080/ok");
    assert_eq!(
        env_of(&opted_out.spec.init[0], "ISTIO_KUBE_APP_PROBERS"),
        None
    );
}

#[test]
fn volumes_hold_what_objects_say() {
    let mut app = container(&["run"]);
    let at = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        sub_path_expr: "$(HOSTNAME)".to_owned(),
        ..Default::default()
    };
    app.volume_mounts = vec![at("settings", "/etc/settings")];
    let mut plan = plan(PodRole::Plain, app);
    let item = KeyToPath {
        key: "a".to_owned(),
        path: "deep/a.txt".to_owned(),
        mode: Some(0o600),
    };
    let source = ConfigMapVolumeSource {
        name: "settings".to_owned(),
        items: vec![item],
        ..Default::default()
    };
    let volume = kube::Volume {
        name: "settings".to_owned(),
        config_map: Some(source),
        ..Default::default()
    };
    Arc::make_mut(&mut plan.spec).volumes.push(volume);
    let blocked = resolved(&plan);
    assert!(matches!(
        blocked.spec.containers[0].start,
        Start::Blocked { .. }
    ));
    let mut desired = Desired::default();
    desired
        .config_maps
        .insert(key("settings"), entries(&[("a", "1"), ("b", "2")]));
    let resolved = resolve_with(&plan, &desired, &Images::new());
    let file = File {
        path: "deep/a.txt".to_owned(),
        content: b"1".to_vec(),
        mode: 0o600,
    };
    assert_eq!(resolved.spec.volumes["settings"], Volume::Files(vec![file]));
    assert_eq!(
        resolved.spec.containers[0].mounts[0].sub_path.as_deref(),
        Some("cart-1")
    );
}

#[test]
fn a_gateway_is_its_proxy_alone() {
    let mut gateway = container(&[]);
    gateway.name = PROXY_CONTAINER.to_owned();
    gateway.env = vec![var("ISTIO_META_ROUTER_MODE", "standard")];
    let resolved = resolved(&plan(PodRole::Gateway, gateway));
    assert!(resolved.spec.init.is_empty() && resolved.spec.redirection.is_none());
    let [proxy] = resolved.spec.containers.as_slice() else {
        panic!("more than one container")
    };
    assert!(!proxy.sidecar);
    assert_eq!(env_of(proxy, "ISTIO_META_ROUTER_MODE"), Some("standard"));
    assert!(resolved.probes[PROXY_CONTAINER].readiness.is_some());
}

#[test]
fn hosts_and_resolver_are_the_clusters() {
    let mut plan = plan(PodRole::Plain, container(&["run"]));
    let spec = Arc::make_mut(&mut plan.spec);
    (spec.hostname, spec.subdomain) = ("cart".to_owned(), "carts".to_owned());
    let resolved = resolved(&plan);
    let hosts = &resolved.spec.files["/etc/hosts"];
    assert!(
        hosts.contains("10.244.9.8\tcart.carts.shop.svc.cluster.local\tcart\n"),
        "{hosts}"
    );
    let resolver = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
                    nameserver 10.96.0.10\noptions ndots:5\n";
    assert_eq!(resolved.spec.files["/etc/resolv.conf"], resolver);
    assert!(resolved.spec.logs.ends_with(Path::new("logs/shop/cart-1")));
}

#[test]
fn redirection_follows_the_meshs_ports_and_leaves_the_status_port_alone() {
    let mut plan = plan(PodRole::Sidecar, container(&["/bin/true"]));
    plan.settings.outbound_port = 16001;
    plan.settings.inbound_port = 16006;
    plan.settings.config = r#"{"statusPort": 16020}"#.to_owned();
    let resolved = resolve_with(&plan, &Desired::default(), &Images::default());
    let rules = resolved.spec.redirection.unwrap();
    assert_eq!((rules.outbound, rules.inbound), (16001, 16006));
    assert_eq!(rules.excluded_inbound_ports, [16020]);
    assert!(!rules.describe().contains("15001"));
}

#[test]
fn the_mesh_may_say_that_nothing_is_redirected() {
    let mut plan = plan(PodRole::Sidecar, container(&["/bin/true"]));
    plan.settings.config = r#"{"interceptionMode": "NONE"}"#.to_owned();
    let resolved = resolve_with(&plan, &Desired::default(), &Images::default());
    assert_eq!(resolved.spec.redirection, None);
    let env = &resolved.spec.init[0].env;
    let mode = env
        .iter()
        .find(|(n, _)| n == "ISTIO_META_INTERCEPTION_MODE");
    assert_eq!(mode.unwrap().1, "NONE");
}

fn scrape_variable(annotations: &[(&str, &str)], merge: bool) -> Option<String> {
    let mut plan = plan(PodRole::Sidecar, container(&["/bin/true"]));
    plan.settings.merge_metrics = merge;
    plan.annotations = annotations
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let resolved = resolve_with(&plan, &Desired::default(), &Images::default());
    let env = resolved.spec.init[0].env.clone();
    let found = env
        .into_iter()
        .find(|(n, _)| n == "ISTIO_PROMETHEUS_ANNOTATIONS");
    found.map(|(_, value)| value)
}

#[test]
fn the_agent_is_told_of_an_application_that_is_to_be_scraped() {
    let scraped = [
        ("prometheus.io/scrape", "true"),
        ("prometheus.io/port", "9090"),
    ];
    let told = scrape_variable(&scraped, true).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["port"], "9090");
    assert_eq!(scrape_variable(&scraped, false), None);
    assert_eq!(
        scrape_variable(&[("prometheus.io/scrape", "false")], true),
        None
    );
    let apart = [scraped[0], ("prometheus.istio.io/merge-metrics", "false")];
    assert_eq!(scrape_variable(&apart, true), None);
}

fn with_config(config: &str, annotations: &[(&str, &str)]) -> Resolved {
    let mut plan = plan(PodRole::Sidecar, container(&["/bin/app"]));
    plan.settings.config = config.to_owned();
    let pairs = annotations.iter();
    plan.annotations
        .extend(pairs.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    resolved(&plan)
}

#[test]
fn applications_wait_for_their_proxy_for_a_while_always_or_not_at_all() {
    let hold = |config| with_config(config, &[]).spec.hold_ms;
    assert_eq!(hold("{}"), Some(5_000));
    let always = hold(r#"{"holdApplicationUntilProxyStarts": true}"#);
    assert!(always.is_some_and(|ms| ms > 1 << 36), "{always:?}");
    assert_eq!(hold(r#"{"holdApplicationUntilProxyStarts": false}"#), None);
}

#[test]
fn annotations_say_how_the_proxy_is_asked_whether_it_is_ready() {
    let readiness = |annotations: &[(&str, &str)]| {
        let resolved = with_config("{}", annotations);
        resolved.probes[PROXY_CONTAINER].readiness.clone()
    };
    let probe = readiness(&[
        ("readiness.status.sidecar.istio.io/initialDelaySeconds", "3"),
        ("readiness.status.sidecar.istio.io/periodSeconds", "0"),
        ("readiness.status.sidecar.istio.io/failureThreshold", "9"),
    ])
    .unwrap();
    assert_eq!(probe.initial_delay, Duration::from_secs(3));
    assert_eq!(probe.period, Duration::from_secs(1), "no period of zero");
    assert_eq!(probe.failure_threshold, 9);
    let unasked = readiness(&[("status.sidecar.istio.io/port", "0")]);
    assert_eq!(unasked, None);
}

#[test]
fn the_agent_listens_where_the_annotation_sends_probes() {
    let resolved = with_config(
        r#"{"concurrency":2}"#,
        &[("status.sidecar.istio.io/port", "15030")],
    );
    let config = env_of(&resolved.spec.init[0], "PROXY_CONFIG").unwrap();
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    assert_eq!(
        config,
        serde_json::json!({"concurrency": 2, "statusPort": 15030})
    );
    let redirection = resolved.spec.redirection.unwrap();
    assert!(redirection.excluded_inbound_ports.contains(&15030));
}

#[test]
fn the_proxys_container_has_the_volumes_of_its_annotations() {
    let mut plan = plan(PodRole::Sidecar, Container::default());
    let annotations = [
        (
            "sidecar.istio.io/userVolume",
            r#"{"certs": {"emptyDir": {}}}"#,
        ),
        (
            "sidecar.istio.io/userVolumeMount",
            r#"{"certs": {"mountPath": "/etc/certs", "readOnly": true}}"#,
        ),
    ];
    let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
    plan.annotations.extend(annotations);
    let resolved = resolved(&plan);
    assert_eq!(resolved.problems, Vec::<String>::new());
    assert_eq!(resolved.spec.volumes["certs"], Volume::Empty);
    let mounts = &resolved.spec.init[0].mounts;
    let own = mounts.iter().find(|mount| mount.volume == "certs").unwrap();
    assert_eq!((own.path.as_str(), own.read_only), ("/etc/certs", true));

    plan.annotations.remove("sidecar.istio.io/userVolume");
    let resolved = self::resolved(&plan);
    assert!(matches!(
        &resolved.spec.init[0].start,
        Start::Blocked { .. }
    ));
}
