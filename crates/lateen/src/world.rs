//! What commands that explain look at: the mesh that files describe, the mesh that runs, or one proxy's dump.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lateen_api::Resource;
use lateen_api::security::RequestAuthentication;
use lateen_compile::{Jwks, JwksSource, JwksStore, Settings, jwks_sources, public_set};
use lateen_envoy::{ResourceSet, TypeUrl, json};
use lateen_explain::{Mesh, MeshInputs, Places, Proxy};
use lateen_sources::files::{Loaded, Reader};
use lateen_sources::plan::{PodPlan, PodState, plan};
use lateen_sources::pods::compile_pods;
use lateen_sources::{defaults, mesh as mesh_config};
use serde_json::Value;

use crate::http::{self, Admin};
use crate::proxy_config::dump::ConfigDump;
use crate::state::StateDir;

/// The mesh of these files, as it would be with every pod ready; without files, the one that runs, as it is.
pub(crate) fn mesh(state: &StateDir, namespace: Option<&str>, paths: &[PathBuf]) -> Result<Mesh> {
    Ok(Mesh::new(inputs(state, namespace, paths)?))
}

/// What that mesh is made of.
pub(crate) fn inputs(
    state: &StateDir,
    namespace: Option<&str>,
    paths: &[PathBuf],
) -> Result<MeshInputs> {
    if !paths.is_empty() {
        let loaded = read(paths.to_vec(), namespace.unwrap_or("default"))?;
        return Ok(inputs_of_files(&loaded, None));
    }
    let up = state
        .running()?
        .context("no mesh is running here; give its files with -f DIR")?;
    let loaded = read(up.paths, &up.namespace)?;
    let pods = state.read_pods()?;
    let mut inputs = inputs_of_files(&loaded, Some(&pods));
    if !jwks_sources(&inputs.resources).is_empty() {
        inputs.jwks = fetched(state);
    }
    Ok(inputs)
}

/// The keys of issuers that the running control plane fetched; none, which is told, if it does not answer.
fn fetched(state: &StateDir) -> JwksStore {
    let istiod = Admin::Unix(state.istiod_socket());
    match http::request(&istiod, "GET", "/debug/jwksz").and_then(|answer| read_fetched(&answer)) {
        Ok(known) => known,
        Err(error) => {
            eprintln!("note: istiod does not say which keys of token issuers it has: {error:#}");
            JwksStore::new()
        }
    }
}

fn read_fetched(answer: &[u8]) -> Result<JwksStore> {
    let list: Vec<Value> = serde_json::from_slice(answer).context("the answer is not JSON")?;
    let entry = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().map(str::to_owned);
        let source = text("jwksUri")
            .map(JwksSource::Uri)
            .or_else(|| text("issuer").map(JwksSource::Discovery))?;
        let keys = text("jwks").map(Arc::from);
        let problem = text("problem");
        Some((source, Jwks { keys, problem }))
    };
    Ok(list.iter().filter_map(entry).collect())
}

/// The objects of these files. Files with errors are read as far as they go, which is told.
pub(crate) fn read(paths: Vec<PathBuf>, namespace: &str) -> Result<Loaded> {
    for path in &paths {
        std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    }
    let loaded = Reader::new(paths.clone(), namespace)
        .read()
        .unwrap_or_default();
    if loaded.resources.is_empty() {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "there are no Kubernetes or Istio objects in {}",
            paths.join(", ")
        );
    }
    let errors = loaded.diagnostics.iter().filter(|d| d.is_error()).count();
    if errors > 0 {
        let plural = if errors == 1 { "" } else { "s" };
        eprintln!(
            "note: {errors} error{plural} in these files; objects with errors are not used. See `lateen validate`."
        );
    }
    Ok(loaded)
}

