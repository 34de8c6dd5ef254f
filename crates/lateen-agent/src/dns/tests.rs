//! Tests of answers, of passing on, and of the server on the loopback interface.

use super::query::Protocol;
use super::*;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::istio::nds::name_table::NameInfo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;

fn service(name: &str, namespace: &str, ips: &[&str]) -> (String, NameInfo) {
    let info = NameInfo {
        ips: ips.iter().map(ToString::to_string).collect(),
        registry: "Kubernetes".to_owned(),
        shortname: name.to_owned(),
        namespace: namespace.to_owned(),
        ..NameInfo::default()
    };
    (format!("{name}.{namespace}.svc.cluster.local"), info)
}

fn external(host: &str, ips: &[&str]) -> (String, NameInfo) {
    let ips = ips.iter().map(ToString::to_string).collect();
    (
        host.to_owned(),
        NameInfo {
            ips,
            registry: "External".to_owned(),
            ..NameInfo::default()
        },
    )
}

fn names() -> NameTable {
    let many: Vec<String> = (0..100).map(|n| format!("10.1.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    NameTable {
        table: [
            service("ratings", "default", &["10.96.1.1", "fd00::1"]),
            service("web", "shop", &["10.96.1.2"]),
            service("db", "default", &["10.244.0.1", "10.244.0.2"]),
            service("many", "default", &many),
            external("www.Example.com", &["240.240.0.1"]),
            external("*.wild.org", &["240.240.0.2"]),
            external("broken.org", &["not an address"]),
        ]
        .into_iter()
        .collect(),
    }
}

fn scope() -> Scope {
    let search = [
        "default.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
    ];
    Scope::of_pod(
        "default",
        "default.svc.cluster.local",
        search.map(ToOwned::to_owned).to_vec(),
    )
}

fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn ask(table: &Table, name: &str, kind: RecordType) -> Option<Message> {
    match answer(
        &query(name, kind, None),
        Some(table),
        Protocol::Tcp,
        &mut |_| 0,
    ) {
        Answered::Locally(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Answered::AskUpstream { .. } => None,
        Answered::Nothing => panic!("a query is always answered"),
    }
}

/// The records of an answer as text; `None` if another server has to be asked.
fn check(table: &Table, name: &str, kind: RecordType) -> Option<Vec<String>> {
    let message = ask(table, name, kind)?;
    assert_eq!(message.metadata.id, 4711);
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert!(message.metadata.authoritative);
    Some(
        message
            .answers
            .iter()
            .map(|record| match &record.data {
                RData::CNAME(target) => format!("{} -> {}", record.name, target.0),
                data => format!("{} {data}", record.name),
            })
            .collect(),
    )
}

#[test]
fn a_service_is_known_by_the_names_pods_use() {
    let table = Table::new(&names(), scope());
    for name in [
        "ratings",
        "ratings.default",
        "ratings.default.svc",
        "RATINGS.default.svc.cluster.local",
    ] {
        let fqdn = format!("{name}.");
        let found = check(&table, &fqdn, RecordType::A);
        assert_eq!(found, Some(vec![format!("{fqdn} 10.96.1.1")]), "{name}");
    }
    assert!(check(&table, "web.shop.", RecordType::A).is_some());
    assert_eq!(
        check(&table, "web.", RecordType::A),
        None,
        "another namespace's bare name"
    );
}

#[test]
fn a_family_that_is_missing_is_no_error_and_no_upstream_query() {
    let table = Table::new(&names(), scope());
    assert_eq!(
        check(&table, "ratings.", RecordType::AAAA),
        Some(vec!["ratings. fd00::1".to_owned()])
    );
    assert_eq!(
        check(&table, "web.shop.", RecordType::AAAA),
        Some(Vec::new())
    );
}

#[test]
fn a_name_lengthened_by_the_search_list_is_answered_at_once() {
    let table = Table::new(&names(), scope());
    let lengthened = "www.example.com.default.svc.cluster.local.";
    assert_eq!(
        check(&table, lengthened, RecordType::A).unwrap(),
        [
            format!("{lengthened} -> www.example.com."),
            "www.example.com. 240.240.0.1".to_owned()
        ]
    );
    assert_eq!(
        check(&table, lengthened, RecordType::AAAA),
        Some(Vec::new())
    );
    let wild = "a.wild.org.default.svc.cluster.local.";
    assert_eq!(
        check(&table, wild, RecordType::A).unwrap(),
        [
            format!("{wild} -> a.wild.org."),
            "a.wild.org. 240.240.0.2".to_owned()
        ]
    );
    let twice = "ratings.default.svc.cluster.local.default.svc.cluster.local.";
    assert_eq!(
        check(&table, twice, RecordType::A),
        None,
        "a full name needs no lengthening"
    );
    assert_eq!(
        check(&table, "www.example.com.svc.cluster.local.", RecordType::A),
        None
    );
}

#[test]
fn a_wildcard_covers_every_depth_but_not_its_parent() {
    let table = Table::new(&names(), scope());
    for name in ["a.wild.org.", "a.b.wild.org."] {
        assert_eq!(
            check(&table, name, RecordType::A),
            Some(vec![format!("{name} 240.240.0.2")])
        );
    }
    assert_eq!(check(&table, "wild.org.", RecordType::A), None);
}

#[test]
fn what_is_unknown_or_of_another_kind_is_asked_elsewhere() {
    let table = Table::new(&names(), scope());
    assert_eq!(check(&table, "github.com.", RecordType::A), None);
    assert_eq!(check(&table, "broken.org.", RecordType::A), None);
    assert_eq!(check(&table, "ratings.", RecordType::TXT), None);
}

#[test]
fn a_clusters_own_server_says_what_does_not_exist() {
    let authority = vec!["cluster.local".to_owned()];
    let table = Table::new(
        &names(),
        Scope {
            authority,
            ..scope()
        },
    );
    let missing = ask(&table, "nobody.default.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let other = ask(
        &table,
        "ratings.default.svc.cluster.local.",
        RecordType::TXT,
    )
    .unwrap();
    assert_eq!(other.metadata.response_code, ResponseCode::NoError);
    assert!(other.answers.is_empty());
    assert!(ask(&table, "github.com.", RecordType::A).is_none());
}

#[test]
fn addresses_take_turns() {
    let table = Table::new(&names(), scope());
    let first = |swap: usize| {
        let bytes = query("db.", RecordType::A, None);
        let Answered::Locally(bytes) = answer(&bytes, Some(&table), Protocol::Udp, &mut |_| swap)
        else {
            panic!("known name")
        };
        Message::from_vec(&bytes).unwrap().answers[0]
            .data
            .to_string()
    };
    assert_ne!(first(0), first(1));
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let table = Table::new(&names(), scope());
    let size_of = |edns, protocol| {
        let bytes = query("many.", RecordType::A, edns);
        let Answered::Locally(bytes) = answer(&bytes, Some(&table), protocol, &mut |_| 0) else {
            panic!("known name")
        };
        let message = Message::from_vec(&bytes).unwrap();
        (
            bytes.len(),
            message.metadata.truncation,
            message.answers.len(),
        )
    };
    let (length, truncated, kept) = size_of(None, Protocol::Udp);
    assert!(length <= 512 && truncated && kept > 0);
    assert!(matches!(
        size_of(Some(4096), Protocol::Udp),
        (_, false, 100)
    ));
    assert!(matches!(size_of(None, Protocol::Tcp), (_, false, 100)));
}

#[test]
fn before_the_first_table_nothing_is_said_to_be_missing() {
    let bytes = query("ratings.", RecordType::A, None);
    let Answered::Locally(bytes) = answer(&bytes, None, Protocol::Udp, &mut |_| 0) else {
        panic!("answered")
    };
    let code = Message::from_vec(&bytes).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::ServFail);
}

#[test]
fn junk_and_responses_get_no_answer_that_could_be_answered() {
    let table = Table::new(&names(), scope());
    let silent = |bytes: &[u8]| answer(bytes, Some(&table), Protocol::Udp, &mut |_| 0);
    assert_eq!(silent(b""), Answered::Nothing);
    assert_eq!(
        silent(&[0x12, 0x34, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff]),
        Answered::Nothing
    );
    let mut response = query("ratings.", RecordType::A, None);
    response[2] |= 0x80;
    assert_eq!(silent(&response), Answered::Nothing);
    let torn = &query("ratings.", RecordType::A, None)[..14];
    let Answered::Locally(bytes) = silent(torn) else {
        panic!("a torn query is told so")
    };
    let code = Message::from_vec(&bytes).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::FormErr);
}

