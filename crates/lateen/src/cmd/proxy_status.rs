//! `lateen proxy-status`: who is connected to the control plane, and what they have.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cli::{ProxyStatusArgs, Structured};
use crate::http::{self, Admin};
use crate::output::{print, print_json, print_yaml};
use crate::state::StateDir;
use crate::table::Table;

/// The types shown, with istioctl's column titles.
const TYPES: [(&str, &str); 5] = [
    ("CDS", "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    (
        "LDS",
        "type.googleapis.com/envoy.config.listener.v3.Listener",
    ),
    (
        "EDS",
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    ),
    (
        "RDS",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    ),
    (
        "ECDS",
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    ),
];

pub(crate) fn run(state: &StateDir, namespace: Option<&str>, args: &ProxyStatusArgs) -> Result<()> {
    state.expect_running()?;
    let socket = Admin::Unix(state.istiod_socket());
    let text = http::request(&socket, "GET", "/debug/syncz").context("asking the control plane")?;
    let all: Vec<Value> =
        serde_json::from_slice(&text).context("the control plane's answer is not JSON")?;
    let mut wanted: Vec<Value> = all
        .into_iter()
        .filter(|proxy| namespace.is_none_or(|n| proxy["namespace"] == n))
        .filter(|proxy| args.target.as_deref().is_none_or(|t| names(proxy, t)))
        .collect();
    wanted.sort_by(|a, b| a["proxy"].as_str().cmp(&b["proxy"].as_str()));
    if let (Some(target), true) = (&args.target, wanted.is_empty()) {
        bail!("no proxy `{target}` is connected; `lateen proxy-status` lists those that are");
    }
    match args.output {
        Some(Structured::Json) => print_json(&wanted.into()),
        Some(Structured::Yaml) => print_yaml(&wanted.into()),
        None => print(&table(&wanted).render()),
    }
}

/// Whether a proxy (`pod.namespace`) is the one named, with or without its namespace.
fn names(proxy: &Value, target: &str) -> bool {
    let id = proxy["proxy"].as_str().unwrap_or_default();
    id == target || id.rsplit_once('.').is_some_and(|(pod, _)| pod == target)
}

fn table(proxies: &[Value]) -> Table {
    let mut header = vec!["NAME", "CLUSTER"];
    header.extend(TYPES.map(|(title, _)| title));
    header.extend(["ISTIOD", "VERSION"]);
    let rows = proxies.iter().map(|proxy| {
        let text = |key: &str| proxy[key].as_str().unwrap_or("-").to_owned();
        let mut cells = vec![text("proxy"), text("cluster")];
        cells.extend(TYPES.map(|(_, url)| {
            proxy["types"][url]["status"]
                .as_str()
                .unwrap_or("IGNORED")
                .to_owned()
        }));
        cells.extend([text("istiod"), text("version")]);
        cells
    });
    Table::from_parts(&header, rows.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_proxy_is_named_with_or_without_its_namespace() {
        let proxy = json!({"proxy": "web-1.shop"});
        assert!(names(&proxy, "web-1") && names(&proxy, "web-1.shop") && !names(&proxy, "web"));
    }

    #[test]
    fn what_a_proxy_never_asked_for_is_shown_as_ignored() {
        let proxy = json!({"proxy": "web-1.shop", "cluster": "Kubernetes", "types": {
            "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"status": "SYNCED"}}});
        let text = table(&[proxy]).render();
        assert!(
            text.contains("web-1.shop   Kubernetes   SYNCED   IGNORED"),
            "{text}"
        );
    }
}
