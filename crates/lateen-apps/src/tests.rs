//! The applications over loopback, as their clients see them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{self, Call, Connection, Target};
use crate::server::{self, Service};
use crate::{Environment, bookinfo, echo, hello, httpbin, options, tcp_echo, websocket};

mod grpc;

/// A server on a port of its own. It stops with `stop`.
struct Running {
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start<S: Service>(service: S) -> Running {
        Running::start_until(Arc::new(service), CancellationToken::new())
    }

    fn start_until<S: Service>(service: Arc<S>, stop: CancellationToken) -> Running {
        let listener = server::listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(server::serve(listener, service, stop.clone()));
        Running { port, stop, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        self.send(Method::GET, path, &[], "").await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Bytes> {
        let mut call = Call::get(Target::parse(&self.url(path)).unwrap());
        call.method = method;
        call.body = Bytes::from(body.to_owned());
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            call.headers
                .append(name, HeaderValue::from_str(value).unwrap());
        }
        client::send(&call, Duration::from_secs(20)).await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        as_json(&self.get(path).await)
    }
}

fn as_json(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn as_text(response: &Response<Bytes>) -> String {
    String::from_utf8(response.body().to_vec()).unwrap()
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Says which headers it got.
struct Recorder(std::sync::Mutex<HeaderMap>);

impl Service for Arc<Recorder> {
    async fn call(
        &self,
        request: http::Request<hyper::body::Incoming>,
        _peer: SocketAddr,
    ) -> Response<server::Body> {
        *self.0.lock().unwrap() = request.headers().clone();
        server::json(
            StatusCode::OK,
            &json!({ "id": 0, "ratings": { "Reviewer1": 3 } }),
        )
    }
}

/// Where a service of bookinfo finds another one.
fn at(name: &str, running: &Running) -> Vec<(String, String)> {
    vec![
        (format!("{name}_HOSTNAME"), "127.0.0.1".to_owned()),
        (format!("{name}_SERVICE_PORT"), running.port.to_string()),
    ]
}

#[tokio::test]
async fn bookinfos_four_services_make_one_page() {
    let ratings = Running::start(bookinfo::ratings::Ratings::new(&Environment::new()));
    let mut variables = environment(&[("ENABLE_RATINGS", "true"), ("STAR_COLOR", "red")]);
    variables.extend(at("RATINGS", &ratings));
    variables.insert("HOSTNAME".to_owned(), "reviews-v3-abc".to_owned());
    let reviews = Running::start(bookinfo::reviews::Reviews::new(&variables));
    let details = Running::start(bookinfo::details::Details);
    let mut variables: Environment = at("RATINGS", &ratings).into_iter().collect();
    variables.extend(at("REVIEWS", &reviews));
    variables.extend(at("DETAILS", &details));
    let page = Running::start(bookinfo::productpage::ProductPage::new(&variables).unwrap());

    let html = as_text(&page.get("/productpage").await);
    for expected in [
        "<title>Simple Bookstore App</title>",
        "William Shakespeare",
        "Reviewer1",
        "style=\"color:red\">★★★★★<",
        "★★★★☆",
        "reviews-v3-abc",
    ] {
        assert!(html.contains(expected), "{expected} in {html}");
    }
    assert_eq!(
        page.json("/api/v1/products/0").await,
        json!({
            "id": 0, "author": "William Shakespeare", "year": 1595, "type": "paperback",
            "pages": 200, "publisher": "PublisherA", "language": "English",
            "ISBN-10": "1234567890", "ISBN-13": "123-1234567890",
        })
    );
    let said = page.json("/api/v1/products/0/reviews").await;
    assert_eq!(said["id"], "0");
    assert_eq!(said["podname"], "reviews-v3-abc");
    assert_eq!(said["clustername"], "null");
    assert_eq!(
        said["reviews"][1]["rating"],
        json!({ "stars": 4, "color": "red" })
    );
    assert_eq!(
        page.json("/api/v1/products/7/ratings").await,
        json!({ "id": 7, "ratings": { "Reviewer1": 5, "Reviewer2": 4 } })
    );
    assert_eq!(
        page.json("/api/v1/products").await[0]["title"],
        "The Comedy of Errors"
    );
}

#[tokio::test]
async fn a_page_without_its_services_says_so() {
    let nobody = environment(&[
        ("DETAILS_HOSTNAME", "127.0.0.1"),
        ("DETAILS_SERVICE_PORT", "1"),
        ("REVIEWS_HOSTNAME", "127.0.0.1"),
        ("REVIEWS_SERVICE_PORT", "1"),
    ]);
    let page = Running::start(bookinfo::productpage::ProductPage::new(&nobody).unwrap());
    let answer = page.get("/productpage").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(as_text(&answer).contains("Error fetching product reviews"));
    let answer = page.get("/api/v1/products/0").await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let error = "Sorry, product details are currently unavailable for this book.";
    assert_eq!(as_json(&answer), json!({ "error": error }));
}

#[tokio::test]
async fn reviews_v1_has_no_stars_and_v2_tells_when_ratings_is_away() {
    let v1 = Running::start(bookinfo::reviews::Reviews::new(&Environment::new()));
    assert_eq!(
        v1.json("/reviews/0").await["reviews"][0].get("rating"),
        None
    );
    assert_eq!(
        v1.json("/health").await,
        json!({ "status": "Reviews is healthy" })
    );
    assert_eq!(v1.get("/reviews/x").await.status(), StatusCode::NOT_FOUND);

    let nobody = environment(&[
        ("ENABLE_RATINGS", "true"),
        ("RATINGS_HOSTNAME", "127.0.0.1"),
        ("RATINGS_SERVICE_PORT", "1"),
    ]);
    let v2 = Running::start(bookinfo::reviews::Reviews::new(&nobody));
    assert_eq!(
        v2.json("/reviews/0").await["reviews"][0]["rating"],
        json!({ "error": "Ratings service is currently unavailable" })
    );
}

#[tokio::test]
async fn trace_headers_and_the_user_are_passed_on() {
    let recorder = Arc::new(Recorder(std::sync::Mutex::default()));
    let backend = Running::start(Arc::clone(&recorder));
    let variables: Environment = at("DETAILS", &backend).into_iter().collect();
    let page = Running::start(bookinfo::productpage::ProductPage::new(&variables).unwrap());

    let login = page.send(
        Method::POST,
        "/login",
        &[("referer", "http://here/productpage?u=test")],
        "username=jason+b&passwd=x",
    );
    let login = login.await;
    assert_eq!(login.status(), StatusCode::FOUND);
    assert_eq!(header(&login, "location"), "http://here/productpage?u=test");
    let cookie = header(&login, "set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(cookie, "session=jason%20b");

    let headers = [
        ("cookie", cookie.as_str()),
        ("x-request-id", "r"),
        ("x-b3-traceid", "t"),
        ("traceparent", "p"),
        ("end-user", "somebody else"),
        ("x-other", "o"),
    ];
    page.send(Method::GET, "/api/v1/products/0", &headers, "")
        .await;
    let got = recorder.0.lock().unwrap().clone();
    assert_eq!(
        got["end-user"], "jason b",
        "from the session, not from the client"
    );
    for (name, value) in [
        ("x-request-id", "r"),
        ("x-b3-traceid", "t"),
        ("traceparent", "p"),
    ] {
        assert_eq!(got[name], value);
    }
    assert!(!got.contains_key("x-other"));
    let logout = page.get("/logout").await;
    assert!(header(&logout, "set-cookie").starts_with("session=;"));
}

#[tokio::test]
async fn ratings_can_be_posted_and_its_variants_misbehave() {
    let ratings = Running::start(bookinfo::ratings::Ratings::new(&Environment::new()));
    let posted = ratings
        .send(Method::POST, "/ratings/1", &[], r#"{"Reviewer1":1}"#)
        .await;
    assert_eq!(
        as_json(&posted),
        json!({ "id": 1, "ratings": { "Reviewer1": 1 } })
    );
    assert_eq!(ratings.json("/ratings/1").await, as_json(&posted));
    let wrong = ratings.send(Method::POST, "/ratings/1", &[], "no").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        ratings.get("/ratings/x").await.status(),
        StatusCode::BAD_REQUEST
    );

    let faulty = environment(&[("SERVICE_VERSION", "v-faulty")]);
    let faulty = Running::start(bookinfo::ratings::Ratings::new(&faulty));
    let mut failures = 0;
    for _ in 0..100 {
        failures += u32::from(faulty.get("/ratings/0").await.status() == 503);
    }
    assert!(
        (15..85).contains(&failures),
        "{failures} of 100, half expected"
    );
}

#[tokio::test]
async fn details_wants_a_number() {
    let details = Running::start(bookinfo::details::Details);
    assert_eq!(
        details.json("/health").await,
        json!({ "status": "Details is healthy" })
    );
    let wrong = details.get("/details/x").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        as_json(&wrong),
        json!({ "error": "please provide numeric product id" })
    );
}

#[tokio::test]
async fn hello_app_shows_what_its_target_answers() {
    let backend = hello::Hello::new("1.0.0", &environment(&[("HOSTNAME", "backend-v1-x")]));
    let backend = Running::start(backend);
    assert_eq!(
        as_text(&backend.get("/any").await),
        "Hello, world!\nVersion: 1.0.0\nHostname: backend-v1-x\n"
    );
    let target = format!("127.0.0.1:{}", backend.port);
    let variables = environment(&[("HOSTNAME", "frontend-y"), ("TARGET", &target)]);
    let frontend = Running::start(hello::Hello::new("2.0.0", &variables));
    let expected = format!(
        "Hello, world!\nVersion: 2.0.0\nHostname: frontend-y\nTarget: {target}\n  Hello, world!\n  \
         Version: 1.0.0\n  Hostname: backend-v1-x\n"
    );
    assert_eq!(as_text(&frontend.get("/").await), expected);

    backend.stop.cancel();
    backend.task.await.unwrap();
    let failed = frontend.get("/").await;
    assert_eq!(failed.status(), StatusCode::BAD_GATEWAY);
    assert!(as_text(&failed).contains("  no answer: connecting to 127.0.0.1"));
}

#[tokio::test]
async fn helloworld_says_its_version_and_instance() {
    let variables = environment(&[("SERVICE_VERSION", "v1"), ("HOSTNAME", "helloworld-v1-z")]);
    let world = Running::start(hello::World::new(&variables));
    let said = as_text(&world.get("/hello").await);
    assert_eq!(said, "Hello version: v1, instance: helloworld-v1-z\n");
    assert_eq!(world.get("/health").await.status(), StatusCode::OK);
}

fn bin(flavor: httpbin::Flavor) -> Running {
    let stop = CancellationToken::new();
    Running::start(httpbin::HttpBin::new(
        flavor,
        &environment(&[("HOSTNAME", "h")]),
        stop,
    ))
}

#[tokio::test]
async fn httpbin_mirrors_requests_in_both_flavours() {
    let go = bin(httpbin::Flavor::Go);
    let answer = go.json("/get?a=1&a=2&b=%20x").await;
    assert_eq!(answer["args"], json!({ "a": ["1", "2"], "b": [" x"] }));
    assert_eq!(
        answer["headers"]["Host"],
        json!([format!("127.0.0.1:{}", go.port)])
    );
    assert_eq!(answer["method"], "GET");
    assert_eq!(answer["origin"], "127.0.0.1");
    assert_eq!(answer["url"], go.url("/get?a=1&a=2&b=%20x"));

    let python = bin(httpbin::Flavor::Python);
    let headers = [("x-forwarded-for", "9.9.9.9"), ("x-a", "1"), ("x-a", "2")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = as_json(
        &python
            .send(Method::GET, "/get?a=1&a=2&b=x", &headers, "")
            .await,
    );
    assert_eq!(answer["args"], json!({ "a": ["1", "2"], "b": "x" }));
    assert_eq!(answer["headers"]["X-A"], "1,2");
    assert_eq!(answer["headers"].get("X-Forwarded-For"), None, "hidden");
    assert_eq!(answer["origin"], "9.9.9.9");
    let answer = as_json(
        &python
            .send(Method::POST, "/post", &form, "k=v&k2=%26")
            .await,
    );
    assert_eq!(answer["form"], json!({ "k": "v", "k2": "&" }));
    let answer = as_json(
        &python
            .send(Method::PUT, "/anything/x", &[], r#"{"j":1}"#)
            .await,
    );
    assert_eq!(
        (&answer["json"]["j"], &answer["method"]),
        (&json!(1), &json!("PUT"))
    );
    assert_eq!(
        python.get("/post").await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn httpbin_answers_as_the_path_asks() {
    let bin = bin(httpbin::Flavor::Go);
    for status in [200, 204, 302, 404, 418, 503] {
        assert_eq!(bin.get(&format!("/status/{status}")).await.status(), status);
    }
    assert_eq!(bin.get("/status/503:1,200:0").await.status(), 503);
    assert_eq!(bin.get("/status/999").await.status(), 400);
    assert_eq!(bin.get("/nothing/here").await.status(), 404);
    assert_eq!(
        header(&bin.get("/redirect/3").await, "location"),
        "/relative-redirect/2"
    );
    let absolute = bin.get("/absolute-redirect/1").await;
    assert_eq!(header(&absolute, "location"), bin.url("/get"));
    assert_eq!(
        header(
            &bin.get("/redirect-to?url=%2Fx&status_code=307").await,
            "location"
        ),
        "/x"
    );
    assert_eq!(bin.get("/bytes/1000").await.body().len(), 1000);
    assert_eq!(bin.get("/stream-bytes/20000").await.body().len(), 20_000);
    assert_eq!(as_text(&bin.get("/stream/3").await).lines().count(), 3);
    assert_eq!(
        bin.get("/drip?duration=0.05&delay=0&numbytes=5")
            .await
            .body()
            .as_ref(),
        b"*****"
    );
    assert_eq!(
        header(&bin.get("/response-headers?X-Y=z").await, "x-y"),
        "z"
    );
    assert_eq!(as_text(&bin.get("/base64/aGk=").await), "hi");
    assert_eq!(header(&bin.get("/gzip").await, "content-encoding"), "gzip");
    assert_eq!(
        header(&bin.get("/cache/60").await, "cache-control"),
        "public, max-age=60"
    );
    assert_eq!(bin.json("/uuid").await["uuid"].as_str().unwrap().len(), 36);
    assert_eq!(bin.json("/hostname").await, json!({ "hostname": "h" }));
    let began = std::time::Instant::now();
    bin.get("/delay/0.2").await;
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn httpbin_knows_who_asks() {
    let bin = bin(httpbin::Flavor::Go);
    let get = |path: &'static str, headers: &'static [(&'static str, &'static str)]| {
        bin.send(Method::GET, path, headers, "")
    };
    let anonymous = get("/basic-auth/u/p", &[]).await;
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert!(header(&anonymous, "www-authenticate").starts_with("Basic"));
    assert_eq!(
        get("/basic-auth/u/p", &[("authorization", "Basic dTpw")])
            .await
            .status(),
        200
    );
    assert_eq!(get("/hidden-basic-auth/u/p", &[]).await.status(), 404);
    assert_eq!(
        get("/bearer", &[("authorization", "Bearer t")])
            .await
            .status(),
        200
    );
    assert_eq!(get("/bearer", &[]).await.status(), 401);
    assert_eq!(
        as_json(&get("/cookies", &[("cookie", "a=1; b=2")]).await),
        json!({"a": "1", "b": "2"})
    );
    assert_eq!(
        header(&get("/cookies/set?k=v", &[]).await, "set-cookie"),
        "k=v; Path=/"
    );
    assert_eq!(
        get("/etag/e", &[("if-none-match", "\"e\"")]).await.status(),
        304
    );
    assert_eq!(get("/etag/e", &[("if-match", "\"f\"")]).await.status(), 412);
    assert_eq!(get("/cache", &[("if-none-match", "x")]).await.status(), 304);
}

#[tokio::test]
async fn tcp_echo_answers_every_line_with_its_prefix() {
    let listener = server::listen(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move { tcp_echo::serve(vec![listener], "hello", stopped).await });
    for host in ["127.0.0.1", "::1"] {
        let Ok(mut stream) = TcpStream::connect((host, port)).await else {
            // A machine may be without IPv6, not without IPv4.
            assert_eq!(host, "::1");
            continue;
        };
        stream.write_all(b"world\nagain\nno end").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello world\nhello again\n");
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_websocket_is_upgraded_and_closed_when_the_server_stops() {
    let stop = CancellationToken::new();
    let echo = Arc::new(websocket::Echo::new(stop.clone()));
    let running = Running::start_until(echo, stop);
    let mut stream = TcpStream::connect(("127.0.0.1", running.port))
        .await
        .unwrap();
    let handshake = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    stream
        .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])
        .await
        .unwrap();
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x02hi");
    running.stop.cancel();
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x88\x02\x03\xe9", "going away");
    running.task.await.unwrap();
}

#[tokio::test]
async fn requests_in_flight_are_answered_after_the_signal() {
    let running = bin(httpbin::Flavor::Go);
    let target = Target::parse(&running.url("/delay/0.3")).unwrap();
    let mut connection = Connection::open(&target).await.unwrap();
    let call = Call::get(target);
    let (answer, ()) = tokio::join!(connection.exchange(&call), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.stop.cancel();
    });
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    tokio::time::timeout(Duration::from_secs(5), running.task)
        .await
        .unwrap()
        .unwrap();
    assert!(
        Connection::open(&call.target).await.is_err(),
        "the port is closed"
    );
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let running = bin(httpbin::Flavor::Go);
    let target = Target::parse(&running.url("/get")).unwrap();
    let mut connection = Connection::open(&target).await.unwrap();
    connection.exchange(&Call::get(target)).await.unwrap();
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn load_counts_answers_failures_and_the_split() {
    let backend = Running::start(hello::Hello::new("1.0.0", &Environment::new()));
    let url = backend.url("/");
    let arguments = |more: &[&str]| {
        let fixed = [
            "--url",
            url.as_str(),
            "--rps",
            "500",
            "--count",
            "100",
            "--key",
            "Version: (\\S+)",
        ];
        fixed
            .iter()
            .chain(more)
            .map(|&text| text.to_owned())
            .collect::<Vec<_>>()
    };
    let report = crate::load::report(&arguments(&[])).await.unwrap();
    assert_eq!(report["ok"], 100);
    assert_eq!(report["failed"], 0);
    assert_eq!(report["split"], json!({ "1.0.0": 100 }));
    assert_eq!(report["statuses"], json!({ "200": 100 }));
    assert!(report["latency_ms"]["p99"].as_f64().unwrap() > 0.0);

    let fresh = crate::load::report(&arguments(&["--fresh"])).await.unwrap();
    assert_eq!(fresh["ok"], 100);
    backend.stop.cancel();
    backend.task.await.unwrap();
    let report = crate::load::report(&arguments(&[])).await.unwrap();
    assert_eq!(report["failures"], json!({ "connect": 100 }));
    assert!(
        crate::load::report(&["--rps".to_owned(), "1".to_owned()])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn echo_says_what_it_was_asked() {
    let options = options::Options::parse(
        &["--version".to_owned(), "v1".to_owned()],
        &["version", "cluster"],
        &[],
    );
    let variables = environment(&[("HOSTNAME", "echo-v1-q")]);
    let stop = CancellationToken::new();
    let echo = Running::start(echo::Echo::new(&options.unwrap(), &variables, stop));
    let said = echo
        .send(Method::GET, "/path?codes=418", &[("x-a", "b")], "")
        .await;
    assert_eq!(said.status(), 418);
    let said = as_text(&said);
    for line in [
        "StatusCode=418",
        "RequestHeader=x-a:b",
        "ServiceVersion=v1",
        "Hostname=echo-v1-q",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let none = Environment::new();
    assert_eq!(crate::run("nothing", &[], &none), 2);
    assert_eq!(crate::run("tcp-echo", &["x".to_owned()], &none), 2);
    assert_eq!(crate::run("httpbin", &["--nope".to_owned()], &none), 2);
    assert_eq!(
        crate::run(
            "hello-app",
            &["--port".to_owned(), "99999".to_owned()],
            &none
        ),
        2
    );
    assert_eq!(crate::run("sleep", &["0.01".to_owned()], &none), 0);
}

#[test]
fn a_port_in_use_is_an_error() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_eq!(
        crate::run("static", &["--port".to_owned(), port], &Environment::new()),
        1
    );
}

#[test]
fn sigterm_ends_an_application_in_order() {
    // Registered before any signal is sent: the default action would end the tests.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _registered = runtime.block_on(async { crate::Signals::new().unwrap() });
    let stopped =
        std::thread::spawn(|| crate::run("sleep", &["infinity".to_owned()], &Environment::new()));
    for _ in 0..200 {
        // Repeated, because it may come before the application listens.
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        if stopped.is_finished() {
            break;
        }
    }
    let code = stopped.join().unwrap();
    assert!(
        code == 0 || code == 130,
        "130 if a second signal came before the end: {code}"
    );
}

/// The images of these manifests must be known, or the examples do not run.
#[test]
fn every_image_of_the_examples_has_a_stand_in() {
    let mut images = 0;
    let directories = std::fs::read_dir("../../examples")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    for example in directories {
        for file in std::fs::read_dir(example).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for line in text.lines() {
                let line = line.trim_start().trim_start_matches("- ");
                let Some(image) = line.strip_prefix("image: ") else {
                    continue;
                };
                let image = image.split(" #").next().unwrap_or_default().trim();
                assert!(crate::images::find(image).is_some(), "{image}");
                images += 1;
            }
        }
    }
    assert!(images > 10, "{images}");
}
