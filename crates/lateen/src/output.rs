//! Printing: whole texts at once, and a closed pipe is no error.

use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

/// Prints text. When the reader has gone (`| head`), there is nobody left to tell.
pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing to standard output"),
    }
}

/// Prints JSON, indented by four as istioctl does.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer).context("encoding JSON")?;
    text.push(b'\n');
    print(&String::from_utf8_lossy(&text))
}

/// Prints YAML.
pub(crate) fn print_yaml(value: &Value) -> Result<()> {
    print(&yaml_serde::to_string(value).context("encoding YAML")?)
}

/// Whether colours may be used on standard output: a terminal, and nobody objects (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_secs()).ok())
        .unwrap_or(0)
}
