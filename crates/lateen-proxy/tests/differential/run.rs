//! Runs the corpus: both proxies, all files at the same time, the cases of a file in turn.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_proxy::resources_from_json;
use lateen_traffic::Program;
use lateen_traffic::program::Change;
use serde_json::Value;

use super::case::{Case, File};
use super::client::{Reply, exchange};
use super::compare::{Observed, differences, unexpected};
use super::envoy::Envoy;
use super::resources;
use super::stats::{self, Counters};
use super::support::start_with;
use super::upstream::Upstream;

/// How long hosts may still see requests (mirrors) after the last answer.
const SETTLE: Duration = Duration::from_millis(300);

/// Cases of a file up to which statistics are compared.
const MOST_COUNTED: usize = 120;
/// How often statistics that differ are looked at again, and after how long: copies and counters follow the answer.
const LOOKS: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(60);

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) failures: Vec<Failure>,
    pub(crate) known: usize,
}

/// A case in which the proxies are not as they should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) file: String,
    pub(crate) case: String,
    /// What is wrong, for people.
    pub(crate) wrong: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.case)?;
        for line in &self.wrong {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// What was asked through one proxy and came back; hosts' and log's part follows at the end.
struct Asked {
    replies: Vec<Reply>,
    from: Ipv4Addr,
    milliseconds: u64,
    counted: Value,
}

/// Where a proxy listens, and where its admin interface does.
struct Ports {
    listeners: HashMap<String, SocketAddr>,
    admin: SocketAddr,
}

/// Runs all files.
pub(crate) async fn all(binary: &Path, files: Vec<File>) -> Report {
    let directory =
        std::env::temp_dir().join(format!("lateen-differential-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let upstream = Upstream::start(&directory).await;
    let logs = ["envoy", "lateen"].map(|who| directory.join(format!("{who}.log.txt")));
    let [envoy_log, lateen_log] = logs.each_ref().map(|path| path.to_string_lossy());
    let clusters = resources::clusters(&files, &upstream);

    let listeners = resources::listeners(&files, &envoy_log);
    let (home, plain) = (directory.clone(), clusters.clone());
    let binary = binary.to_owned();
    let envoy =
        tokio::task::spawn_blocking(move || Envoy::start(&binary, &home, &listeners, &plain));
    let envoy = envoy.await.unwrap();

    let listeners = resources::listeners(&files, &lateen_log);
    let mut list: Vec<_> = listeners
        .into_iter()
        .map(|value| resources::typed(value, "listener.v3.Listener"))
        .collect();
    let typed = clusters.into_iter();
    list.extend(typed.map(|value| resources::typed(value, "cluster.v3.Cluster")));
    refuse_none(&list);
    let lateen = start_with(list, None, |config| {
        config.concurrency = 1;
        config.node.id = format!(
            "sidecar~{}~test.default~default.svc.cluster.local",
            own_address()
        );
    })
    .await;

    let at_envoy = envoy.listeners();
    let at_lateen: BTreeMap<String, SocketAddr> = lateen
        .handle
        .bound()
        .into_iter()
        .map(|(name, address)| (name.to_string(), address))
        .collect();
    let admins = (envoy.admin(), lateen.handle.admin_address().unwrap());
    let asked = ask_all(files, (&at_envoy, &at_lateen), admins).await;
    tokio::time::sleep(SETTLE).await;
    // Flushes what workers still hold.
    lateen.handle.shutdown().await;
    let logs = logs.map(|path| read_log(&path));
    let mut report = Report::default();
    for (file, case, envoy, lateen) in asked {
        let observe = |asked: Asked, who: &str, log: &HashMap<String, Vec<Vec<String>>>| Observed {
            replies: asked.replies,
            seen: upstream.seen(&key(who, &file, &case)),
            log: log
                .get(&asked.from.to_string())
                .cloned()
                .unwrap_or_default(),
            milliseconds: asked.milliseconds,
            counted: asked.counted,
        };
        let envoy = observe(envoy, "envoy", &logs[0]);
        let lateen = observe(lateen, "lateen", &logs[1]);
        judge(&file, &case, &envoy, &lateen, &mut report);
    }
    drop(envoy);
    let _ = std::fs::remove_dir_all(&directory);
    report
}

/// Our proxy refuses none of the resources.
fn refuse_none(list: &[serde_json::Value]) {
    for value in list {
        let one = resources_from_json(std::slice::from_ref(value)).unwrap();
        let changes: Vec<Change> = one
            .iter()
            .flat_map(|(ty, all)| all.values().map(move |one| Change::Upsert(ty, one.clone())))
            .collect();
        assert_eq!(
            Program::new().update(&changes).1,
            [],
            "resources are refused"
        );
    }
}

/// The machine's address as Envoy finds it, for clients on loopback. Nothing is sent to learn it.
fn own_address() -> std::net::IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let found = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    found.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

type AskedOfBoth = (String, Case, Asked, Asked);

async fn ask_all(
    files: Vec<File>,
    (at_envoy, at_lateen): (&BTreeMap<String, SocketAddr>, &BTreeMap<String, SocketAddr>),
    admins: (SocketAddr, SocketAddr),
) -> Vec<AskedOfBoth> {
    let mut tasks = Vec::new();
    for (number, file) in (0..).zip(files) {
        let addresses = |all: &BTreeMap<String, SocketAddr>| -> HashMap<String, SocketAddr> {
            let of = |name: &String| all.get(&resources::scoped(&file.name, name)).copied();
            file.listeners
                .keys()
                .filter_map(|name| Some((name.clone(), of(name)?)))
                .collect()
        };
        let (envoy, lateen) = (addresses(at_envoy), addresses(at_lateen));
        assert_eq!(
            lateen.len(),
            file.listeners.len(),
            "listeners of {}",
            file.name
        );
        let ports = |listeners, admin| Ports { listeners, admin };
        let (envoy, lateen) = (ports(envoy, admins.0), ports(lateen, admins.1));
        tasks.push(tokio::spawn(ask_file(file, number, envoy, lateen)));
    }
    let mut asked = Vec::new();
    for task in tasks {
        asked.extend(task.await.unwrap());
    }
    asked
}

async fn ask_file(file: File, number: u8, envoy: Ports, lateen: Ports) -> Vec<AskedOfBoth> {
    let mut asked = Vec::new();
    let first = match file.listeners.contains_key("main") {
        true => "main".to_owned(),
        false => file.listeners.keys().next().unwrap().clone(),
    };
    // Reading statistics costs more than most cases; files of hundreds go without.
    let counts = file.cases.len() < MOST_COUNTED;
    let mut counted = read_both(&envoy, &lateen, &file.name).await;
    for (index, case) in file.cases.into_iter().enumerate() {
        let from = Ipv4Addr::new(127, 100, number, u8::try_from(index + 1).unwrap());
        let listener = case.listener.as_ref().unwrap_or(&first);
        let (mut a, mut b) = tokio::join!(
            ask(
                envoy.listeners[listener],
                &case,
                key("envoy", &file.name, &case),
                from
            ),
            ask(
                lateen.listeners[listener],
                &case,
                key("lateen", &file.name, &case),
                from
            ),
        );
        if counts {
            let now = settled(&envoy, &lateen, &file.name, &counted).await;
            a.counted = stats::between(&counted.0, &now.0);
            b.counted = stats::between(&counted.1, &now.1);
            counted = now;
        }
        asked.push((file.name.clone(), case, a, b));
    }
    asked
}

/// The statistics once both have counted the same, or a while later.
async fn settled(
    envoy: &Ports,
    lateen: &Ports,
    file: &str,
    before: &(Counters, Counters),
) -> (Counters, Counters) {
    for _ in 0..LOOKS {
        let now = read_both(envoy, lateen, file).await;
        if stats::between(&before.0, &now.0) == stats::between(&before.1, &now.1) {
            return now;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    read_both(envoy, lateen, file).await
}

async fn read_both(envoy: &Ports, lateen: &Ports, file: &str) -> (Counters, Counters) {
    tokio::join!(
        stats::read(envoy.admin, file),
        stats::read(lateen.admin, file)
    )
}

fn key(who: &str, file: &str, case: &Case) -> String {
    let name: String = case
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    // As long for one as for the other, since lengths of heads are compared.
    format!("{who:-<6}/{file}/{name}")
}

async fn ask(address: SocketAddr, case: &Case, key: String, from: Ipv4Addr) -> Asked {
    let began = Instant::now();
    let requests: Arc<[_]> = case.send.as_slice().into();
    let mut replies = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..case.repeat {
        let (requests, key) = (Arc::clone(&requests), key.clone());
        let one = async move { exchange(address, &requests, &key, from).await };
        if case.parallel {
            tasks.push(tokio::spawn(one));
        } else {
            replies.extend(one.await);
        }
    }
    for task in tasks {
        replies.extend(task.await.unwrap());
    }
    Asked {
        replies,
        from,
        milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap(),
        counted: Value::Null,
    }
}

/// The log's lines by the client's address.
fn read_log(path: &Path) -> HashMap<String, Vec<Vec<String>>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    for line in text.lines() {
        let fields: Vec<String> = line.split('\u{1}').map(str::to_owned).collect();
        lines.entry(fields[0].clone()).or_default().push(fields);
    }
    lines
}

fn judge(file: &str, case: &Case, envoy: &Observed, lateen: &Observed, report: &mut Report) {
    let mut wrong = unexpected(case, "envoy", envoy);
    let excused = |at: &str| case.differs.iter().any(|known| at.starts_with(&known.at));
    let found = differences(case, envoy, lateen);
    // What is counted otherwise is no reason to answer otherwise.
    let counted = case
        .differs
        .iter()
        .all(|known| known.at.starts_with("stats"));
    if counted || case.expect.nothing {
        wrong.extend(unexpected(case, "lateen", lateen));
    }
    for difference in found.iter().filter(|difference| !excused(&difference.at)) {
        wrong.push(format!(
            "{}\n      envoy  {}\n      lateen {}",
            difference.at, difference.envoy, difference.lateen
        ));
    }
    for known in &case.differs {
        report.known += 1;
        let stale = !found
            .iter()
            .any(|difference| difference.at.starts_with(&known.at));
        if stale && !known.sometimes {
            wrong.push(format!(
                "{} no longer differs: take the excuse away",
                known.at
            ));
        }
        if known.because.len() < 10 {
            wrong.push("a difference needs a reason".to_owned());
        }
    }
    if !wrong.is_empty() {
        let (file, case) = (file.to_owned(), case.name.clone());
        report.failures.push(Failure { file, case, wrong });
    }
}