#[test]
fn no_bytes_make_it_panic() {
    use rand::{Rng as _, SeedableRng as _};
    let table = Table::new(&names(), scope());
    let mut random = rand::rngs::StdRng::seed_from_u64(53);
    let seeds = [
        query("ratings.", RecordType::A, Some(1232)),
        query(
            "www.example.com.default.svc.cluster.local.",
            RecordType::AAAA,
            None,
        ),
        query("many.", RecordType::ANY, Some(0)),
    ];
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=bytes.len()));
        answer(&bytes, Some(&table), Protocol::Udp, &mut |below| below - 1);
    }
}

/// A name server that answers each query with what `make` makes of it.
async fn name_server(make: fn(Message) -> Message) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let mut answer = make(Message::from_vec(&buffer[..length]).unwrap());
            answer.metadata.message_type = MessageType::Response;
            // A forged answer with another id comes first and must be passed over.
            let mut forged = answer.clone();
            forged.metadata.id = forged.metadata.id.wrapping_add(1);
            forged.metadata.response_code = ResponseCode::NXDomain;
            socket
                .send_to(&forged.to_vec().unwrap(), client)
                .await
                .unwrap();
            socket
                .send_to(&answer.to_vec().unwrap(), client)
                .await
                .unwrap();
        }
    });
    address
}

