//! Rules through the `iptables-restore` tools, for kernels whose nf_tables cannot be used over netlink.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::netlink::NetlinkError;
use crate::rules::{Family, Table, iptables};

/// Rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// Neither way works.
    #[error(
        "cannot set packet-filter rules: nf_tables refused ({netlink}) and `{tool}` failed ({detail}); \
         load the kernel module nf_tables with nft_redir and nft_nat, or install iptables"
    )]
    NoWay {
        /// The command that was tried last.
        tool: &'static str,
        /// What it said.
        detail: String,
        /// What nf_tables said.
        netlink: String,
        /// The same as a cause.
        #[source]
        source: NetlinkError,
    },
    /// A change of services was refused.
    #[error("cannot change the rules of services")]
    Services(#[source] NetlinkError),
}

/// Sets the rules with the tools; `netlink` is why they are needed.
pub(crate) fn apply(table: &Table, netlink: NetlinkError) -> Result<(), RedirectError> {
    tracing::debug!(error = %netlink, "nf_tables cannot be used; trying iptables");
    let v4 = [
        ("iptables-restore", Family::V4),
        ("iptables-legacy-restore", Family::V4),
    ];
    let v6 = [
        ("ip6tables-restore", Family::V6),
        ("ip6tables-legacy-restore", Family::V6),
    ];
    for tools in [v4, v6] {
        let mut failure = None;
        for (tool, family) in tools {
            match restore(tool, &iptables::restore_text(table, family)) {
                Ok(()) => {
                    failure = None;
                    break;
                }
                Err(error) => failure = Some((tool, error.to_string())),
            }
        }
        if let Some((tool, detail)) = failure {
            let text = chain_text(&netlink);
            return Err(RedirectError::NoWay {
                tool,
                detail,
                netlink: text,
                source: netlink,
            });
        }
    }
    Ok(())
}

fn chain_text(error: &NetlinkError) -> String {
    match error.errno() {
        Some(errno) => format!("{error}: {errno}"),
        None => error.to_string(),
    }
}

fn restore(tool: &str, text: &str) -> io::Result<()> {
    let mut command = Command::new(tool);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