/// What the mesh of files is made of, with the pods that run or else those that would.
pub(crate) fn inputs_of_files(loaded: &Loaded, running: Option<&[PodState]>) -> MeshInputs {
    let resources = defaults::with_defaults(&loaded.resources.to_vec());
    let dual_stack = running.is_some_and(|pods| pods.iter().any(|pod| pod.ipv6.is_some()));
    let (planned, _) = plan(&resources, dual_stack);
    let expected: Vec<PodState>;
    let pods = match running {
        Some(pods) => pods,
        None => {
            expected = planned.pods.iter().map(PodState::expected).collect();
            &expected
        }
    };
    let kinds: BTreeMap<(String, String), String> = pods
        .iter()
        .map(|pod| {
            let key = (pod.namespace.clone(), pod.name.clone());
            (key, pod.owner.kind.clone())
        })
        .collect();
    let (mesh, _) = mesh_config::config(&resources);
    let aware = |pod: &&PodPlan| pod.settings.is_set("ISTIO_META_ENABLE_SELF_DISCOVERY");
    let self_discovery = planned.pods.iter().filter(aware);
    let self_discovery = self_discovery.map(|pod| (pod.namespace.clone(), pod.name.clone()));
    MeshInputs {
        mesh,
        self_discovery: self_discovery.collect(),
        settings: Settings {
            dual_stack,
            ..Settings::default()
        },
        pods: compile_pods(pods),
        cluster_ips: planned.cluster_ips,
        kinds,
        resources,
        jwks: JwksStore::new(),
    }
}

/// The keys of issuers, as in `ISSUER=FILE`, for the rules that name a place of keys.
pub(crate) fn jwks(given: &[String], resources: &[Resource]) -> Result<JwksStore> {
    let rules = || {
        let specs = resources
            .iter()
            .filter_map(|resource| resource.spec_as::<RequestAuthentication>());
        specs.flat_map(|spec| &spec.jwt_rules)
    };
    let mut store = JwksStore::new();
    for text in given {
        // An issuer may hold the sign itself; a file's name seldom does.
        let (issuer, path) = text
            .rsplit_once('=')
            .with_context(|| format!("`{text}` is not ISSUER=FILE"))?;
        let keys = std::fs::read(path).with_context(|| format!("reading the keys of {issuer}"))?;
        let keys = public_set(&keys).with_context(|| format!("reading the keys in {path}"))?;
        let mut sources = rules().filter(|rule| rule.issuer == issuer).peekable();
        if sources.peek().is_none() {
            let mut known: Vec<&str> = rules().map(|rule| rule.issuer.as_str()).collect();
            known.sort_unstable();
            known.dedup();
            bail!(
                "no RequestAuthentication has issuer `{issuer}`; there are: {}",
                known.join(", ")
            );
        }
        let mut sources = sources.filter_map(JwksSource::of).peekable();
        if sources.peek().is_none() {
            bail!(
                "the rules for `{issuer}` hold its keys themselves (`jwks`): --jwks is not needed"
            );
        }
        let jwks = Jwks {
            keys: Some(keys),
            problem: None,
        };
        store.extend(sources.map(|source| (source, jwks.clone())));
    }
    Ok(store)
}

/// Where the objects of these files stand; nowhere without files.
pub(crate) fn places(paths: &[PathBuf], namespace: Option<&str>) -> Result<Places> {
    if paths.is_empty() {
        return Ok(Places::default());
    }
    let loaded = read(paths.to_vec(), namespace.unwrap_or("default"))?;
    let resources: Vec<Resource> = defaults::with_defaults(&loaded.resources.to_vec());
    Ok(Places::new(&resources))
}

