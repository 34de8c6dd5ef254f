//! Scenarios that begin with a manifest, as users write them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lateen_api::{Resource, SourceFile, Spec};
use lateen_local::supervisor::Desired;
use lateen_sources::plan::{Phase, plan};

use crate::world::World;

/// What a mesh of these manifests is to run.
fn desired(yaml: &str) -> Desired {
    let parsed = lateen_api::parse_file(&SourceFile::new("manifest.yaml", yaml), "default");
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let (plan, found) = plan(&parsed.resources, false);
    assert!(found.is_empty(), "{found:?}");
    let mut desired = Desired {
        pods: plan.pods,
        ..Desired::default()
    };
    for resource in &parsed.resources {
        add_object(&mut desired, resource);
    }
    desired
}

fn add_object(desired: &mut Desired, resource: &Resource) {
    let key = (resource.meta.namespace.clone(), resource.meta.name.clone());
    let bytes = |map: &BTreeMap<String, String>| -> BTreeMap<String, Vec<u8>> {
        let pairs = map.iter();
        pairs
            .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
            .collect()
    };
    match &*resource.spec {
        Spec::ConfigMap(map) => {
            desired.config_maps.insert(key, bytes(&map.data).into());
        }
        Spec::Secret(secret) => {
            desired
                .secrets
                .insert(key, bytes(&secret.string_data).into());
        }
        _ => {}
    }
}

/// What containers have written so far, a word a line.
fn words(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn until_word(file: &Path, word: &str) {
    for _ in 0..500 {
        if words(file).iter().any(|own| own == word) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("`{word}` was not written: {:?}", words(file));
}

pub(crate) async fn lifecycle(mut world: World) {
    let file = world.state.root().join("words");
    let say = |word: &str| format!("echo {word} >> {}", file.display());
    // `wait` is what lets a shell hear a signal at once.
    let serve = |name: &str| {
        format!(
            "{}; trap '{}; exit 0' TERM; sleep 3600 & wait",
            say(&format!("{name}-begins")),
            say(&format!("{name}-ends"))
        )
    };
    let shell = |script: String| serde_json::json!(["/bin/sh", "-c", script]).to_string();
    let yaml = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: pod}}
spec:
  terminationGracePeriodSeconds: 10
  initContainers:
  - {{name: first, image: a, command: {first}}}
  - {{name: side, image: a, restartPolicy: Always, command: {side}}}
  - {{name: second, image: a, command: {second}}}
  containers:
  - name: main
    image: a
    command: {main}
    lifecycle:
      postStart: {{exec: {{command: {post}}}}}
      preStop: {{exec: {{command: {pre}}}}}
",
        first = shell(say("first")),
        side = shell(serve("side")),
        second = shell(say("second")),
        main = shell(serve("main")),
        post = shell(format!("sleep 0.2; {}", say("started"))),
        pre = shell(say("stopping")),
    );
    world.want(desired(&yaml));
    world.until_ready(1).await;
    until_word(&file, "started").await;
    world.want(Desired::default());
    world.until("the pod has ended", <[_]>::is_empty).await;
    let order = words(&file);
    let at = |word: &str| {
        order
            .iter()
            .position(|own| own == word)
            .unwrap_or_else(|| panic!("{word}: {order:?}"))
    };
    for pair in [
        ["first", "side-begins"],
        ["first", "second"],
        ["second", "main-begins"],
        ["main-begins", "started"],
        ["started", "stopping"],
        ["stopping", "main-ends"],
        ["main-ends", "side-ends"],
    ] {
        assert!(at(pair[0]) < at(pair[1]), "{pair:?}: {order:?}");
    }
    world.shutdown().await;
}

const VOLUMES: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {app.conf: 'size=3', other: x}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: s3cret, user: bob}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, labels: {app: shop}, annotations: {team: blue}}
spec:
  serviceAccountName: shopper
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, items: [{key: password, path: deep/pass}]}}
  - {name: shared, emptyDir: {}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  initContainers:
  - name: writer
    image: a
    command: ['/bin/sh', '-c', 'mkdir -p /out/pod; echo made > /out/pod/file']
    volumeMounts: [{name: shared, mountPath: /out}]
  containers:
  - name: app
    image: a
    command: ['/bin/sh', '-c', 'sleep 3600']
    envFrom:
    - {prefix: CFG_, configMapRef: {name: settings}}
    - {secretRef: {name: keys}}
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: TEAM, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['team']\"}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: GREETING, value: 'I am $(POD)'}
    - {name: ONE, valueFrom: {secretKeyRef: {name: keys, key: user}}}
    - {name: NONE, valueFrom: {configMapKeyRef: {name: absent, key: a, optional: true}}}
    volumeMounts:
    - {name: settings, mountPath: /etc/app.conf, subPath: app.conf}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: shared, mountPath: /in, subPathExpr: $(POD)}
    - {name: about, mountPath: /about}
";

pub(crate) async fn volumes(mut world: World) {
    world.want(desired(VOLUMES));
    let pods = world.until_ready(1).await;
    let sh = |script: &str| world.exec(&pods[0], "app", &["/bin/sh", "-c", script]);
    assert_eq!(sh("cat /etc/app.conf"), "size=3");
    assert_eq!(
        sh("ls -d /etc/passwd"),
        "/etc/passwd\n",
        "a file is mounted, not its directory"
    );
    assert_eq!(sh("cat /keys/deep/pass"), "s3cret");
    assert!(sh("echo x > /keys/deep/pass").contains("Read-only"));
    assert_eq!(sh("cat /in/file"), "made\n");
    assert_eq!(sh("cat /about/labels"), "app=\"shop\"\n");
    assert_eq!(
        sh("echo $POD $TEAM $ACCOUNT $GREETING"),
        "pod blue shopper I am pod\n"
    );
    assert_eq!(
        sh("echo $ONE $password $CFG_other [$NONE]"),
        "bob s3cret x []\n"
    );
    assert_eq!(sh("echo $ADDRESS"), format!("{}\n", pods[0].ipv4));
    world.shutdown().await;
}

pub(crate) async fn missing_program(mut world: World) {
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  restartPolicy: Never
  containers: [{name: app, image: 'example.com/web:2', command: [gunicorn-of-nowhere, --workers, '2']}]
";
    world.want(desired(yaml));
    world
        .until("it fails", |pods| {
            pods.iter().any(|p| p.phase == Phase::Failed)
        })
        .await;
    let log = world.state.pod_logs("default", "pod").join("app.log");
    let log = std::fs::read_to_string(&log).unwrap();
    for part in ["`gunicorn-of-nowhere`", "`example.com/web:2`", "install it"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    world.shutdown().await;
}
