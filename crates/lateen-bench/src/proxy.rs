//! The role `proxy`: Lateen's data plane on a file of xDS resources, `lateen-bench proxy FILE [--workers N]`.
//!
//! The file is JSON, a list of resources with `@type`, the same that Envoy is given.

use anyhow::{Context, Result, bail};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig, resources_from_json};
use serde_json::Value;
use tokio::sync::watch;

use crate::options::number;

/// As the program itself does: gives back to the system what the calling thread has freed.
#[expect(unsafe_code, reason = "the allocator is foreign code")]
fn give_back() {
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: it takes no pointer and may be called by any thread at any time; the library is linked as the global allocator.
    unsafe { mi_collect(true) };
}

/// Serves until it is killed.
///
/// # Errors
/// The file holds no resources, or a port cannot be opened.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let Some(path) = arguments.first() else {
        bail!("usage: lateen-bench proxy FILE [--workers N]");
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("parsing {path}"))?;
    let list = value.as_array().cloned().unwrap_or_default();
    let resources = resources_from_json(&list).with_context(|| format!("resources of {path}"))?;
    let node = Node {
        id: "sidecar~127.0.0.1~bench.default~local".to_owned(),
        ..Node::default()
    };
    let identity = watch::channel(None).1;
    let mut config = ProxyConfig::new(node, ConfigSource::fixed(resources), identity);
    config.concurrency = number(arguments, "workers", 1)?;
    config.give_back = Some(give_back);
    (config.admin, config.prometheus, config.health) = (None, None, None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let proxy = Proxy::start(config)?;
        proxy.ready().await;
        std::future::pending().await
    })
}
