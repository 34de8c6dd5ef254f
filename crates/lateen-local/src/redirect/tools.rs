//! By what rules are set: netlink, or the `iptables-restore` tools for kernels whose nf_tables cannot be used over netlink.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::netlink::nft;
use crate::netlink::{NetlinkError, Socket};
use crate::rules::{Family, Table, iptables};

/// How long another run of the tool is waited for, in seconds.
const LOCK_WAIT: &str = "20";

/// By what packet-filter rules are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PacketFilter {
    /// nf_tables over netlink, else whichever tool works.
    #[default]
    Auto,
    /// nf_tables over netlink; needs no program.
    Nftables,
    /// `iptables-restore`, whatever it stands for on this machine.
    Iptables,
    /// `iptables-nft-restore`.
    IptablesNft,
    /// `iptables-legacy-restore`, for kernels without nf_tables.
    IptablesLegacy,
}

impl PacketFilter {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Nftables,
        Self::Iptables,
        Self::IptablesNft,
        Self::IptablesLegacy,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }

    /// Whether netlink is to be tried.
    pub(crate) const fn over_netlink(self) -> bool {
        matches!(self, Self::Auto | Self::Nftables)
    }

    /// Whether tools are to be tried, after netlink or without.
    pub(crate) const fn by_tools(self) -> bool {
        !matches!(self, Self::Nftables)
    }

    /// The programs to try, for IPv4 and for IPv6.
    const fn tools(self) -> &'static [[&'static str; 2]] {
        const ANY: [&str; 2] = ["iptables-restore", "ip6tables-restore"];
        const NFT: [&str; 2] = ["iptables-nft-restore", "ip6tables-nft-restore"];
        const LEGACY: [&str; 2] = ["iptables-legacy-restore", "ip6tables-legacy-restore"];
        match self {
            Self::Auto => &[ANY, LEGACY],
            Self::Nftables => &[],
            Self::Iptables => &[ANY],
            Self::IptablesNft => &[NFT],
            Self::IptablesLegacy => &[LEGACY],
        }
    }

    /// Sets a table in place of an earlier one, in the current network namespace.
    pub(crate) fn replace(self, table: &Table) -> Result<(), RedirectError> {
        if !self.over_netlink() {
            return self.restore(table, None);
        }
        let set = Socket::netfilter().and_then(|mut s| s.transaction(nft::replace_table(table)));
        match set {
            Ok(()) => Ok(()),
            Err(netlink) if self.by_tools() => self.restore(table, Some(netlink)),
            Err(netlink) => Err(RedirectError::Netlink(netlink)),
        }
    }

    /// Sets a table with the tools; `netlink` is why they are needed, if it was tried.
    pub(crate) fn restore(
        self,
        table: &Table,
        netlink: Option<NetlinkError>,
    ) -> Result<(), RedirectError> {
        if let Some(error) = &netlink {
            tracing::debug!(%error, "nf_tables cannot be used; trying iptables");
        }
        let (users, groups) = (Mapped::read("uid_map"), Mapped::read("gid_map"));
        let table = table.without_unknown(|id| users.has(id), |id| groups.has(id));
        let mut failure = ("iptables-restore", String::new());
        for [v4, v6] in self.tools() {
            let both = [(*v4, Family::V4), (*v6, Family::V6)];
            let failed = both.into_iter().find_map(|(tool, family)| {
                let text = iptables::restore_text(&table, family);
                let error = restore_with(tool, &text).err()?;
                Some((tool, error.to_string()))
            });
            match failed {
                None => return Ok(()),
                Some(failed) => failure = failed,
            }
        }
        let (tool, detail) = failure;
        Err(match netlink {
            Some(source) => RedirectError::NoWay {
                tool,
                detail,
                netlink: chain_text(&source),
                source,
            },
            None => RedirectError::Tool { tool, detail },
        })
    }
}

impl fmt::Display for PacketFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PacketFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|way| way.as_str() == text);
        let names = Self::ALL.map(Self::as_str).join(", ");
        found.ok_or_else(|| format!("`{text}` is none of {names}"))
    }
}

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
    /// The tool that was asked for does not work.
    #[error(
        "cannot set packet-filter rules: `{tool}` failed ({detail}); install it, or let nf_tables be used over netlink"
    )]
    Tool {
        /// The command.
        tool: &'static str,
        /// What it said.
        detail: String,
    },
    /// nf_tables refused, and nothing else was to be tried.
    #[error(
        "cannot set packet-filter rules: nf_tables refused; load the kernel module nf_tables with nft_redir and nft_nat"
    )]
    Netlink(#[source] NetlinkError),
    /// A change of services was refused.
    #[error("cannot change the rules of services")]
    Services(#[source] NetlinkError),
    /// The routes that keep a transparent connection within the pod.
    #[error("cannot set the routes of transparent connections (interceptionMode: TPROXY)")]
    Routes(#[source] NetlinkError),
}

fn chain_text(error: &NetlinkError) -> String {
    match error.errno() {
        Some(errno) => format!("{error}: {errno}"),
        None => error.to_string(),
    }
}

/// The ids that this user namespace knows (`/proc/self/uid_map`: first inside, first outside, count).
struct Mapped(Vec<(u32, u32)>);

impl Mapped {
    fn read(file: &str) -> Self {
        Self::parse(&std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default())
    }

    fn parse(map: &str) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let first = numbers.next()?.ok()?;
            Some((first, numbers.nth(1)?.ok()?))
        };
        Self(map.lines().filter_map(range).collect())
    }

    fn has(&self, id: u32) -> bool {
        let within = |(first, count): &(u32, u32)| id >= *first && id - first < *count;
        self.0.iter().any(within)
    }
}

fn restore_with(tool: &str, text: &str) -> io::Result<()> {
    let mut command = Command::new(tool);
    command.args(["-w", LOCK_WAIT]);
    // One's own namespace needs no lock against others; the legacy tool's file is root's, and it does not go on without.
    command.env("XTABLES_LOCKFILE", "/dev/null");
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
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().replace('\n', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_found_by_its_name() {
        for way in PacketFilter::ALL {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        let error = "ipfw".parse::<PacketFilter>().unwrap_err();
        assert!(error.contains("iptables-legacy"), "{error}");
    }

    #[test]
    fn ids_outside_the_map_are_unknown() {
        let all = Mapped::parse("         0          0 4294967295\n");
        assert!(all.has(1337));
        let own = Mapped::parse("0 1000 1\n100000 5 10\n");
        assert!(own.has(0) && own.has(100_009));
        assert!(!own.has(1337) && !own.has(100_010));
    }

    #[test]
    fn a_tool_that_is_missing_is_named() {
        let error = restore_with("no-such-restore", "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
