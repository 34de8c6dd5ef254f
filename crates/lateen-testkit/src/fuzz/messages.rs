//! Messages of who should be a friend and may be none: a control plane, its clients, name servers, who asks for a certificate, and
//! files that hold certificates or keys.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_agent::dns::{Scope, Table, response_code};
use lateen_compile::{Compiler, ProxyKind, public_set};
use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3 as discovery;
use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{Resource, ResourceSet, TypeUrl};
use lateen_identity::TrustBundle;
use lateen_identity::csr::{KeyAndRequest, PublicKey};
use lateen_identity::tls::CertifiedKeyPair;
use lateen_traffic::jwt::KeySet;
use lateen_traffic::program::Change;
use lateen_traffic::{Program, Rejection};
use lateen_xds::client::{ClientSession, Incoming};
use lateen_xds::server::{ServerSession, SessionConfig, Variant};
use prost::Message;

use super::compile::{node, snapshot};

/// A mesh with something of everything that is compiled.
const MESH: &str = include_str!("mesh.yaml");

/// Resources longer than this make no seeds: small inputs find more per second.
const LONGEST_SEED: usize = 6 << 10;

/// What the mesh compiles to, for a sidecar and for a gateway.
fn compiled() -> Vec<(TypeUrl, Resource)> {
    let (parsed, _) = super::yaml::read(MESH);
    let (snapshot, _) = snapshot(parsed.resources);
    let mut out: Vec<(TypeUrl, Resource)> = Vec::new();
    for kind in [ProxyKind::Sidecar, ProxyKind::Router] {
        let compiled = Compiler::new().compile(&snapshot, &node(kind));
        for (ty, resources) in compiled.resources.iter() {
            let small = resources
                .values()
                .filter(|resource| resource.body.value.len() <= LONGEST_SEED)
                .map(|resource| (ty, resource.clone()));
            out.extend(small);
        }
    }
    out
}

/// The place of a type among all of them, as the first byte of an input.
fn code(ty: TypeUrl) -> u8 {
    let place = TypeUrl::ALL.iter().position(|other| *other == ty);
    place
        .and_then(|place| u8::try_from(place).ok())
        .unwrap_or(0)
}

/// Resources as a control plane sends them: a byte for the type, then the message.
pub(super) fn resource_seeds() -> Vec<Vec<u8>> {
    let seed = |(ty, resource): (TypeUrl, Resource)| {
        [&[code(ty)][..], resource.body.value.as_slice()].concat()
    };
    compiled().into_iter().map(seed).collect()
}

/// A resource is taken or refused, and the one that was there before stays if it is refused.
pub(super) fn resource(bytes: &[u8]) -> Result<(), &'static str> {
    let Some((ty, body)) = bytes.split_first() else {
        return Ok(());
    };
    let ty = TypeUrl::ALL[usize::from(*ty) % TypeUrl::ALL.len()];
    if ty == TypeUrl::NameTable {
        if let Ok(names) = NameTable::decode(body) {
            let domain = "default.svc.cluster.local";
            let _ = Table::new(
                &names,
                Scope::of_pod("default", domain, vec![domain.to_owned()]),
            );
        }
        return Ok(());
    }
    let any = Any {
        type_url: ty.as_str().to_owned(),
        value: body.to_vec(),
    };
    take(&[Change::Upsert(ty, Resource::from_any("x", any))])
}

/// Applies changes to a program; each is refused once at most.
fn take(changes: &[Change]) -> Result<(), &'static str> {
    let (_, rejections): (Program, Vec<Rejection>) = Program::new().update(changes);
    if rejections.len() > changes.len() {
        return Err("more rejections than resources");
    }
    Ok(())
}

/// Messages of a stream, each after its length.
fn stream<M: Message + Default>(mut bytes: &[u8]) -> Vec<M> {
    let mut out = Vec::new();
    while let Ok(message) = M::decode_length_delimited(&mut bytes) {
        out.push(message);
    }
    out
}

/// Responses of a control plane.
pub(super) fn response_seeds() -> Vec<Vec<u8>> {
    let response = |(number, (ty, resource)): (usize, (TypeUrl, Resource))| {
        let wire = discovery::Resource {
            name: resource.name.to_string(),
            version: resource.version_string(),
            resource: Some((*resource.body).clone()),
            ..discovery::Resource::default()
        };
        let message = discovery::DeltaDiscoveryResponse {
            type_url: ty.as_str().to_owned(),
            nonce: number.to_string(),
            resources: vec![wire],
            removed_resources: vec!["gone".to_owned()],
            ..discovery::DeltaDiscoveryResponse::default()
        };
        message.encode_length_delimited_to_vec()
    };
    let each: Vec<Vec<u8>> = compiled().into_iter().enumerate().map(response).collect();
    let all = each.iter().take(3).flatten().copied().collect();
    std::iter::once(all)
        .chain(each.iter().step_by(3).cloned())
        .collect()
}

/// Whatever a control plane answers, the client's session takes or refuses it, and applies what it took.
pub(super) fn responses(bytes: &[u8]) -> Result<(), &'static str> {
    let mut session = ClientSession::new(Node::default());
    for ty in TypeUrl::ALL {
        let _ = session.subscribe_all(ty);
    }
    let _ = session.restart();
    for response in stream::<discovery::DeltaDiscoveryResponse>(bytes) {
        let Incoming::Update(update) = session.on_response(response) else {
            continue;
        };
        let ty = update.ty;
        let changes: Vec<Change> = update
            .changed
            .into_iter()
            .map(|resource| Change::Upsert(ty, resource))
            .collect();
        take(&changes)?;
        let _ = session.ack(&update.ticket);
    }
    Ok(())
}

