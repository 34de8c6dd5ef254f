//! What the tests share: a mesh of manifests, as it would be with every pod ready.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use lateen_api::{Resource, SourceFile};
use lateen_compile::Settings;
use lateen_explain::{
    Asked, Client, Explanation, Look, Mesh, MeshInputs, Options, explain, render,
};
use lateen_sources::files::Reader;
use lateen_sources::plan::{PodState, plan};
use lateen_sources::pods::compile_pods;
use lateen_sources::{defaults, mesh as mesh_config};

/// A mesh of the given objects and those of the default installation.
pub(crate) fn mesh_of(resources: &[Resource]) -> Mesh {
    Mesh::new(inputs_of(resources).taking_described_tokens())
}

fn inputs_of(resources: &[Resource]) -> MeshInputs {
    let resources = defaults::with_defaults(resources);
    let (planned, _) = plan(&resources, false);
    let pods: Vec<PodState> = planned.pods.iter().map(PodState::expected).collect();
    let kinds: BTreeMap<(String, String), String> = pods
        .iter()
        .map(|pod| {
            (
                (pod.namespace.clone(), pod.name.clone()),
                pod.owner.kind.clone(),
            )
        })
        .collect();
    let (mesh, _) = mesh_config::config(&resources);
    MeshInputs {
        mesh,
        settings: Settings::default(),
        pods: compile_pods(&pods),
        cluster_ips: planned.cluster_ips,
        kinds,
        resources,
        ..MeshInputs::default()
    }
}

/// A mesh of a text.
pub(crate) fn mesh(yaml: &str) -> Mesh {
    mesh_of(&read(yaml))
}

/// A mesh of a text that takes tokens of its issuers alone.
pub(crate) fn without_described_tokens(yaml: &str) -> Mesh {
    Mesh::new(inputs_of(&read(yaml)))
}

fn read(yaml: &str) -> Vec<Resource> {
    let loaded = Reader::parse_text(SourceFile::new("mesh.yaml", yaml), "default");
    let errors: Vec<_> = loaded.diagnostics.iter().filter(|d| d.is_error()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    loaded.resources.to_vec()
}

/// A mesh of a directory of the repository.
pub(crate) fn directory(path: &str) -> Mesh {
    let root = PathBuf::from("../..").join(path);
    let loaded = Reader::new(vec![root], "default").read().expect("files");
    mesh_of(&loaded.resources.to_vec())
}

/// A workload of a mesh as a client; `outside` for somebody at its gateway.
pub(crate) fn client(mesh: &Mesh, from: &str) -> Client {
    if from == "outside" {
        let pod = mesh.gateway(None, None).expect("a gateway");
        let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
        return Client::Outside { namespace, pod };
    }
    let pod = mesh.find(from, None).expect("the client");
    let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
    Client::Workload { namespace, pod }
}

/// Explains `[METHOD] URL [name: value]…`, parts apart by two spaces.
pub(crate) fn ask(mesh: &Mesh, from: &str, line: &str) -> Explanation {
    let mut parts = line.split("  ");
    let (method, url) = match parts.next().unwrap_or_default().split_once(' ') {
        Some((method, url)) => (Some(method), url),
        None => (None, line.split("  ").next().unwrap_or_default()),
    };
    let headers: Vec<String> = parts.map(str::to_owned).collect();
    let asked = Asked::parse(method, url, &headers).expect("a request");
    explain(mesh, &client(mesh, from), &asked, Options::default()).expect("an explanation")
}

/// The explanation as text, with pods' generated names and addresses made plain.
pub(crate) fn text(explanation: &Explanation) -> String {
    let text = render(explanation, Look::default());
    text.lines()
        .map(|line| plain(line).trim_end().to_owned() + "\n")
        .collect()
}

/// Addresses and names of pods follow from hashes, and files are where the repository is: neither is what is tested.
fn plain(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let end = word.find([':', ',']).unwrap_or(word.len());
        let (head, tail) = word.split_at(end);
        match head.parse::<std::net::Ipv4Addr>() {
            Ok(ip) if ip.octets()[..2] == [10, 244] => return format!("POD{tail}"),
            Ok(ip) if ip.octets()[..2] == [10, 96] => return format!("VIP{tail}"),
            _ => {}
        }
        if let Some(at) = word.rfind("/../../") {
            return word[at + 7..].to_owned();
        }
        unhashed(word)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `web-v1-pf7k9hw45j-ns9sc` without its hashes.
fn unhashed(word: &str) -> String {
    let mut parts: Vec<&str> = word.rsplitn(3, '-').collect();
    let is_hash = |part: &&str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    match parts.pop() {
        Some(name) if parts.len() == 2 && is_hash(&parts[0], 5) && is_hash(&parts[1], 10) => {
            format!("{name}-…")
        }
        _ => word.to_owned(),
    }
}
