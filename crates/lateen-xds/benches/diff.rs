//! What it takes to find and write what one client lacks, when one of ten thousand resources has changed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lateen_envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{Resource, ResourceSet, Resources, TypeUrl};
use lateen_xds::server::{Response, ServerSession, SessionConfig, Variant};

const TYPE: TypeUrl = TypeUrl::ClusterLoadAssignment;

fn resource(index: usize, version: u8) -> Resource {
    let any = Any {
        type_url: TYPE.as_str().to_owned(),
        value: vec![version; 300],
    };
    Resource::from_any(
        format!("outbound|80||service-{index:05}.a.svc.cluster.local"),
        any,
    )
}

fn of(resources: Resources) -> ResourceSet {
    let mut set = ResourceSet::default();
    set.set(TYPE, Arc::new(resources));
    set
}

/// A client that has all it was to have.
fn settled(set: &ResourceSet) -> ServerSession {
    let now = Instant::now();
    let mut session = ServerSession::new(Variant::Delta, SessionConfig::default());
    session.set_resources(set.clone());
    let all = set.get(TYPE);
    let request = DeltaDiscoveryRequest {
        type_url: TYPE.as_str().to_owned(),
        resource_names_subscribe: all.keys().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    session
        .on_delta_request(&request, now)
        .expect("within limits");
    while let Some(Response::Delta(response)) = session.poll(now) {
        acknowledge(&mut session, response.nonce, now);
    }
    session
}

fn acknowledge(session: &mut ServerSession, nonce: String, now: Instant) {
    let request = DeltaDiscoveryRequest {
        type_url: TYPE.as_str().to_owned(),
        response_nonce: nonce,
        ..DeltaDiscoveryRequest::default()
    };
    session
        .on_delta_request(&request, now)
        .expect("within limits");
}

fn diff(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_changed_resource");
    for count in [1_000, 10_000] {
        let all: Resources = (0..count)
            .map(|i| resource(i, 0))
            .map(|r| (r.name.clone(), r))
            .collect();
        let mut changed = all.clone();
        let new = resource(count / 2, 1);
        changed.insert(new.name.clone(), new);
        let (before, after) = (of(all), of(changed));
        let mut session = settled(&before);
        let mut turn = false;
        group.bench_function(format!("of_{count}"), |bencher| {
            bencher.iter(|| {
                turn = !turn;
                session.set_resources(if turn { after.clone() } else { before.clone() });
                let now = Instant::now();
                if let Some(Response::Delta(response)) = black_box(session.poll(now)) {
                    acknowledge(&mut session, response.nonce, now);
                }
            });
        });
        group.bench_function(format!("first_push_of_{count}"), |bencher| {
            bencher.iter_batched(
                || before.clone(),
                |set| settled(&set),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, diff);
criterion_main!(benches);
