//! Whatever a client sends, a session does not panic, comes to rest, and never asks to be woken for nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use lateen_envoy::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::pb::google::rpc::Status;
use lateen_envoy::{Resource, ResourceSet, TypeUrl};
use lateen_xds::server::{ServerSession, SessionConfig, Variant};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Request(Request),
    Set(Vec<(usize, u8, u8)>),
    Wait(u16),
}

#[derive(Clone, Debug)]
struct Request {
    ty: usize,
    names: Vec<String>,
    dropped: Vec<String>,
    held: Vec<String>,
    nonce: String,
    rejects: bool,
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        Just(String::new()),
        (0_u8..4).prop_map(|n| n.to_string()),
        "\\PC{0,6}",
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let names = || proptest::collection::vec(name(), 0..4);
    // One past the end stands for a type that nobody knows.
    let ty = 0..=TypeUrl::ALL.len();
    let nonce = prop_oneof![
        Just(String::new()),
        (0_u8..12).prop_map(|n| format!("{n:x}")),
        "\\PC{0,3}"
    ];
    (ty, names(), names(), names(), nonce, any::<bool>()).prop_map(
        |(ty, names, dropped, held, nonce, rejects)| Request {
            ty,
            names,
            dropped,
            held,
            nonce,
            rejects,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let resources = proptest::collection::vec((0..TypeUrl::ALL.len(), 0_u8..4, 0_u8..3), 0..12);
    let step = prop_oneof![
        6 => request().prop_map(Step::Request),
        2 => resources.prop_map(Step::Set),
        1 => (0_u16..12_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..80)
}

/// The bodies of clusters are no clusters; that, too, must do no harm.
fn set(resources: Vec<(usize, u8, u8)>) -> ResourceSet {
    let mut set = ResourceSet::default();
    for (ty, name, version) in resources {
        let ty = TypeUrl::ALL[ty];
        let any = Any {
            type_url: ty.as_str().to_owned(),
            value: vec![version, 0xff, name],
        };
        set.insert(ty, Resource::from_any(name.to_string(), any));
    }
    set
}

fn url(ty: usize) -> String {
    TypeUrl::ALL
        .get(ty)
        .map_or("type.googleapis.com/no.such.Type", |ty| ty.as_str())
        .to_owned()
}

fn feed(session: &mut ServerSession, variant: Variant, request: Request, now: Instant) {
    let error = Status {
        code: 3,
        message: "no".to_owned(),
        ..Status::default()
    };
    let error_detail = request.rejects.then_some(error);
    let fed = match variant {
        Variant::Delta => {
            let held = request
                .held
                .into_iter()
                .map(|name| (name, "00ff".to_owned()))
                .collect();
            session.on_delta_request(
                &DeltaDiscoveryRequest {
                    type_url: url(request.ty),
                    resource_names_subscribe: request.names,
                    resource_names_unsubscribe: request.dropped,
                    initial_resource_versions: held,
                    response_nonce: request.nonce,
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                },
                now,
            )
        }
        Variant::StateOfTheWorld => session.on_request(
            &DiscoveryRequest {
                type_url: url(request.ty),
                resource_names: request.names,
                response_nonce: request.nonce,
                error_detail,
                ..DiscoveryRequest::default()
            },
            now,
        ),
    };
    fed.unwrap();
}

fn exercise(variant: Variant, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut session = ServerSession::new(variant, SessionConfig::default());
    let mut now = Instant::now();
    for step in steps {
        match step {
            Step::Request(request) => feed(&mut session, variant, request, now),
            Step::Set(resources) => session.set_resources(set(resources)),
            Step::Wait(millis) => now += Duration::from_millis(millis.into()),
        }
        let sent = std::iter::from_fn(|| session.poll(now)).take(100).count();
        // One response per type can be in flight.
        prop_assert!(sent <= TypeUrl::ALL.len(), "{} responses at once", sent);
        let deadline = session.deadline();
        prop_assert!(
            deadline.is_none_or(|at| at > now),
            "woken for nothing at {:?}",
            deadline
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn delta(steps in steps()) {
        exercise(Variant::Delta, steps)?;
    }

    #[test]
    fn state_of_the_world(steps in steps()) {
        exercise(Variant::StateOfTheWorld, steps)?;
    }
}
