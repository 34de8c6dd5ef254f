//! The scenarios.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lateen_api::kube::{
    ConfigMapVolumeSource, ExecAction, HttpGetAction, Probe, TcpSocketAction, Volume, VolumeMount,
};
use lateen_api::value::IntOrString;
use lateen_local::exec::{self, PodProcesses};
use lateen_local::redirect::PacketFilter;
use lateen_local::services::Protocol;
use lateen_local::supervisor::Desired;
use lateen_sources::plan::{Phase, PodPlan, PodRole};

use crate::apps::{call, call_once, call_udp};
use crate::manifests;
use crate::world::{World, at, container, edit, pod, run, run_by, service, vip};

type Scenario = fn(&Path);

/// By name. Those with "killed" in it say "ready" and are killed then.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("plain_pods_reach_each_other_through_a_service", |p| {
        run(p, services)
    }),
    ("a_service_without_endpoints_refuses", |p| run(p, refused)),
    ("a_sidecar_pods_traffic_goes_through_its_proxy", |p| {
        run(p, redirection)
    }),
    (
        "a_pod_has_its_own_files_and_nothing_of_the_machines_network",
        |p| run(p, surroundings),
    ),
    ("a_failing_container_is_restarted", |p| run(p, restarts)),
    ("a_job_ends_and_so_does_its_proxy", |p| run(p, job)),
    ("probes_decide_readiness_and_restarts", |p| run(p, probes)),
    ("deployments_roll_without_a_gap", |p| run(p, rolling)),
    ("containers_begin_and_end_in_their_order", |p| {
        run(p, manifests::lifecycle)
    }),
    ("volumes_and_environment_are_as_the_manifest_says", |p| {
        run(p, manifests::volumes)
    }),
    ("a_program_that_is_not_here_is_explained", |p| {
        run(p, manifests::missing_program)
    }),
    ("nothing_is_left_when_the_supervisor_is_killed", |p| {
        run(p, killed)
    }),
    ("services_work_with_iptables-nft-restore", |p| {
        run_by(PacketFilter::IptablesNft, p, services)
    }),
    ("services_work_with_iptables-legacy-restore", |p| {
        run_by(PacketFilter::IptablesLegacy, p, services)
    }),
    ("flushed_services_are_set_anew_with_nft", |p| {
        run_by(PacketFilter::Nftables, p, flushed)
    }),
    ("refusal_works_with_iptables-legacy-restore", |p| {
        run_by(PacketFilter::IptablesLegacy, p, refused)
    }),
    ("redirection_works_with_iptables-nft-restore", |p| {
        run_by(PacketFilter::IptablesNft, p, redirection)
    }),
    ("redirection_works_with_iptables-legacy-restore", |p| {
        run_by(PacketFilter::IptablesLegacy, p, redirection)
    }),
    ("transparent_redirection_keeps_addresses", |p| {
        run(p, transparency)
    }),
    (
        "transparent_redirection_works_with_iptables-nft-restore",
        |p| run_by(PacketFilter::IptablesNft, p, transparency),
    ),
    (
        "transparent_redirection_works_with_iptables-legacy-restore",
        |p| run_by(PacketFilter::IptablesLegacy, p, transparency),
    ),
];

/// The program that a scenario needs, as its name says.
pub(crate) fn needs(name: &str) -> Option<&str> {
    name.split_once("_with_").map(|(_, tool)| tool)
}

/// `scenario NAME STATE`, or `scenario exec STATE NAMESPACE POD CONTAINER COMMAND…`.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let (name, state) = (&arguments[0], Path::new(&arguments[1]));
    if name == "exec" {
        return exec_in(state, &arguments[2..]);
    }
    let Some((_, scenario)) = ALL.iter().find(|(own, _)| own == name) else {
        return ExitCode::FAILURE;
    };
    scenario(state);
    ExitCode::SUCCESS
}

fn exec_in(state: &Path, arguments: &[String]) -> ExitCode {
    let text = std::fs::read(state.join("run/containers.json")).unwrap();
    let pods: Vec<PodProcesses> = serde_json::from_slice(&text).unwrap();
    let pod = pods
        .iter()
        .find(|p| p.namespace == arguments[0] && p.pod == arguments[1])
        .unwrap();
    let status =
        exec::run(pod, &arguments[2], &arguments[3..], None).unwrap_or_else(|e| panic!("{e:?}"));
    ExitCode::from(u8::try_from(status.code().unwrap_or(255)).unwrap())
}

