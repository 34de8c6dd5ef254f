//! Volumes: the kinds that need no storage system. Others become empty memory, and a problem is reported.

use std::collections::BTreeMap;

use lateen_api::schema::decode::Decode;
use lateen_api::value::Value;
use lateen_api::{SourceFile, kube, parse_fragment};
use lateen_sources::plan::{PodPlan, PodRole};

use super::{Surroundings, environment, field};
use crate::sandbox::{File, Mount, Volume};
use crate::supervisor::Objects;

/// Volumes for the proxy's container.
const USER_VOLUME: &str = "sidecar.istio.io/userVolume";
/// Where its container has them.
const USER_MOUNT: &str = "sidecar.istio.io/userVolumeMount";

/// Kubernetes' `defaultMode`.
const DEFAULT_MODE: u32 = 0o644;

/// Adds the pod's own volumes. One whose object is missing is left out, so that containers that mount it wait.
pub(super) fn add(
    volumes: &mut BTreeMap<String, Volume>,
    plan: &PodPlan,
    around: &Surroundings<'_>,
    problems: &mut Vec<String>,
) {
    let of_proxy = annotated::<kube::Volume>(plan, USER_VOLUME, problems)
        .into_iter()
        .map(|(name, volume)| kube::Volume { name, ..volume });
    for volume in plan.spec.volumes.iter().cloned().chain(of_proxy) {
        if let Some(resolved) = resolve(plan, &volume, around, problems) {
            volumes.insert(volume.name, resolved);
        }
    }
}

/// The mounts of the proxy's container: what its own container in the manifest says, and the annotation.
pub(super) fn of_proxy(
    plan: &PodPlan,
    written: Option<&kube::Container>,
    env: &[(String, String)],
) -> Vec<Mount> {
    let annotated = annotated::<kube::VolumeMount>(plan, USER_MOUNT, &mut Vec::new()).into_iter();
    let annotated = annotated.map(|(name, mount)| kube::VolumeMount { name, ..mount });
    let mut all = written.map_or_else(Vec::new, |container| container.volume_mounts.clone());
    all.extend(annotated);
    expanded(&all, env)
}

/// An annotation of the proxy's container: a JSON object, by the volumes' names. Source: Istio's injection template.
fn annotated<T>(
    plan: &PodPlan,
    name: &'static str,
    problems: &mut Vec<String>,
) -> BTreeMap<String, T>
where
    BTreeMap<String, T>: Decode + Default,
{
    let Some(text) = plan
        .annotations
        .get(name)
        .filter(|_| plan.role != PodRole::Plain)
    else {
        return BTreeMap::new();
    };
    let (read, found) = parse_fragment(&SourceFile::new(name, text));
    let broken = found.iter().find(|finding| finding.is_error());
    problems.extend(broken.map(|finding| {
        let problem = &finding.message;
        format!("annotation {name} cannot be used as a whole: {problem}")
    }));
    read
}

/// A container's mounts, with `subPathExpr` expanded.
pub(super) fn mounts(container: &kube::Container, env: &[(String, String)]) -> Vec<Mount> {
    expanded(&container.volume_mounts, env)
}

fn expanded(mounts: &[kube::VolumeMount], env: &[(String, String)]) -> Vec<Mount> {
    let sub_path = |mount: &kube::VolumeMount| {
        let path = match mount.sub_path_expr.as_str() {
            "" => mount.sub_path.clone(),
            expression => environment::expand(expression, env),
        };
        Some(path).filter(|path| !path.is_empty())
    };
    let mounts = mounts.iter();
    mounts
        .map(|mount| Mount {
            volume: mount.name.clone(),
            path: mount.mount_path.clone(),
            sub_path: sub_path(mount),
            read_only: mount.read_only,
        })
        .collect()
}

/// Why a container with these mounts cannot start.
pub(super) fn missing(mounts: &[Mount], volumes: &BTreeMap<String, Volume>) -> Option<String> {
    let missing = mounts
        .iter()
        .find(|mount| !volumes.contains_key(&mount.volume))?;
    Some(format!(
        "volume {} for {} is not defined, or the ConfigMap or Secret behind it does not exist",
        missing.volume, missing.path
    ))
}

