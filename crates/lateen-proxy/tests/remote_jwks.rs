//! Keys of token issuers that the proxy fetches itself (`remote_jwks`): our proxy and a real Envoy do the same, but where it is said.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use support::twins::Twins;
use support::*;

const JWT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const FAILED: &str = "Jwks remote fetch is failed";

/// Who signs tokens.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn keys(&self) -> String {
        let x = BASE64URL.encode(self.0.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA"})), part(claims));
        let signature = BASE64URL.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn good_token(&self) -> String {
        self.token(&json!({"iss": "issuer", "sub": "alice", "exp": 4_102_444_800_u64}))
    }
}

/// What a server of keys answers, and what it was asked.
#[derive(Debug, Default)]
struct Server {
    status: u16,
    body: String,
    /// Answers before these that are failures.
    failures: usize,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Server>>;

async fn server(body: &str) -> (SocketAddr, Shared) {
    let shared = Arc::new(Mutex::new(Server {
        status: 200,
        body: body.to_owned(),
        ..Server::default()
    }));
    let answers = Arc::clone(&shared);
    let address = backend(move |request: Request<_>| {
        let answers = Arc::clone(&answers);
        async move {
            let mut server = answers.lock().unwrap();
            let host = request.headers()["host"].to_str().unwrap();
            server
                .asked
                .push(format!("{} {host} {}", request.method(), request.uri()));
            let fails = server.failures > 0;
            server.failures = server.failures.saturating_sub(1);
            let status = if fails { 503 } else { server.status };
            Response::builder()
                .status(status)
                .body(Full::new(Bytes::from(server.body.clone())).boxed())
                .unwrap()
        }
    })
    .await;
    (address, shared)
}

/// A listener with one issuer, whose tokens may be missing.
fn guarded(name: &str, cluster: &str, more: Value) -> Value {
    let mut remote = json!({
        "http_uri": {"uri": "https://issuer.example:8443/keys?all", "cluster": cluster, "timeout": "2s"},
        "cache_duration": "300s",
    });
    merge(&mut remote, more);
    let config = json!({
        "@type": JWT,
        "providers": {"p": {"issuer": "issuer", "remote_jwks": remote}},
        "rules": [{"match": {"prefix": "/"}, "requires": {
            "requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]},
        }}],
    });
    let filters = [
        filter("envoy.filters.http.jwt_authn", config),
        filter("envoy.filters.http.router", json!({"@type": ROUTER})),
    ];
    let manager = hcm(route_to("up", json!({})), json!({"http_filters": filters}));
    listener(name, json!([{"filters": [manager]}]))
}

async fn up() -> Value {
    let up = backend(|_| async { text("served") }).await;
    cluster("up", &[up], json!({}))
}

async fn ask(address: SocketAddr, token: &str) -> (u16, HeaderMap, String) {
    let mut request = Request::get("/").header("host", "shop.example");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    send(address, request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn keys_are_fetched_for_the_first_good_token_and_kept() {
    let issuer = Issuer::new();
    let (keys, asked) = server(&issuer.keys()).await;
    let twins = Twins::start(vec![
        guarded("l", "keys", json!({})),
        cluster("keys", &[keys], json!({})),
        up().await,
    ])
    .await;
    let expired = issuer.token(&json!({"iss": "issuer", "exp": 1_000_000}));
    let others = issuer.token(&json!({"iss": "somebody", "exp": 4_102_444_800_u64}));
    for (who, address) in twins.addresses("l") {
        asked.lock().unwrap().asked.clear();
        assert_eq!(ask(address, "").await.0, 200, "{who}");
        for bad in ["a.b.c", &expired, &others] {
            assert_eq!(ask(address, bad).await.0, 401, "{who}: {bad}");
        }
        let nobody = asked.lock().unwrap().asked.clone();
        assert_eq!(nobody, [""; 0], "{who}: bad tokens fetch nothing");
        for _ in 0..5 {
            let (status, _, body) = ask(address, &issuer.good_token()).await;
            assert_eq!((status, body.as_str()), (200, "served"), "{who}");
        }
        let stranger = Issuer::new().good_token();
        let (status, _, body) = ask(address, &stranger).await;
        assert_eq!(
            (status, body.as_str()),
            (401, "Jwt verification fails"),
            "{who}"
        );
        let seen = asked.lock().unwrap().asked.clone();
        assert!(
            seen.iter()
                .all(|seen| seen == "GET issuer.example:8443 /keys?all"),
            "{who}: {seen:?}"
        );
        assert!((1..=2).contains(&seen.len()), "{who}: {seen:?}");
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn without_keys_every_token_is_refused_as_by_envoy() {
    let issuer = Issuer::new();
    let (broken, answers) = server(&issuer.keys()).await;
    answers.lock().unwrap().status = 500;
    let (absent, answers) = server(&issuer.keys()).await;
    answers.lock().unwrap().status = 404;
    let (garbage, _) = server("<html>no keys here</html>").await;
    let (none, _) = server(r#"{"keys": []}"#).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        taken.local_addr().unwrap()
    };
    let names = ["broken", "absent", "garbage", "none", "silent", "dead"];
    let addresses = [
        broken,
        absent,
        garbage,
        none,
        silent.local_addr().unwrap(),
        dead,
    ];
    let mut list = vec![up().await, guarded("missing", "nowhere", json!({}))];
    for (name, address) in names.into_iter().zip(addresses) {
        list.push(cluster(name, &[address], json!({})));
        let short = json!({"http_uri": {"uri": "http://x/", "cluster": name, "timeout": "0.3s"}});
        list.push(guarded(name, name, short));
    }
    let twins = Twins::start(list).await;
    for name in names.into_iter().chain(["missing"]) {
        for (who, address) in twins.addresses(name) {
            let (status, headers, body) = ask(address, &issuer.good_token()).await;
            assert_eq!((status, body.as_str()), (401, FAILED), "{who} {name}");
            assert_eq!(
                headers["www-authenticate"],
                "Bearer realm=\"http://shop.example/\", error=\"invalid_token\"",
                "{who} {name}"
            );
            assert_eq!(ask(address, "").await.0, 200, "{who} {name}");
        }
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn new_keys_are_taken_and_the_last_stay_through_an_outage() {
    let (first, second) = (Issuer::new(), Issuer::new());
    let (keys, answers) = server(&first.keys()).await;
    let list = vec![
        guarded("l", "keys", json!({"cache_duration": "0.5s"})),
        cluster("keys", &[keys], json!({})),
        up().await,
    ];
    let mut twins = Twins::start(list.clone()).await;
    twins.ours.handle.shutdown().await;
    // Each worker has keys of its own, and this is about what one of them does.
    twins.ours = start_with(list, None, |config| config.concurrency = 1).await;
    for (who, address) in twins.addresses("l") {
        *answers.lock().unwrap() = Server {
            status: 200,
            body: first.keys(),
            ..Server::default()
        };
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(ask(address, &first.good_token()).await.0, 200, "{who}");
        answers.lock().unwrap().body = second.keys();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(ask(address, &second.good_token()).await.0, 200, "{who}");
        assert_eq!(ask(address, &first.good_token()).await.0, 401, "{who}");
        answers.lock().unwrap().status = 503;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let (status, _, body) = ask(address, &second.good_token()).await;
        // Envoy forgets keys when they are to be fetched again; here the last ones stay, as those of the control plane do.
        match who {
            "lateen" => assert_eq!(status, 200, "{body}"),
            _ => assert_eq!((status, body.as_str()), (401, FAILED), "{who}"),
        }
        assert_eq!(ask(address, &first.good_token()).await.0, 401, "{who}");
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn a_fetch_is_repeated_as_its_policy_says() {
    let issuer = Issuer::new();
    let (keys, answers) = server(&issuer.keys()).await;
    let policy = json!({"retry_policy": {"num_retries": 2, "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.02s"}}});
    let twins = Twins::start(vec![
        guarded("l", "keys", policy),
        cluster("keys", &[keys], json!({})),
        up().await,
    ])
    .await;
    for (who, address) in twins.addresses("l") {
        answers.lock().unwrap().failures = 2;
        assert_eq!(ask(address, &issuer.good_token()).await.0, 200, "{who}");
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn keys_are_fetched_ahead_of_need_and_before_they_are_old() {
    let issuer = Issuer::new();
    let (keys, answers) = server(&issuer.keys()).await;
    answers.lock().unwrap().failures = 1;
    let ahead = json!({"cache_duration": "2s", "async_fetch": {"failed_refetch_duration": "0.2s"}});
    let list = || {
        vec![
            guarded("l", "keys", ahead.clone()),
            cluster("keys", &[keys], json!({})),
        ]
    };
    let ours = start([list(), vec![up().await]].concat()).await;
    let asked = || answers.lock().unwrap().asked.len();
    wait_for(|| async { asked() > 4 }).await;
    answers.lock().unwrap().status = 500;
    let (status, _, body) = ask(ours.address("l"), &issuer.good_token()).await;
    assert_eq!((status, body.as_str()), (200, "served"));
    // What is not configured any more is not fetched any more.
    ours.replace(vec![up().await]);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let before = asked();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(asked(), before);
    ours.handle.shutdown().await;
}

#[tokio::test]
async fn many_tokens_at_once_are_one_fetch_and_a_failing_server_is_left_in_peace() {
    let issuer = Issuer::new();
    let (keys, answers) = server(&issuer.keys()).await;
    answers.lock().unwrap().status = 503;
    let list = vec![
        guarded("l", "keys", json!({})),
        cluster("keys", &[keys], json!({})),
        up().await,
    ];
    let ours = start_with(list, None, |config| config.concurrency = 1).await;
    let address = ours.address("l");
    let token = issuer.good_token();
    let asking = (0..50).map(|_| ask(address, &token));
    for (status, _, body) in futures_util::future::join_all(asking).await {
        assert_eq!((status, body.as_str()), (401, FAILED));
    }
    assert_eq!(answers.lock().unwrap().asked.len(), 1);
    answers.lock().unwrap().status = 200;
    wait_for(|| async { ask(address, &token).await.0 == 200 }).await;
    assert_eq!(answers.lock().unwrap().asked.len(), 2);
    ours.handle.shutdown().await;
}

#[tokio::test]
async fn secrets_and_endless_answers_are_no_keys() {
    let secret = json!({"keys": [{"kty": "oct", "k": BASE64URL.encode([7; 32])}]}).to_string();
    let (secrets, _) = server(&secret).await;
    let issuer = Issuer::new();
    let padded = format!("{}{}", issuer.keys(), " ".repeat(1 << 20));
    let (endless, _) = server(&padded).await;
    let ours = start(vec![
        guarded("secrets", "secrets", json!({})),
        guarded("endless", "endless", json!({})),
        cluster("secrets", &[secrets], json!({})),
        cluster("endless", &[endless], json!({})),
        up().await,
    ])
    .await;
    for name in ["secrets", "endless"] {
        let (status, _, body) = ask(ours.address(name), &issuer.good_token()).await;
        assert_eq!((status, body.as_str()), (401, FAILED), "{name}");
    }
    ours.handle.shutdown().await;
}