const SELF: [&str; 2] = ["/proc/self/exe", "app"];

/// A pod of the service `server`, which answers with its name.
fn server(name: &str, number: u8) -> PodPlan {
    let mut plan = pod(name, number, PodRole::Plain, &["echo", "8080"]);
    plan.labels.insert("app".to_owned(), "server".to_owned());
    plan
}

async fn services(mut world: World) {
    let udp = pod("udp", 13, PodRole::Plain, &["udp-echo", "8080"]);
    let client = pod("client", 10, PodRole::Plain, &["sleep"]);
    world.want(Desired {
        pods: vec![server("server-a", 11), server("server-b", 12), udp, client],
        services: vec![
            service("server", 1, Protocol::Tcp),
            service("udp", 2, Protocol::Udp),
        ],
        ..Desired::default()
    });
    let pods = world.until_ready(4).await;
    let client = pods.iter().find(|p| p.name == "client").unwrap();
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer = world.exec(client, "app", &[SELF[0], SELF[1], "call", "10.96.1.1:80"]);
        assert!(answer.contains("peer=10.244.1.10"), "{answer}");
        reached.insert(
            answer
                .split_whitespace()
                .nth(1)
                .unwrap_or_default()
                .to_owned(),
        );
    }
    assert_eq!(reached.len(), 2, "both endpoints take part: {reached:?}");
    // From the node itself, over UDP, and a pod to itself through the service.
    assert!(
        call(at(vip(1), 80), None)
            .unwrap()
            .starts_with("app pod=server-")
    );
    assert_eq!(call_udp((vip(2), 80)).unwrap(), "udp");
    world.want(Desired {
        pods: vec![server("server-a", 11)],
        services: vec![service("server", 1, Protocol::Tcp)],
        ..Desired::default()
    });
    let pods = world.until_ready(1).await;
    let answer = world.exec(&pods[0], "app", &[SELF[0], SELF[1], "call", "10.96.1.1:80"]);
    assert!(
        answer.contains("pod=server-a"),
        "through the service to itself: {answer}"
    );
    world.shutdown().await;
}

/// Somebody in the node's network flushes all rules, as firewalls do when they start; the next change sets them anew.
async fn flushed(mut world: World) {
    let desired = |pods| Desired {
        pods,
        services: vec![service("server", 1, Protocol::Tcp)],
        ..Desired::default()
    };
    world.want(desired(vec![server("server-a", 11)]));
    world.until_ready(1).await;
    call(at(vip(1), 80), None).expect("it is served");
    let mut nft = std::process::Command::new("nft");
    let status = nft.args(["flush", "ruleset"]).status().unwrap();
    assert!(status.success());
    call_once(at(vip(1), 80), None).expect_err("nothing leads there");
    world.want(desired(vec![
        server("server-a", 11),
        server("server-b", 12),
    ]));
    world.until_ready(2).await;
    let answer = call(at(vip(1), 80), None).expect("it is served again");
    assert!(answer.starts_with("app pod=server-"), "{answer}");
    world.shutdown().await;
}

async fn refused(mut world: World) {
    world.want(Desired {
        pods: vec![pod("client", 10, PodRole::Plain, &["sleep"])],
        services: vec![service("nobody", 1, Protocol::Tcp)],
        ..Desired::default()
    });
    let pods = world.until_ready(1).await;
    let answer = world.exec(&pods[0], "app", &[SELF[0], SELF[1], "call", "10.96.1.1:80"]);
    assert!(answer.contains("refused"), "{answer}");
    let error = call(at(vip(1), 80), None).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "{error}"
    );
    world.shutdown().await;
}