fn resolve(
    plan: &PodPlan,
    volume: &kube::Volume,
    around: &Surroundings<'_>,
    problems: &mut Vec<String>,
) -> Option<Volume> {
    if let Some(host) = &volume.host_path {
        return Some(Volume::Host(host.path.clone().into()));
    }
    if let Some(source) = &volume.config_map {
        let objects = &around.desired.config_maps;
        let items = Items {
            items: &source.items,
            mode: source.default_mode,
        };
        return object(plan, objects, &source.name, &items, source.optional).map(Volume::Files);
    }
    if let Some(source) = &volume.secret {
        let objects = &around.desired.secrets;
        let items = Items {
            items: &source.items,
            mode: source.default_mode,
        };
        return object(plan, objects, &source.secret_name, &items, source.optional)
            .map(Volume::Files);
    }
    if let Some(source) = &volume.downward_api {
        return Some(Volume::Files(downward(plan, source)));
    }
    if let Some(source) = &volume.projected {
        return projected(plan, source, around).map(Volume::Files);
    }
    if volume.empty_dir.is_none() {
        problems.push(format!(
            "volume {} needs a storage system; it is empty memory here and lost with the pod",
            volume.name
        ));
    }
    Some(Volume::Empty)
}

struct Items<'a> {
    items: &'a [kube::KeyToPath],
    mode: Option<i32>,
}

/// The files of a `ConfigMap` or `Secret`; `None` when it is required and missing.
fn object(
    plan: &PodPlan,
    objects: &Objects,
    name: &str,
    wanted: &Items<'_>,
    optional: Option<bool>,
) -> Option<Vec<File>> {
    let mode = wanted.mode.map_or(DEFAULT_MODE, i32::cast_unsigned);
    let Some(object) = objects.get(&(plan.namespace.clone(), name.to_owned())) else {
        return (optional == Some(true)).then(Vec::new);
    };
    let file = |path: &str, content: &[u8], mode| File {
        path: path.to_owned(),
        content: content.to_vec(),
        mode,
    };
    if wanted.items.is_empty() {
        return Some(
            object
                .iter()
                .map(|(key, content)| file(key, content, mode))
                .collect(),
        );
    }
    let mut files = Vec::new();
    for item in wanted.items {
        match object.get(&item.key) {
            Some(content) => {
                let mode = item.mode.map_or(mode, i32::cast_unsigned);
                files.push(file(&item.path, content, mode));
            }
            None if optional == Some(true) => {}
            None => return None,
        }
    }
    Some(files)
}

fn downward(plan: &PodPlan, source: &Value) -> Vec<File> {
    let items = source
        .get("items")
        .and_then(Value::as_list)
        .unwrap_or_default();
    let file = |item: &Value| {
        let path = item.get("path")?.as_str()?.to_owned();
        let content = field(plan, item.at("fieldRef.fieldPath")?.as_str()?)?;
        Some(File {
            path,
            content: content.into_bytes(),
            mode: DEFAULT_MODE,
        })
    };
    items.iter().filter_map(file).collect()
}

/// `projected`: `configMap`, `secret`, `downwardAPI` and `serviceAccountToken` sources in one directory.
fn projected(plan: &PodPlan, source: &Value, around: &Surroundings<'_>) -> Option<Vec<File>> {
    let mut files = Vec::new();
    for part in source
        .get("sources")
        .and_then(Value::as_list)
        .unwrap_or_default()
    {
        for (kind, objects) in [
            ("configMap", &around.desired.config_maps),
            ("secret", &around.desired.secrets),
        ] {
            if let Some(reference) = part.get(kind) {
                files.extend(projected_object(plan, objects, reference)?);
            }
        }
        if let Some(reference) = part.get("downwardAPI") {
            files.extend(downward(plan, reference));
        }
        if let Some(reference) = part.get("serviceAccountToken") {
            let path = reference
                .get("path")
                .and_then(Value::as_str)
                .unwrap_or("token")
                .to_owned();
            let content = around.credentials.token.clone().into_bytes();
            files.push(File {
                path,
                content,
                mode: 0o400,
            });
        }
    }
    Some(files)
}

fn projected_object(plan: &PodPlan, objects: &Objects, reference: &Value) -> Option<Vec<File>> {
    let text = |value: &Value, key| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = text(reference, "name").unwrap_or_default();
    let optional = reference.get("optional").and_then(Value::as_bool);
    let items = reference
        .get("items")
        .and_then(Value::as_list)
        .unwrap_or_default();
    let items: Vec<kube::KeyToPath> = items
        .iter()
        .map(|item| kube::KeyToPath {
            key: text(item, "key").unwrap_or_default(),
            path: text(item, "path").unwrap_or_default(),
            ..kube::KeyToPath::default()
        })
        .collect();
    object(
        plan,
        objects,
        &name,
        &Items {
            items: &items,
            mode: None,
        },
        optional,
    )
}
