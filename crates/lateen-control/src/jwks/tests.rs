//! Fetching from servers on loopback.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Mutex;

use lateen_compile::Jwks;

use super::*;

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;

/// A server on loopback that answers with what a function says, one connection at a time.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, u16) -> Option<String> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap_or(0);
                let head = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                log.lock().unwrap().push(path.clone());
                if let Some(answer) = answer(&path, port) {
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Self { port, asked }
    }

    fn uri(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn ok(body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncache-control: max-age=300\r\n\r\n{body}",
        body.len()
    ))
}

fn redirect(to: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
    ))
}

fn on_loopback() -> AddressGuard {
    AddressGuard {
        blocked: Vec::new(),
        allowed: vec!["127.0.0.1/32".parse().unwrap()],
    }
}

fn fetcher(guard: AddressGuard) -> Fetcher {
    Fetcher { guard, tls: None }
}

fn no_names() -> Names {
    Arc::new(|_, _| None)
}

async fn fetch(source: JwksSource) -> Result<String, String> {
    let fetched = fetcher(on_loopback())
        .fetch(&source, &no_names(), Duration::from_secs(5))
        .await;
    fetched
        .map(|fetched| fetched.keys.to_string())
        .map_err(|error| with_causes(&error))
}

async fn of_uri(uri: String) -> Result<String, String> {
    fetch(JwksSource::Uri(uri)).await
}