async fn redirection(mut world: World) {
    let mut meshed = pod("meshed", 11, PodRole::Sidecar, &["echo", "8080"]);
    meshed = edit(meshed, |spec| {
        spec.containers.push(container("other", &["echo", "9999"]))
    });
    let annotation = |name: &str| format!("traffic.sidecar.istio.io/{name}");
    meshed
        .annotations
        .insert(annotation("excludeInboundPorts"), "9999".to_owned());
    meshed
        .annotations
        .insert(annotation("excludeOutboundPorts"), "7777".to_owned());
    meshed.annotations.insert(
        annotation("excludeOutboundIPRanges"),
        "10.244.1.12/32".to_owned(),
    );
    let plain = pod("plain", 12, PodRole::Plain, &["echo", "8080"]);
    let other = pod("excluded", 13, PodRole::Plain, &["echo", "7777"]);
    world.want(Desired {
        pods: vec![meshed, plain, other],
        ..Desired::default()
    });
    let pods = world.until_ready(3).await;
    let meshed = pods.iter().find(|p| p.name == "meshed").unwrap();
    let from = |container: &str, how: &str, to: &str| {
        world.exec(meshed, container, &[SELF[0], SELF[1], how, to])
    };
    let is =
        |answer: String, wanted: &str| assert!(answer.starts_with(wanted), "{wanted}: {answer}");
    // Inbound.
    is(
        call(at(meshed.ipv4, 8080), None).unwrap(),
        "inbound pod=meshed",
    );
    assert!(
        call(at(meshed.ipv4, 8080), None)
            .unwrap()
            .contains("original=10.244.1.11:8080")
    );
    is(call(at(meshed.ipv4, 9999), None).unwrap(), "app");
    // Outbound.
    let outbound = from("app", "call", "10.96.1.99:80");
    assert!(
        outbound.starts_with("outbound") && outbound.contains("original=10.96.1.99:80"),
        "{outbound}"
    );
    is(from("app", "call", "10.244.1.13:7777"), "app pod=excluded");
    is(from("app", "call", "10.244.1.12:8080"), "app pod=plain");
    is(from("app", "call", "10.96.0.10:53"), "dns");
    // The application to itself: on loopback and by the pod's address.
    is(from("app", "call", "127.0.0.1:8080"), "app");
    is(from("app", "call", "10.244.1.11:8080"), "app");
    // The proxy: out directly, to its own pod through its inbound side.
    is(
        from("istio-proxy", "call-marked", "10.244.1.13:7777"),
        "app pod=excluded",
    );
    is(
        from("istio-proxy", "call-marked", "10.244.1.11:8080"),
        "inbound",
    );
    is(from("istio-proxy", "call-marked", "127.0.0.1:8080"), "app");
    world.shutdown().await;
}

/// With TPROXY the proxy is connected to by the application's address, and can connect to the application by its client's.
async fn transparency(mut world: World) {
    let mut meshed = pod("meshed", 11, PodRole::Sidecar, &["echo", "8080"]);
    let mode = "sidecar.istio.io/interceptionMode".to_owned();
    meshed.annotations.insert(mode, "TPROXY".to_owned());
    let plain = pod("plain", 12, PodRole::Plain, &["echo", "8080"]);
    world.want(Desired {
        pods: vec![meshed, plain],
        ..Desired::default()
    });
    let pods = world.until_ready(2).await;
    let by_name = |name: &str| pods.iter().find(|p| p.name == name).unwrap();
    let (meshed, plain) = (by_name("meshed"), by_name("plain"));
    let call = |pod, container: &str, words: &[&str]| {
        world.exec(pod, container, &[&SELF[..], words].concat())
    };
    let inbound = call(plain, "app", &["call", "10.244.1.11:8080"]);
    assert!(
        inbound.starts_with("inbound")
            && inbound.contains("local=10.244.1.11:8080 peer=10.244.1.12"),
        "{inbound}"
    );
    let as_client = ["call-as", "10.244.1.12:20000", "10.244.1.11:8080"];
    let passed_on = call(meshed, "istio-proxy", &as_client);
    assert!(
        passed_on.starts_with("app") && passed_on.contains("peer=10.244.1.12"),
        "{passed_on}"
    );
    // As without: out by the proxy, the pod to itself directly, the proxy to its own pod by its inbound side.
    let outbound = call(meshed, "app", &["call", "10.96.1.99:80"]);
    assert!(outbound.starts_with("outbound"), "{outbound}");
    let onward = call(meshed, "istio-proxy", &["call-marked", "10.244.1.12:8080"]);
    assert!(onward.starts_with("app pod=plain"), "{onward}");
    let itself = call(meshed, "app", &["call", "10.244.1.11:8080"]);
    assert!(itself.starts_with("app"), "{itself}");
    let own = call(meshed, "istio-proxy", &["call-marked", "10.244.1.11:8080"]);
    assert!(
        own.starts_with("inbound") && own.contains("original=10.244.1.11:8080"),
        "{own}"
    );
    world.shutdown().await;
}

