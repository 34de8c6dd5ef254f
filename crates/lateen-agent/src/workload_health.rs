//! Whether the workload is well, for the control plane: workloads that are no pods have no kubelet that probes them.
//!
//! The probe is ProxyConfig's `readinessProbe`. Only changes are told, by a request of type `istio.v1.HealthInformation` on a stream of
//! its own, and the last word again on each new stream. Thresholds count in a row.
//!
//! Source: Istio, `pkg/istio-agent/health`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::DiscoveryRequest;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::pb::google::rpc::Status as RpcStatus;
use lateen_xds::HEALTH_INFORMATION;
use serde_json::{Map, Value};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::data_plane::DataPlane;
use crate::status::{Action, ProbeError, Prober, WrittenProbe, probe};

/// The first wait before a stream is tried again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// What Istio's agent says with an unhealthy workload: HTTP's 500.
const UNHEALTHY: i32 = 500;
/// Much of what a failing command says, in bytes.
const MAX_OUTPUT: usize = 1024;

/// What is known of the workload: nothing yet, that it is well, or what is wrong.
type Health = Option<Result<(), Arc<str>>>;

/// A probe of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadProbe {
    check: Check,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    /// A request, a connection or a call, to an address or the machine's own.
    Network(Option<IpAddr>, Action),
    /// A command that ends with 0.
    Command(Vec<String>),
}

impl WorkloadProbe {
    /// Reads a ProxyConfig's `readinessProbe`; none if there is none.
    ///
    /// # Errors
    /// It is not exactly one of the four kinds, or its port is none.
    pub fn read(config: &Map<String, Value>) -> Result<Option<Self>, ProbeError> {
        let Some(written) = config.get("readinessProbe").and_then(Value::as_object) else {
            return Ok(None);
        };
        let number = |name: &str, default: u64| match written.get(name).and_then(Value::as_u64) {
            None | Some(0) => default,
            Some(number) => number.min(24 * 3600),
        };
        let seconds = |name, default| Duration::from_secs(number(name, default));
        let count = |name| u32::try_from(number(name, 1)).unwrap_or(1);
        let timeout = seconds("timeoutSeconds", 1);
        Ok(Some(Self {
            check: check(written)?,
            initial_delay: seconds("initialDelaySeconds", 0),
            period: seconds("periodSeconds", 10),
            timeout,
            successes: count("successThreshold"),
            failures: count("failureThreshold"),
        }))
    }