fn refuse(mut query: Message) -> Message {
    query.metadata.response_code = ResponseCode::Refused;
    query
}

fn resolve(mut query: Message) -> Message {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;
    let name = query.queries[0].name().clone();
    query.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(A([192, 0, 2, 1].into())),
    ));
    query
}

async fn server(servers: Vec<SocketAddr>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let (_, table) = watch::channel(Some(Arc::new(names())));
    let timeout = Duration::from_millis(500);
    let upstream = Upstream::new(UpstreamOptions {
        servers,
        timeout,
        mark: None,
    });
    let listen = ["127.0.0.1:0".parse().unwrap()];
    let server = DnsServer::bind(&listen, table, scope(), upstream)
        .await
        .unwrap();
    let address = server.addresses()[0];
    let task = tokio::spawn(server.run());
    tokio::task::yield_now().await;
    (address, task)
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = [0; 4096];
    // The server compiles its table in its first moments.
    for _ in 0..50 {
        socket.send_to(query, server).await.unwrap();
        let length = socket.recv(&mut buffer).await.unwrap();
        let message = Message::from_vec(&buffer[..length]).unwrap();
        if message.metadata.response_code != ResponseCode::ServFail {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Message::from_vec(&buffer).unwrap()
}

#[tokio::test]
async fn the_server_answers_over_udp_and_tcp() {
    let (address, task) = server(Vec::new()).await;
    let bytes = query("ratings.", RecordType::A, None);
    assert_eq!(over_udp(address, &bytes).await.answers.len(), 1);
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let length = u16::try_from(bytes.len()).unwrap();
        stream.write_u16(length).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    task.abort();
}

#[tokio::test]
async fn a_silent_or_refusing_name_server_does_not_stand_in_the_way_of_a_good_one() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = vec![
        silent.local_addr().unwrap(),
        name_server(refuse).await,
        name_server(resolve).await,
    ];
    let (address, task) = server(servers).await;
    let answer = over_udp(address, &query("github.com.", RecordType::A, None)).await;
    assert_eq!(answer.metadata.id, 4711);
    assert_eq!(answer.answers[0].data.to_string(), "192.0.2.1");
    task.abort();
}

#[tokio::test]
async fn when_no_name_server_answers_the_client_is_told() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(UpstreamOptions {
        servers: vec![silent.local_addr().unwrap()],
        timeout: Duration::from_millis(50),
        mark: None,
    });
    let bytes = query("github.com.", RecordType::A, None);
    assert_eq!(upstream.ask(&bytes, Protocol::Udp).await, None);
    let refusing = Upstream::new(UpstreamOptions {
        servers: vec![name_server(refuse).await],
        timeout: Duration::from_millis(500),
        mark: None,
    });
    let refusal = refusing.ask(&bytes, Protocol::Udp).await.unwrap();
    let code = Message::from_vec(&refusal).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::Refused);
}