/// A pod whose volumes lie where the machine has nothing, and where it has the state directory.
fn pod_with_volumes() -> PodPlan {
    edit(pod("pod", 11, PodRole::Sidecar, &["sleep"]), |spec| {
        let volume = |name: &str| Volume {
            name: name.to_owned(),
            ..Volume::default()
        };
        for name in ["scratch", "temporary"] {
            spec.volumes.push(Volume {
                empty_dir: Some(Default::default()),
                ..volume(name)
            });
        }
        let config_map = ConfigMapVolumeSource {
            name: "settings".to_owned(),
            ..Default::default()
        };
        spec.volumes.push(Volume {
            config_map: Some(config_map),
            ..volume("settings")
        });
        for (name, path) in [
            ("temporary", "/tmp"),
            ("scratch", "/made/up/scratch"),
            ("settings", "/etc/app/settings"),
        ] {
            let (name, mount_path) = (name.to_owned(), path.to_owned());
            spec.containers[0].volume_mounts.push(VolumeMount {
                name,
                mount_path,
                ..Default::default()
            });
        }
    })
}

async fn surroundings(mut world: World) {
    let settings = std::collections::BTreeMap::from([("a".to_owned(), b"1".to_vec())]);
    let key = ("default".to_owned(), "settings".to_owned());
    let mut desired = Desired {
        pods: vec![pod_with_volumes()],
        ..Desired::default()
    };
    desired.config_maps.insert(key.clone(), settings.into());
    world.want(desired.clone());
    let pods = world.until_ready(1).await;
    let sh =
        |container: &str, script: &str| world.exec(&pods[0], container, &["/bin/sh", "-c", script]);
    assert_eq!(sh("app", "hostname; cat /etc/hostname"), "pod\npod\n");
    assert!(sh("app", "cat /etc/resolv.conf").contains("nameserver 10.96.0.10\noptions ndots:5"));
    assert!(sh("app", "cat /etc/hosts").contains("10.244.1.11\tpod"));
    assert_eq!(sh("app", "ls -A /tmp; pwd"), "/\n");
    assert_eq!(
        sh(
            "app",
            "ls /sys/class/net 2>/dev/null | wc -l; cat /proc/net/dev | grep -c :"
        )
        .lines()
        .last(),
        Some("2")
    );
    assert_eq!(
        sh(
            "app",
            "echo x > /made/up/scratch/f && cat /made/up/scratch/f /etc/app/settings/a"
        ),
        "x\n1"
    );
    assert!(
        sh("app", "ls /etc /usr/bin | grep -c .")
            .trim()
            .parse::<u32>()
            .unwrap()
            > 50
    );
    assert!(sh("app", "cat /var/run/secrets/tokens/istio-token").contains("No such file"));
    assert_eq!(
        sh("istio-proxy", "cat /var/run/secrets/tokens/istio-token"),
        "token of pod"
    );
    assert_eq!(
        sh("istio-proxy", "cat /var/run/secrets/istio/root-cert.pem"),
        "root"
    );
    assert_eq!(sh("app", "echo $POD_NAME$HOSTNAME"), "pod\n");
    assert!(!Path::new("/made").exists() && !Path::new("/etc/app").exists());
    // An edit of a ConfigMap reaches the pod; nothing else changes.
    let edited = std::collections::BTreeMap::from([("a".to_owned(), b"2".to_vec())]);
    desired.config_maps.insert(key, edited.into());
    world.want(desired);
    for _ in 0..100 {
        if sh("app", "cat /etc/app/settings/a") == "2" {
            return world.shutdown().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the edit has not arrived");
}

async fn restarts(mut world: World) {
    world.want(Desired {
        pods: vec![pod("failing", 11, PodRole::Plain, &["exit", "3"])],
        ..Desired::default()
    });
    let pods = world
        .until("it backs off", |pods| {
            pods.iter()
                .any(|p| p.containers[0].status == "CrashLoopBackOff")
        })
        .await;
    assert_eq!(pods[0].containers[0].restarts, 1);
    assert_eq!(pods[0].containers[0].exit_code, Some(3));
    assert!(!pods[0].ready);
    world.shutdown().await;
}

async fn job(mut world: World) {
    let mut plan = pod("job", 11, PodRole::Sidecar, &["exit", "0"]);
    plan.owner.kind = "Job".to_owned();
    let plan = edit(plan, |spec| {
        spec.restart_policy = "Never".to_owned();
        spec.init_containers
            .push(container("first", &["exit", "0"]));
    });
    world.want(Desired {
        pods: vec![plan],
        ..Desired::default()
    });
    let pods = world
        .until("it succeeds", |pods| {
            pods.iter().any(|p| p.phase == Phase::Succeeded)
        })
        .await;
    assert_eq!(pods[0].pid, None);
    let app = pods[0].containers.iter().find(|c| c.name == "app").unwrap();
    assert_eq!((app.status.as_str(), app.exit_code), ("Completed", Some(0)));
    world.shutdown().await;
}

async fn probes(mut world: World) {
    let file = world.state.root().join("good");
    let name = file.display().to_string();
    let plan = edit(
        pod("probed", 11, PodRole::Plain, &["health", "8080", &name]),
        |spec| {
            let port = IntOrString::String("http".to_owned());
            let http_get = Some(HttpGetAction {
                path: "/".to_owned(),
                port,
                ..Default::default()
            });
            let seconds = |n| Some(n);
            spec.containers[0].readiness_probe = Some(Probe {
                http_get,
                period_seconds: seconds(1),
                failure_threshold: Some(1),
                ..Default::default()
            });
            let command = vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                format!("! test -e {name}.dead"),
            ];
            spec.containers[0].liveness_probe = Some(Probe {
                exec: Some(ExecAction { command }),
                period_seconds: seconds(1),
                failure_threshold: Some(1),
                ..Default::default()
            });
        },
    );
    world.want(Desired {
        pods: vec![plan],
        ..Desired::default()
    });
    world
        .until("it runs", |pods| {
            pods.iter().any(|p| p.phase == Phase::Running && !p.ready)
        })
        .await;
    std::fs::write(&file, "").unwrap();
    world.until_ready(1).await;
    std::fs::remove_file(&file).unwrap();
    world
        .until("it is not ready", |pods| pods.iter().all(|p| !p.ready))
        .await;
    std::fs::write(&file, "").unwrap();
    world.until_ready(1).await;
    std::fs::write(format!("{name}.dead"), "").unwrap();
    let pods = world
        .until("it is restarted", |pods| pods[0].containers[0].restarts > 0)
        .await;
    assert_eq!(pods[0].containers[0].exit_code, Some(128 + 15));
    world.shutdown().await;
}

async fn rolling(mut world: World) {
    let replica = |version: u64, number: u8| {
        let mut plan = pod(
            &format!("web-{version}-{number}"),
            number + 10 * version as u8,
            PodRole::Plain,
            &["echo", "8080"],
        );
        plan.owner.name = "web".to_owned();
        plan.template_hash = version;
        plan.labels.insert("app".to_owned(), "web".to_owned());
        edit(plan, |spec| {
            let port = IntOrString::Int(8080);
            let tcp_socket = Some(TcpSocketAction {
                port,
                ..Default::default()
            });
            spec.containers[0].readiness_probe = Some(Probe {
                tcp_socket,
                ..Default::default()
            });
        })
    };
    let version = |version, count: u8| Desired {
        pods: (0..count).map(|number| replica(version, number)).collect(),
        services: vec![service("web", 1, Protocol::Tcp)],
        ..Desired::default()
    };
    world.want(version(1, 2));
    world.until_ready(2).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let caller = tokio::task::spawn_blocking(move || {
        let mut calls = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            call_once(at(vip(1), 80), None).unwrap_or_else(|e| panic!("call {calls}: {e}"));
            calls += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        calls
    });
    world.want(version(2, 2));
    let new = |pods: &[lateen_sources::plan::PodState]| {
        pods.len() == 2 && pods.iter().all(|p| p.ready && p.template_hash == 2)
    };
    world.until("the new version runs alone", new).await;
    world.want(version(2, 1));
    world.until_ready(1).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(caller.await.unwrap() > 10);
    world.shutdown().await;
}

async fn killed(mut world: World) {
    let pods = vec![
        pod("meshed", 11, PodRole::Sidecar, &["sleep"]),
        pod("plain", 12, PodRole::Plain, &["sleep"]),
    ];
    world.want(Desired {
        pods,
        ..Desired::default()
    });
    world.until_ready(2).await;
    println!("ready");
    tokio::time::sleep(Duration::from_secs(40)).await;
}
