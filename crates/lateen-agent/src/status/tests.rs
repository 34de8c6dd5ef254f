//! Tests of the status server over the loopback interface.

use super::*;
use crate::http_client::{self, HttpError, Target};
use lateen_identity::BoxFuture;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Proxy {
    ready: AtomicBool,
    drained: AtomicUsize,
}

impl DataPlane for Proxy {
    fn ready(&self) -> BoxFuture<'_, Result<(), NotReady>> {
        let ready = self.ready.load(Ordering::Relaxed);
        let verdict = if ready {
            Ok(())
        } else {
            Err(NotReady("no listeners yet".to_owned()))
        };
        Box::pin(std::future::ready(verdict))
    }

    fn metrics<'a>(&'a self, query: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, HttpError>> {
        let text = format!(
            "proxy_metric{{query=\"{}\"}} 1\n",
            query.unwrap_or_default()
        );
        Box::pin(std::future::ready(Ok(text.into())))
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), HttpError>> {
        self.drained.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// An application that answers every request with the same bytes and remembers what it was asked.
struct App {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    _task: JoinSet<()>,
}

impl App {
    async fn start(answer: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, peers) = (
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let (answer, seen, from) = (answer.into(), asked.clone(), peers.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                from.lock().unwrap().push(peer);
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                request.truncate(length);
                seen.lock()
                    .unwrap()
                    .push(String::from_utf8(request).unwrap());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            port,
            asked,
            peers,
            _task: task,
        }
    }

    fn http(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

struct Running {
    port: u16,
    proxy: Arc<Proxy>,
    quit: CancellationToken,
    _task: JoinSet<()>,
}

async fn start(probers: &str, scrape: Option<ScrapeConfig>) -> Running {
    let (proxy, quit) = (Arc::new(Proxy::default()), CancellationToken::new());
    let options = StatusOptions {
        data_plane: proxy.clone(),
        checks: Vec::new(),
        probers: AppProbers::parse(Some(probers), IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap(),
        scrape,
        metrics: AgentMetrics::default(),
        quit: quit.clone(),
    };
    let server = StatusServer::bind(0, options).await.unwrap();
    let port = server.port();
    let mut task = JoinSet::new();
    task.spawn(server.run());
    Running {
        port,
        proxy,
        quit,
        _task: task,
    }
}

async fn get(running: &Running, path: &str) -> (u16, String) {
    let answer = http_client::get(&Target::loopback(running.port), path, SECOND * 5)
        .await
        .unwrap();
    (
        answer.status.as_u16(),
        String::from_utf8(answer.body.to_vec()).unwrap(),
    )
}

#[tokio::test]
async fn readiness_follows_the_proxy_and_says_why_not() {
    let running = start("{}", None).await;
    assert_eq!(
        get(&running, "/healthz/ready").await,
        (503, "no listeners yet".to_owned())
    );
    running.proxy.ready.store(true, Ordering::Relaxed);
    assert_eq!(get(&running, "/healthz/ready").await.0, 200);
    assert_eq!(get(&running, "/elsewhere").await.0, 404);
}

#[tokio::test]
async fn an_http_probe_reaches_the_application_as_kubelet_would() {
    let app = App::start(App::http("418 I'm a teapot", "short and stout")).await;
    let probers = format!(
        r#"{{"/app-health/web/livez":{{"httpGet":{{"path":"/health?a=b","port":{},
        "httpHeaders":[{{"name":"Host","value":"web"}},{{"name":"X-Custom","value":"1"}}]}}}}}}"#,
        app.port
    );
    let running = start(&probers, None).await;
    let answer = get(&running, "/app-health/web/livez").await;
    assert_eq!(answer, (418, "short and stout".to_owned()));
    let asked = app.asked.lock().unwrap()[0].to_lowercase();
    assert!(asked.starts_with("get /health?a=b http/1.1\r\n"), "{asked}");
    assert!(
        asked.contains("host: web\r\n") && asked.contains("x-custom: 1\r\n"),
        "{asked}"
    );
    assert_eq!(app.peers.lock().unwrap()[0].ip().to_string(), "127.0.0.6");
    assert_eq!(get(&running, "/app-health/web/readyz").await.0, 404);
}

#[tokio::test]
async fn a_redirect_to_elsewhere_is_a_success_and_one_to_itself_ends() {
    let answer =
        |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    let away = App::start(answer("https://login.example.com/")).await;
    let loops = App::start(answer("/again")).await;
    let probers = format!(
        r#"{{"/app-health/a/livez":{{"httpGet":{{"port":{}}}}},"/app-health/b/livez":{{"httpGet":{{"port":{}}}}}}}"#,
        away.port, loops.port
    );
    let running = start(&probers, None).await;
    assert_eq!(get(&running, "/app-health/a/livez").await.0, 200);
    let (status, reason) = get(&running, "/app-health/b/livez").await;
    assert_eq!((status, reason.contains("redirects")), (500, true));
    assert_eq!(loops.asked.lock().unwrap().len(), 11);
}