    /// Asks once.
    async fn ask(&self, own: IpAddr) -> Result<(), String> {
        let asked = tokio::time::timeout(self.timeout, self.carry_out(own));
        let timeout = self.timeout;
        asked
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    async fn carry_out(&self, own: IpAddr) -> Result<(), String> {
        match &self.check {
            Check::Network(address, action) => {
                let prober = Prober {
                    action: action.clone(),
                    timeout: self.timeout,
                };
                let to = address.unwrap_or(own);
                let answer = probe::carry_out(to, &prober, &HeaderMap::new()).await;
                let status = answer.status();
                match status.is_success() || status.is_redirection() {
                    true => Ok(()),
                    false => Err(probe::said(answer).await),
                }
            }
            Check::Command(argv) => command(argv).await,
        }
    }
}

fn check(written: &Map<String, Value>) -> Result<Check, ProbeError> {
    const NAME: &str = "readinessProbe";
    let kind = || ProbeError::Kind(NAME.to_owned());
    if let Some(exec) = written.get("exec") {
        let words = exec.get("command").and_then(Value::as_array);
        let words = words
            .into_iter()
            .flatten()
            .map(|word| word.as_str().map(str::to_owned));
        let argv: Option<Vec<String>> = words.collect();
        let argv = argv.filter(|argv| !argv.is_empty());
        return argv.map(Check::Command).ok_or_else(kind);
    }
    let mut probe = WrittenProbe::read(&Value::Object(written.clone()))?;
    // A host that is an address is where to ask; a name is whom to ask for.
    let address = probe.take_address();
    Ok(Check::Network(address, probe.action(NAME)?))
}

async fn command(argv: &[String]) -> Result<(), String> {
    let (program, arguments) = argv.split_first().ok_or("the command is empty")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|error| format!("cannot run `{program}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = output
        .stderr
        .get(..output.stderr.len().min(MAX_OUTPUT))
        .unwrap_or_default();
    Err(format!(
        "`{program}`: {}: {}",
        output.status,
        String::from_utf8_lossy(said).trim()
    ))
}

/// Counts answers in a row until they are enough to change one's mind.
#[derive(Debug, Default)]
struct Thresholds {
    successes: u32,
    failures: u32,
}

impl Thresholds {
    /// The new state, if this answer makes one. `last` is the state before.
    fn count(
        &mut self,
        probe: &WorkloadProbe,
        last: &Health,
        answer: Result<(), String>,
    ) -> Health {
        match answer {
            Ok(()) => {
                (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
                let enough = self.successes >= probe.successes && !matches!(last, Some(Ok(())));
                enough.then_some(Ok(()))
            }
            Err(why) => {
                (self.failures, self.successes) = (self.failures.saturating_add(1), 0);
                let enough = self.failures >= probe.failures && !matches!(last, Some(Err(_)));
                enough.then(|| Err(why.into()))
            }
        }
    }
}

/// Probes the workload, and tells the control plane of each change, until it is dropped. The workload is not well while its proxy is not
/// ready.
pub(crate) async fn run(
    probe: WorkloadProbe,
    own: IpAddr,
    proxy: Arc<dyn DataPlane>,
    channel: Channel,
    node: Node,
) {
    let (sender, states) = watch::channel(None);
    tokio::join!(
        watch_over(&probe, own, &*proxy, &sender),
        report(channel, node, states)
    );
}

async fn watch_over(
    probe: &WorkloadProbe,
    own: IpAddr,
    proxy: &dyn DataPlane,
    states: &watch::Sender<Health>,
) {
    let mut ticks = tokio::time::interval_at(Instant::now() + probe.initial_delay, probe.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut thresholds = Thresholds::default();
    loop {
        ticks.tick().await;
        let answer = match proxy.ready().await {
            Ok(()) => probe.ask(own).await,
            Err(not_ready) => Err(not_ready.to_string()),
        };
        let last = states.borrow().clone();
        if let Some(next) = thresholds.count(probe, &last, answer) {
            match &next {
                Ok(()) => tracing::info!("the workload is well"),
                Err(why) => tracing::warn!(%why, "the workload is not well"),
            }
            states.send_replace(Some(next));
        }
    }
}

/// Keeps a stream open and says on it how the workload is.
async fn report(channel: Channel, node: Node, mut states: watch::Receiver<Health>) {
    if states.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut wait = BACKOFF.0;
    loop {
        let started = Instant::now();
        let ended = stream(channel.clone(), &node, &mut states).await;
        if let Err(status) = ended {
            tracing::info!(code = ?status.code(), message = status.message(), "health stream ended");
        }
        if started.elapsed() > BACKOFF.1 {
            wait = BACKOFF.0;
        }
        tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// One stream. Servers may never answer on it, not even with headers, so that the call is waited for beside saying.
async fn stream(
    channel: Channel,
    node: &Node,
    states: &mut watch::Receiver<Health>,
) -> Result<(), Status> {
    // A change that nobody takes waits, and the next one with it.
    let (requests, queue) = mpsc::channel(1);
    let first = request(&states.borrow_and_update(), Some(node.clone()));
    let call = async {
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answer = client
            .stream_aggregated_resources(ReceiverStream::new(queue))
            .await?;
        let mut responses = answer.into_inner();
        while responses.message().await?.is_some() {}
        Ok(())
    };
    let say = async {
        let mut next = Some(first);
        loop {
            if let Some(request) = next.take()
                && requests.send(request).await.is_err()
            {
                return;
            }
            if states.changed().await.is_err() {
                return;
            }
            next = Some(request(&states.borrow_and_update(), None));
        }
    };
    tokio::select! {
        ended = call => ended,
        () = say => Ok(()),
    }
}

fn request(health: &Health, node: Option<Node>) -> DiscoveryRequest {
    let trouble = match health {
        Some(Err(why)) => Some(why.to_string()),
        Some(Ok(())) | None => None,
    };
    DiscoveryRequest {
        type_url: HEALTH_INFORMATION.to_owned(),
        node,
        error_detail: trouble.map(|message| RpcStatus {
            code: UNHEALTHY,
            message,
            ..RpcStatus::default()
        }),
        ..DiscoveryRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Option<WorkloadProbe>, ProbeError> {
        let config = serde_json::json!({"readinessProbe": json});
        WorkloadProbe::read(config.as_object().unwrap())
    }

    #[test]
    fn each_kind_of_probe_is_read_with_istios_defaults() {
        let http = read(serde_json::json!({"httpGet": {"port": 8080, "host": "10.0.0.9"}}))
            .unwrap()
            .unwrap();
        assert_eq!(
            (http.period, http.timeout),
            (Duration::from_secs(10), Duration::from_secs(1))
        );
        assert_eq!((http.successes, http.failures), (1, 1));
        let Check::Network(address, Action::Http { path, host, .. }) = http.check else {
            panic!()
        };
        assert_eq!(
            (address, path.as_str(), host),
            (Some(IpAddr::from([10, 0, 0, 9])), "/", None)
        );

        let named =
            read(serde_json::json!({"httpGet": {"port": 1, "host": "a.b", "scheme": "HTTPS"}}))
                .unwrap()
                .unwrap();
        let Check::Network(
            None,
            Action::Http {
                host: Some(host),
                tls: true,
                ..
            },
        ) = named.check
        else {
            panic!()
        };
        assert_eq!(host, "a.b");

        let tcp = read(serde_json::json!({"tcpSocket": {"port": 9}, "periodSeconds": 3}))
            .unwrap()
            .unwrap();
        assert_eq!(tcp.check, Check::Network(None, Action::Tcp { port: 9 }));
        assert_eq!(tcp.period, Duration::from_secs(3));
        let exec = read(serde_json::json!({"exec": {"command": ["a", "b"]}}))
            .unwrap()
            .unwrap();
        assert_eq!(
            exec.check,
            Check::Command(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(WorkloadProbe::read(&Map::new()).unwrap(), None);
        assert!(read(serde_json::json!({"exec": {"command": []}})).is_err());
        assert!(read(serde_json::json!({})).is_err());
    }

    #[test]
    fn only_enough_answers_in_a_row_change_the_state() {
        let mut probe = read(serde_json::json!({"tcpSocket": {"port": 9}, "failureThreshold": 2}))
            .unwrap()
            .unwrap();
        probe.successes = 2;
        let mut counted = Thresholds::default();
        let bad = || Err("down".to_owned());
        assert_eq!(counted.count(&probe, &None, Ok(())), None);
        assert_eq!(counted.count(&probe, &None, bad()), None);
        assert_eq!(counted.count(&probe, &None, Ok(())), None);
        let well = counted.count(&probe, &None, Ok(()));
        assert_eq!(well, Some(Ok(())));
        assert_eq!(counted.count(&probe, &well, Ok(())), None);
        assert_eq!(counted.count(&probe, &well, bad()), None);
        assert_eq!(
            counted.count(&probe, &well, bad()),
            Some(Err("down".into()))
        );
    }

    #[tokio::test]
    async fn a_command_is_well_if_it_ends_with_zero() {
        let argv = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(command(&argv(&["true"])).await, Ok(()));
        let error = command(&argv(&["sh", "-c", "echo no >&2; exit 3"]))
            .await
            .unwrap_err();
        assert!(error.contains("3") && error.contains("no"), "{error}");
        assert!(command(&argv(&["/no/such/program"])).await.is_err());
    }

    #[test]
    fn trouble_is_told_as_istios_agent_tells_it() {
        let well = request(&Some(Ok(())), Some(Node::default()));
        assert_eq!(
            (well.type_url.as_str(), well.error_detail),
            (HEALTH_INFORMATION, None)
        );
        let ill = request(&Some(Err("down".into())), None)
            .error_detail
            .unwrap();
        assert_eq!((ill.code, ill.message.as_str()), (500, "down"));
    }
}
