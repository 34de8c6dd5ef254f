//! Runs the data plane on a file of xDS resources, for benchmarks against Envoy and for trying things out.
//!
//! `hop FILE [WORKERS]`: the file is JSON, either a list of resources with `@type` or an object with them under `resources`, as
//! Envoy's file-based xDS. Ends with Ctrl-C.

use anyhow::{Context, bail};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig, resources_from_json};
use serde_json::Value;
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        bail!("usage: hop FILE [WORKERS]")
    };
    let workers: usize = arguments
        .next()
        .map_or(Ok(1), |n| n.parse())
        .context("WORKERS")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("parsing {path}"))?;
    let list = value
        .get("resources")
        .unwrap_or(&value)
        .as_array()
        .cloned()
        .unwrap_or_default();
    let resources = resources_from_json(&list).with_context(|| format!("resources of {path}"))?;

    let node = Node {
        id: "sidecar~127.0.0.1~hop.default~local".to_owned(),
        ..Node::default()
    };
    let identity = watch::channel(None).1;
    let mut config = ProxyConfig::new(node, ConfigSource::fixed(resources), identity);
    config.concurrency = workers;
    config.admin = Some(([127, 0, 0, 1], 15000).into());
    (config.prometheus, config.health) = (None, None);
    let proxy = Proxy::start(config)?;
    proxy.ready().await;
    for (name, address) in proxy.bound() {
        println!("{name} listens on {address}");
    }
    tokio::signal::ctrl_c().await?;
    proxy.drain().await;
    proxy.shutdown().await;
    Ok(())
}