#[tokio::test]
async fn keys_come_from_a_uri_or_from_what_an_issuer_says() {
    let server = Server::start(|path, port| match path {
        "/jwks" => ok(KEYS),
        "/issuer/.well-known/openid-configuration" => ok(&format!(
            "{{\"issuer\": \"http://127.0.0.1:{port}/issuer\", \"jwks_uri\": \"http://127.0.0.1:{port}/jwks\"}}"
        )),
        _ => ok("{}"),
    });
    assert!(
        of_uri(server.uri("/jwks"))
            .await
            .unwrap()
            .contains("Ed25519")
    );
    let issuer = JwksSource::Discovery(server.uri("/issuer/"));
    assert!(fetch(issuer).await.is_ok());
    let other = JwksSource::Discovery(server.uri("/other"));
    assert!(fetch(other).await.unwrap_err().contains("jwks_uri"));
    assert!(
        fetch(JwksSource::Discovery("me@example.com".to_owned()))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_configuration_of_another_issuer_is_not_believed() {
    let server = Server::start(|_, port| {
        ok(&format!(
            "{{\"issuer\": \"https://evil.example\", \"jwks_uri\": \"http://127.0.0.1:{port}/jwks\"}}"
        ))
    });
    let error = fetch(JwksSource::Discovery(server.uri("")))
        .await
        .unwrap_err();
    assert!(error.contains("evil.example"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_never_to_where_nobody_may_ask() {
    let server = Server::start(|path, _| match path {
        "/once" => redirect("/jwks"),
        "/loop" => redirect("/loop"),
        "/metadata" => redirect("http://169.254.169.254/latest/meta-data/"),
        "/file" => redirect("file:///etc/passwd"),
        _ => ok(KEYS),
    });
    assert!(of_uri(server.uri("/once")).await.is_ok());
    let error = of_uri(server.uri("/loop")).await.unwrap_err();
    assert!(error.contains("redirects more than 3 times"), "{error}");
    assert_eq!(
        server
            .asked()
            .iter()
            .filter(|path| *path == "/loop")
            .count(),
        4
    );
    let error = of_uri(server.uri("/metadata")).await.unwrap_err();
    assert!(
        error.contains("metadata service of a cloud") || error.contains("link-local"),
        "{error}"
    );
    assert!(of_uri(server.uri("/file")).await.is_err());
}

#[tokio::test]
async fn addresses_are_checked_after_names_are_resolved() {
    let server = Server::start(|_, _| ok(KEYS));
    let uri = format!("http://keys.default.svc.cluster.local:{}/", server.port);
    let port = server.port;
    let to_loopback: Names =
        Arc::new(move |_, _| Some(vec![SocketAddr::from(([127, 0, 0, 1], port))]));
    let source = JwksSource::Uri(uri);
    let strict = fetcher(AddressGuard::default());
    let error = strict
        .fetch(&source, &to_loopback, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Blocked(_)), "{error}");
    assert!(server.asked().is_empty());
    let lax = fetcher(on_loopback());
    assert!(
        lax.fetch(&source, &to_loopback, Duration::from_secs(5))
            .await
            .is_ok()
    );
    let nobody: Names = Arc::new(|_, _| Some(Vec::new()));
    let error = lax
        .fetch(&source, &nobody, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::NoEndpoint(..)), "{error}");
}

#[tokio::test]
async fn answers_are_bounded_in_size_and_time_and_have_to_be_key_sets() {
    let server = Server::start(|path, _| match path {
        "/huge" => ok(&format!(
            "{{\"keys\":[], \"x\": \"{}\"}}",
            "a".repeat(2 << 20)
        )),
        "/secret" => ok("aws_secret_access_key = x"),
        "/error" => Some("HTTP/1.1 500 No\r\ncontent-length: 6\r\n\r\nsecret".to_owned()),
        "/slow" => {
            std::thread::sleep(Duration::from_secs(2));
            None
        }
        _ => ok("{}"),
    });
    let error = of_uri(server.uri("/huge")).await.unwrap_err();
    assert!(error.contains("larger than"), "{error}");
    let error = of_uri(server.uri("/secret")).await.unwrap_err();
    assert_eq!(error, "the answer is not JSON");
    let error = of_uri(server.uri("/error")).await.unwrap_err();
    assert_eq!(error, "`127.0.0.1` answered 500 Internal Server Error");
    let slow = fetcher(on_loopback())
        .fetch(
            &JwksSource::Uri(server.uri("/slow")),
            &no_names(),
            Duration::from_millis(100),
        )
        .await;
    assert!(matches!(slow, Err(FetchError::Timeout(_))));
}

#[tokio::test]
async fn https_without_roots_is_refused() {
    let server = Server::start(|_, _| ok(KEYS));
    let uri = format!("https://127.0.0.1:{}/", server.port);
    let error = of_uri(uri).await.unwrap_err();
    assert!(error.contains("no root certificates"), "{error}");
}

#[tokio::test]
async fn one_source_that_is_down_does_not_keep_another_from_its_keys() {
    let server = Server::start(|_, _| ok(KEYS));
    let settings = JwksSettings {
        guard: on_loopback(),
        extra_roots: None,
    };
    let mut handle = JwksHandle::start(&settings);
    let (snapshot, _) = Snapshot::new(lateen_compile::SnapshotInputs::default());
    handle.names(&snapshot);
    let good = JwksSource::Uri(server.uri("/"));
    let dead = JwksSource::Uri("http://127.0.0.1:1/".to_owned());
    let sources = BTreeMap::from([
        (good.clone(), Duration::from_secs(5)),
        (dead.clone(), Duration::from_secs(5)),
    ]);
    let store = handle.settle(sources).await;
    assert!(store[&good].keys.is_some() && store[&good].problem.is_none());
    assert!(store[&dead].keys.is_none());
    let problem = store[&dead].problem.as_deref().unwrap();
    assert!(
        problem.contains("cannot connect to 127.0.0.1:1"),
        "{problem}"
    );
    assert_eq!(handle.counters.successes.load(Ordering::Relaxed), 1);
    let store = handle.settle(BTreeMap::new()).await;
    let gone = store.is_empty()
        || handle.store().changed().await.is_ok() && handle.store.borrow().is_empty();
    assert!(gone, "what nobody asks for is forgotten: {store:?}");
}

#[tokio::test]
async fn the_last_good_set_stays_while_a_server_is_down() {
    let now = Instant::now();
    let mut entry = Entry::new(now);
    let server = Server::start(|_, _| ok(KEYS));
    let fetched = fetcher(on_loopback())
        .fetch(
            &JwksSource::Uri(server.uri("/")),
            &no_names(),
            Duration::from_secs(5),
        )
        .await
        .unwrap();
    assert_eq!(fetched.max_age, Some(Duration::from_secs(300)));
    entry.succeeded(fetched, now);
    entry.failed("down".to_owned(), now + Duration::from_secs(300));
    let Some(Jwks { keys, problem }) = entry.state() else {
        panic!("nothing is known")
    };
    assert!(keys.is_some());
    assert_eq!(problem.as_deref(), Some("down"));
}