#[tokio::test]
async fn tcp_and_grpc_probes_tell_up_from_down() {
    let app = App::start("").await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let probers = format!(
        r#"{{"/app-health/a/livez":{{"tcpSocket":{{"port":{}}}}},
        "/app-health/b/livez":{{"tcpSocket":{{"port":{closed}}}}},
        "/app-health/c/livez":{{"grpc":{{"port":{closed}}}}}}}"#,
        app.port
    );
    let running = start(&probers, None).await;
    assert_eq!(get(&running, "/app-health/a/livez").await.0, 200);
    assert_eq!(get(&running, "/app-health/b/livez").await.0, 500);
    assert_eq!(get(&running, "/app-health/c/livez").await.0, 500);
}

/// gRPC's health service, which knows one service that serves (`up`) and one that does not.
#[derive(Clone)]
struct Health;

impl tonic::server::NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower::Service<Request<tonic::body::Body>> for Health {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        use http_body_util::BodyExt as _;
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            // A frame: not compressed, two bytes, field 1 is SERVING (1) or NOT_SERVING (2).
            let status = if asked.ends_with(b"up") { 1 } else { 2 };
            let frame = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers))));
            let mut response = Response::new(tonic::body::Body::new(body));
            let kind = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        })
    }
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let router = tonic::transport::Server::builder().add_service(Health);
        router.serve_with_incoming(incoming).await.unwrap();
    });
    let probers = format!(
        r#"{{"/app-health/a/livez":{{"grpc":{{"port":{port},"service":"up"}}}},
        "/app-health/b/livez":{{"grpc":{{"port":{port},"service":"down"}}}}}}"#
    );
    let running = start(&probers, None).await;
    assert_eq!(
        get(&running, "/app-health/a/livez").await,
        (200, String::new())
    );
    assert_eq!(get(&running, "/app-health/b/livez").await.0, 500);
}

#[tokio::test]
async fn a_silent_application_fails_its_probe_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let probers =
        format!(r#"{{"/app-health/a/livez":{{"httpGet":{{"port":{port}}},"timeoutSeconds":1}}}}"#);
    let running = start(&probers, None).await;
    let began = tokio::time::Instant::now();
    assert_eq!(get(&running, "/app-health/a/livez").await.0, 500);
    assert!(began.elapsed() < SECOND * 3);
}

#[tokio::test]
async fn metrics_are_merged_and_a_missing_part_is_counted() {
    let app = App::start(App::http("200 OK", "app_metric 2\n# EOF\n")).await;
    let target = |port| ScrapeTarget {
        port,
        path: "/metrics".to_owned(),
    };
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let scrape = ScrapeConfig {
        targets: vec![target(app.port), target(closed)],
    };
    let running = start("{}", Some(scrape)).await;
    let (_, body) = get(&running, "/stats/prometheus?usedonly").await;
    assert!(
        body.contains("proxy_metric{query=\"usedonly\"} 1\napp_metric 2\n"),
        "{body}"
    );
    assert!(!body.contains("EOF"));
    let (_, body) = get(&running, "/metrics").await;
    assert!(
        body.contains("istio_agent_scrape_failures_total{type=\"application\"} 1\n"),
        "{body}"
    );
}

#[tokio::test]
async fn quitting_and_draining_need_a_post() {
    let running = start("{}", None).await;
    assert_eq!(get(&running, "/quitquitquit").await.0, 405);
    assert!(!running.quit.is_cancelled());
    let target = Target::loopback(running.port);
    http_client::post(&target, "/drain", SECOND).await.unwrap();
    assert_eq!(running.proxy.drained.load(Ordering::Relaxed), 1);
    http_client::post(&target, "/quitquitquit", SECOND)
        .await
        .unwrap();
    assert!(running.quit.is_cancelled());
}

#[test]
fn strangers_can_neither_quit_nor_drain() {
    let from = |ip: &str| local_post(SocketAddr::new(ip.parse().unwrap(), 1), &Method::POST);
    assert!(from("127.0.0.1").is_none() && from("::1").is_none());
    assert!(from("::ffff:127.0.0.1").is_none());
    for ip in ["10.244.0.9", "fd00::9", "::ffff:10.244.0.9"] {
        assert_eq!(from(ip).unwrap().status(), StatusCode::FORBIDDEN, "{ip}");
    }
}