/// Requests of a proxy: a byte for the variant, then the messages.
pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    let names = || vec!["*".to_owned(), "x".to_owned()];
    let mut delta = vec![1];
    let mut plain = vec![0];
    for ty in TypeUrl::ALL {
        let request = discovery::DeltaDiscoveryRequest {
            type_url: ty.as_str().to_owned(),
            resource_names_subscribe: names(),
            resource_names_unsubscribe: names(),
            initial_resource_versions: [("x".to_owned(), "1".to_owned())].into(),
            response_nonce: "1".to_owned(),
            ..discovery::DeltaDiscoveryRequest::default()
        };
        delta.extend(request.encode_length_delimited_to_vec());
        let request = discovery::DiscoveryRequest {
            type_url: ty.as_str().to_owned(),
            resource_names: names(),
            response_nonce: "1".to_owned(),
            ..discovery::DiscoveryRequest::default()
        };
        plain.extend(request.encode_length_delimited_to_vec());
    }
    vec![delta, plain]
}

/// Whatever a proxy asks, the server's session comes to rest: one response of a type in flight.
pub(super) fn requests(bytes: &[u8]) -> Result<(), &'static str> {
    let Some((variant, messages)) = bytes.split_first() else {
        return Ok(());
    };
    let variant = if variant & 1 == 1 {
        Variant::Delta
    } else {
        Variant::StateOfTheWorld
    };
    let mut session = ServerSession::new(variant, SessionConfig::default());
    session.set_resources(served());
    let now = Instant::now();
    let fed = |session: &mut ServerSession, went: bool| {
        let sent = std::iter::from_fn(|| session.poll(now)).take(100).count();
        if sent > TypeUrl::ALL.len() {
            return Err("a response of a type while another is in flight");
        }
        Ok(went)
    };
    match variant {
        Variant::Delta => {
            for request in stream::<discovery::DeltaDiscoveryRequest>(messages) {
                let went = session.on_delta_request(&request, now).is_ok();
                if !fed(&mut session, went)? {
                    break;
                }
            }
        }
        Variant::StateOfTheWorld => {
            for request in stream::<discovery::DiscoveryRequest>(messages) {
                let went = session.on_request(&request, now).is_ok();
                if !fed(&mut session, went)? {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn served() -> ResourceSet {
    let mut set = ResourceSet::default();
    for ty in TypeUrl::ALL {
        let any = Any {
            type_url: ty.as_str().to_owned(),
            value: vec![1],
        };
        set.insert(ty, Resource::from_any("x", any));
    }
    set
}

/// A question that was asked, and its number.
const ASKED: (&[u8], u16) = (
    b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01",
    0x0102,
);

/// What a name server sends back: only what answers the question that was asked counts.
pub(super) fn dns_answer(bytes: &[u8]) -> Result<(), &'static str> {
    let (question, id) = ASKED;
    if response_code(bytes, question, id).is_none() {
        return Ok(());
    }
    let is_response = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if bytes.get(..2) != Some(&id.to_be_bytes()) || !is_response {
        return Err("what answers no question of ours was taken for an answer");
    }
    Ok(())
}

/// Certificates, keys and roots in PEM.
pub(super) fn pem_seeds() -> Vec<Vec<u8>> {
    let id = "spiffe://cluster.local/ns/default/sa/a".parse();
    let made = id.ok().and_then(|id| KeyAndRequest::generate(&id).ok());
    made.map(|made| made.csr_pem.into_bytes())
        .into_iter()
        .collect()
}

/// A file or a Secret with a chain and its key, or with roots. What is read is written so that it reads the same.
pub(super) fn pem(bytes: &[u8]) -> Result<(), &'static str> {
    let _ = CertifiedKeyPair::from_pem(bytes, bytes);
    let Ok(bundle) = TrustBundle::from_pem(bytes) else {
        return Ok(());
    };
    match TrustBundle::from_pem(bundle.to_pem().as_bytes()) {
        Ok(again) if again == bundle => Ok(()),
        _ => Err("what was written of roots is not what was read"),
    }
}

/// Requests for certificates, in PEM and as the bytes in it.
pub(super) fn certificate_request(bytes: &[u8]) -> Result<(), &'static str> {
    let _ = PublicKey::from_csr_pem(&String::from_utf8_lossy(bytes));
    let (begin, end) = (
        "-----BEGIN CERTIFICATE REQUEST-----",
        "-----END CERTIFICATE REQUEST-----",
    );
    let _ = PublicKey::from_csr_pem(&format!("{begin}\n{}\n{end}\n", STANDARD.encode(bytes)));
    Ok(())
}

/// What a server of keys answers: what of it is handed on is public, and can be used.
pub(super) fn key_set(bytes: &[u8]) -> Result<(), &'static str> {
    let _ = KeySet::parse(&String::from_utf8_lossy(bytes)).map(KeySet::of_public_keys);
    let Ok(public) = public_set(bytes) else {
        return Ok(());
    };
    let set: serde_json::Value =
        serde_json::from_str(&public).map_err(|_| "no JSON is handed on")?;
    let keys = set["keys"].as_array().ok_or("no keys are handed on")?;
    for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        if keys.iter().any(|key| key.get(private).is_some()) {
            return Err("a private half is handed on");
        }
    }
    // Whether there is a key among them that proxies can use is asked where they are fetched.
    let _ = KeySet::parse(&public).map(KeySet::of_public_keys);
    Ok(())
}
