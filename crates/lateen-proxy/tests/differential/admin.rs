//! The admin interface of both proxies, with the same configuration and after the same request: the same pages, refusals and shapes.
//!
//! Values differ (addresses, times, versions), and so does what only one of the two has; what is compared is what scripts and `istioctl`
//! read: status, fields, names of counters, the form of lines.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::envoy::{self, Envoy};
use super::resources;
use super::support::{Running, backend, get, hcm, route_to, start_with, text};

/// Levels that a proxy of a test has.
#[derive(Debug)]
struct Levels;

impl lateen_proxy::LogControl for Levels {
    fn level(&self, _logger: &str) -> String {
        "warning".to_owned()
    }

    fn set(&self, _logger: Option<&str>, _level: &str) {}
}

/// One of the two, as its admin port shows it.
#[derive(Clone, Copy)]
struct Admin(SocketAddr);

impl Admin {
    fn ask(self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked {
            envoy::unchunked(body)
        } else {
            body.to_owned()
        };
        (status, body)
    }

    fn json(self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    fn lines(self, path: &str) -> Vec<String> {
        self.ask("GET", path).1.lines().map(str::to_owned).collect()
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    value
        .as_object()
        .map(|fields| fields.keys().cloned().collect())
        .unwrap_or_default()
}

/// What our proxy has that Envoy has not; empty is what it should be.
fn more(ours: &BTreeSet<String>, envoys: &BTreeSet<String>) -> Vec<String> {
    ours.difference(envoys).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_pages_have_the_same_shape() {
    let Some(binary) = envoy::binary() else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED the comparison of admin pages: no Envoy here"
        );
        return;
    };
    let address = backend(|_| async { text("ok") }).await;
    let listener = json!({
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [hcm(route_to("up", json!({})), json!({}))]}],
    });
    let cluster = json!({
        "name": "up", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()}}}}]}]},
    });
    let directory = std::env::temp_dir().join(format!("lateen-admin-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (home, lds, cds) = (directory.clone(), listener.clone(), cluster.clone());
    let started =
        tokio::task::spawn_blocking(move || Envoy::start(&binary, &home, &[lds], &[cds])).await;
    let envoy = started.unwrap();
    let lateen: Running = start_with(
        vec![
            resources::typed(listener, "listener.v3.Listener"),
            resources::typed(cluster, "cluster.v3.Cluster"),
        ],
        None,
        |config| config.log_control = Some(Arc::new(Levels)),
    )
    .await;
    for to in [envoy.listeners()["in"], lateen.address("in")] {
        assert_eq!(get(to, "/").await.0, 200);
    }
    let (theirs, ours) = (
        Admin(envoy.admin()),
        Admin(lateen.handle.admin_address().unwrap()),
    );
    tokio::task::spawn_blocking(move || compare(theirs, ours))
        .await
        .unwrap();
    lateen.handle.shutdown().await;
    drop(envoy);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn compare(envoy: Admin, lateen: Admin) {
    texts(envoy, lateen);
    objects(envoy, lateen);
    hosts(envoy, lateen);
    statistics(envoy, lateen);
    dumps(envoy, lateen);
    statuses(envoy, lateen);
    resets(envoy, lateen);
}

/// After `/reset_counters`.
fn resets(envoy: Admin, lateen: Admin) {
    for admin in [envoy, lateen] {
        let all = admin.json("/stats?format=json&filter=%5Ehttp%5C.test%5C.downstream_rq_total");
        assert_eq!(all["stats"][0]["name"], "http.test.downstream_rq_total");
        assert_eq!(all["stats"][0]["value"], 0);
    }
}

/// Which pages there are, and which have to be asked for with POST.
fn statuses(envoy: Admin, lateen: Admin) {
    for (method, path) in [
        ("GET", "/ready"),
        ("GET", "/"),
        ("GET", "/help"),
        ("GET", "/nothing"),
        ("GET", "/quitquitquit"),
        ("GET", "/reset_counters"),
        ("GET", "/healthcheck/fail"),
        ("GET", "/drain_listeners"),
        ("GET", "/reopen_logs"),
        ("POST", "/reset_counters"),
        ("POST", "/reopen_logs"),
        ("GET", "/hot_restart_version"),
        ("GET", "/runtime"),
        ("GET", "/stats?filter=("),
        ("GET", "/config_dump?resource=nothing"),
        ("GET", "/config_dump?name_regex=("),
        ("POST", "/logging?level=nothing"),
        ("POST", "/logging?nothing=debug"),
    ] {
        let (their, our) = (envoy.ask(method, path), lateen.ask(method, path));
        assert_eq!(our.0, their.0, "{method} {path}: {} / {}", our.1, their.1);
    }
}

fn texts(envoy: Admin, lateen: Admin) {
    for path in ["/ready", "/hot_restart_version"] {
        let (their, our) = (envoy.ask("GET", path).1, lateen.ask("GET", path).1);
        assert_eq!(our.trim(), their.trim(), "{path}");
    }
    let commands = |admin: Admin| -> BTreeSet<String> {
        let lines = admin.lines("/help");
        let named = lines
            .iter()
            .filter_map(|line| line.strip_prefix("  /")?.split([':', ' ']).next());
        named.map(str::to_owned).collect()
    };
    assert_eq!(more(&commands(lateen), &commands(envoy)), [""; 0], "/help");
    let loggers = |admin: Admin| -> BTreeSet<String> {
        let text = admin.ask("POST", "/logging").1;
        assert!(text.starts_with("active loggers:\n  "), "{text}");
        let named = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split(':').next());
        named.map(|name| name.trim().to_owned()).collect()
    };
    // What Envoy has not is this proxy's own: its TLS.
    assert_eq!(more(&loggers(lateen), &loggers(envoy)), ["tls"], "/logging");
    for admin in [envoy, lateen] {
        let lines = admin.lines("/listeners");
        assert!(lines[0].starts_with("in::127.0.0.1:"), "{lines:?}");
    }
}

fn objects(envoy: Admin, lateen: Admin) {
    for path in ["/server_info", "/memory", "/runtime", "/certs"] {
        let (their, our) = (envoy.json(path), lateen.json(path));
        assert_eq!(more(&keys(&our), &keys(&their)), [""; 0], "{path}");
    }
    assert_eq!(
        lateen.json("/server_info")["state"],
        envoy.json("/server_info")["state"]
    );
    let status =
        |admin: Admin| admin.json("/listeners?format=json")["listener_statuses"][0].clone();
    assert_eq!(keys(&status(lateen)), keys(&status(envoy)), "/listeners");
    let socket = |status: Value| keys(&status["local_address"]["socket_address"]);
    assert_eq!(socket(status(lateen)), socket(status(envoy)), "/listeners");
}

/// `/clusters`, as text and as JSON.
fn hosts(envoy: Admin, lateen: Admin) {
    let of_hosts = |admin: Admin| -> BTreeSet<String> {
        let lines = admin.lines("/clusters");
        let fields = lines
            .iter()
            .filter_map(|line| line.strip_prefix("up::127.0.0.1:")?.split("::").nth(1));
        fields.map(str::to_owned).collect()
    };
    assert_eq!(of_hosts(lateen), of_hosts(envoy), "/clusters");
    let of_cluster = |admin: Admin| -> BTreeSet<String> {
        let lines = admin.lines("/clusters");
        let own = lines
            .iter()
            .filter(|line| !line.starts_with("up::127.0.0.1:"));
        own.filter_map(|line| line.rsplit_once("::").map(|(name, _)| name.to_owned()))
            .collect()
    };
    assert_eq!(
        more(&of_cluster(lateen), &of_cluster(envoy)),
        [""; 0],
        "/clusters"
    );
    let host = |admin: Admin| {
        let all = admin.json("/clusters?format=json");
        all["cluster_statuses"][0]["host_statuses"][0].clone()
    };
    let stats = |admin: Admin| -> BTreeSet<String> {
        let stats = host(admin)["stats"].as_array().unwrap().clone();
        let named = stats
            .iter()
            .map(|stat| format!("{} {}", stat["name"], stat["type"]));
        named.collect()
    };
    assert_eq!(stats(lateen), stats(envoy), "/clusters?format=json");
    assert_eq!(more(&keys(&host(lateen)), &keys(&host(envoy))), [""; 0]);
}

/// Every counter of ours is one of Envoy's, and means the same after the same request.
fn statistics(envoy: Admin, lateen: Admin) {
    let names = |admin: Admin, path: &str| -> BTreeSet<String> {
        let lines = admin.lines(path);
        let named = lines.iter().filter_map(|line| line.split_once(": "));
        named.map(|(name, _)| name.to_owned()).collect()
    };
    for filter in [
        "/stats?usedonly&type=Counters&filter=%5Ehttp%5C.test%5C.",
        "/stats?usedonly&type=Counters&filter=%5Ecluster%5C.up%5C.",
    ] {
        let ours = names(lateen, filter);
        assert!(ours.len() > 3, "{filter}: {ours:?}");
        assert_eq!(more(&ours, &names(envoy, filter)), [""; 0], "{filter}");
    }
    for admin in [envoy, lateen] {
        assert!(names(admin, "/stats?usedonly&filter=nothing_like_this").is_empty());
    }
}

fn dumps(envoy: Admin, lateen: Admin) {
    let types = |admin: Admin, path: &str| -> BTreeSet<String> {
        let configs = admin.json(path)["configs"].as_array().unwrap().clone();
        let named = configs
            .iter()
            .map(|config| config["@type"].as_str().unwrap().to_owned());
        named.collect()
    };
    for path in ["/config_dump", "/config_dump?include_eds"] {
        assert_eq!(
            more(&types(lateen, path), &types(envoy, path)),
            [""; 0],
            "{path}"
        );
    }
    let theirs = envoy.json("/config_dump?resource=static_clusters&mask=cluster.name");
    let ours = lateen.json("/config_dump?resource=dynamic_active_clusters&mask=cluster.name");
    assert_eq!(
        keys(&ours["configs"][0]["cluster"]),
        keys(&theirs["configs"][0]["cluster"])
    );
    assert_eq!(ours["configs"][0]["cluster"]["name"], "up");
    assert!(
        theirs["configs"][0]["@type"]
            .as_str()
            .unwrap()
            .ends_with("ClustersConfigDump.StaticCluster")
    );
    assert!(
        ours["configs"][0]["@type"]
            .as_str()
            .unwrap()
            .ends_with("ClustersConfigDump.DynamicCluster")
    );
}