/// The proxy a dump was taken of.
pub(crate) fn proxy_of_dump(dump: &ConfigDump) -> Result<Proxy> {
    let mut resources = ResourceSet::default();
    let mut unreadable = Vec::new();
    let groups = [
        (TypeUrl::Listener, dump.listeners(), "name"),
        (TypeUrl::Cluster, dump.clusters(), "name"),
        (TypeUrl::RouteConfiguration, dump.routes(), "name"),
        (
            TypeUrl::ClusterLoadAssignment,
            dump.endpoints(),
            "cluster_name",
        ),
    ];
    for (ty, values, key) in groups {
        for value in values {
            let name = value[key].as_str().unwrap_or_default().to_owned();
            let mut value = typed(value, ty);
            without_offers(&mut value);
            match json::any_from_value(value) {
                Ok(any) => {
                    resources.insert(ty, lateen_envoy::Resource::from_any(&*name, any));
                }
                Err(error) => unreadable.push(format!("{name}: {error}")),
            }
        }
    }
    if let Some(first) = unreadable.first() {
        eprintln!(
            "note: {} resources of the dump cannot be read and are left out; {first}",
            unreadable.len()
        );
    }
    let node = dump.bootstrap().map(|bootstrap| &bootstrap["node"]);
    let name = node.and_then(|node| node["metadata"]["NAME"].as_str());
    let mut proxy = Proxy::new(name.unwrap_or("proxy"), &resources);
    for rejection in &proxy.rejections {
        eprintln!("note: {} is left out: {}", rejection.name, rejection.reason);
    }
    if let Some(node) = node {
        describe(&mut proxy, node);
    }
    Ok(proxy)
}

/// What the bootstrap tells of the proxy itself.
fn describe(proxy: &mut Proxy, node: &Value) {
    let text = |key: &str| node["metadata"][key].as_str().unwrap_or_default();
    proxy.ips = text("INSTANCE_IPS")
        .split(',')
        .filter_map(|ip| ip.trim().parse().ok())
        .collect();
    let (namespace, account) = (text("NAMESPACE"), text("SERVICE_ACCOUNT"));
    if !namespace.is_empty() && !account.is_empty() {
        proxy.identity = Some(format!(
            "spiffe://cluster.local/ns/{namespace}/sa/{account}"
        ));
    }
}

/// Takes the filter out by which a stock Envoy offers its hosts protocols. It has no part in where a request goes, and this engine, which has Istio's
/// filter for it, refuses to be told by another.
fn without_offers(listener: &mut Value) {
    let Some(chains) = listener
        .get_mut("filter_chains")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    for filter in chains
        .iter_mut()
        .filter_map(|chain| chain.get_mut("filters")?.as_array_mut())
        .flatten()
    {
        let filters = filter.pointer_mut("/typed_config/http_filters");
        let Some(filters) = filters.and_then(Value::as_array_mut) else {
            continue;
        };
        let key = |state: &Value| state["object_key"] == "envoy.network.application_protocols";
        filters.retain(|filter| {
            let states = filter["typed_config"]["on_request_headers"].as_array();
            !states.is_some_and(|states| states.iter().all(key))
        });
    }
}

fn typed(value: &Value, ty: TypeUrl) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields
            .entry("@type")
            .or_insert_with(|| Value::String(ty.as_str().to_owned()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_the_control_plane_fetched_are_read_as_it_tells_them() {
        let answer = r#"[{"jwksUri": "http://keys/jwks", "issuer": null, "jwks": "{}", "problem": null},
            {"jwksUri": null, "issuer": "https://i", "jwks": null, "problem": "no answer"}]"#;
        let known = read_fetched(answer.as_bytes()).unwrap();
        let of = |source| &known[&source];
        let fetched = of(JwksSource::Uri("http://keys/jwks".to_owned()));
        assert_eq!(fetched.keys.as_deref(), Some("{}"));
        let missing = of(JwksSource::Discovery("https://i".to_owned()));
        assert_eq!(missing.problem.as_deref(), Some("no answer"));
        assert!(read_fetched(b"<html>").is_err());
    }

    #[test]
    fn a_path_that_is_not_there_is_told_from_one_without_objects() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: PathBuf| match read(vec![path], "default") {
            Ok(_) => panic!("something was read"),
            Err(error) => format!("{error:#}"),
        };
        assert!(said(dir.path().join("nosuch")).contains("No such file"));
        assert!(said(dir.path().to_owned()).contains("no Kubernetes or Istio objects"));
    }
}
