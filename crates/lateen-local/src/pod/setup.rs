//! Makes a pod's surroundings before its first container: mounts, files, volumes, host name, network, redirection.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use ipnet::IpNet;

use super::mounts::{self, Mounts, Source};
use crate::addresses::{NODE_V4, TPROXY_MARK, TPROXY_TABLE};
use crate::netlink::NetlinkError;
use crate::netlink::link::{self, Links, Route};
use crate::redirect::{Mode, PASSTHROUGH_V6, RedirectError};
use crate::sandbox::{File, Spec, Volume};

/// The pod's end of its link to the node.
pub(crate) const POD_INTERFACE: &str = "eth0";
/// The node's end, on every link the same: IPv6 neighbours answer for addresses of their own interface only.
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// `__NEW_UTS_LEN`.
const MAX_HOST_NAME: usize = 64;

/// Prepares everything; the error says which step failed.
pub(super) fn prepare(spec: &Spec) -> io::Result<()> {
    mounts::make_private()?;
    mounts::mount_proc()?;
    mounts::mount_memory(&spec.vault)?;
    let host_name = spec.host_name.as_bytes();
    rustix::system::sethostname(&host_name[..host_name.len().min(MAX_HOST_NAME)])?;
    network(spec).map_err(io::Error::other)?;
    if let Some(redirection) = &spec.redirection {
        if redirection.mode == Mode::Tproxy {
            transparent_routes(spec).map_err(|e| io::Error::other(RedirectError::Routes(e)))?;
        }
        redirection
            .apply(spec.packet_filter)
            .map_err(io::Error::other)?;
    }
    allow_low_ports();
    own_files(spec)?;
    for (name, volume) in &spec.volumes {
        make_volume(spec, name, volume)?;
    }
    Ok(())
}

/// Where a volume's content is inside the pod.
pub(super) fn volume_path(spec: &Spec, name: &str, volume: &Volume) -> PathBuf {
    match volume {
        Volume::Host(path) => path.clone(),
        Volume::Empty | Volume::Files(_) => spec.vault.join("volumes").join(name),
    }
}

/// Writes the files of a volume; those there already are replaced one by one, each atomically.
pub(super) fn write_volume(directory: &Path, files: &[File]) -> io::Result<()> {
    for file in files {
        let relative = Path::new(&file.path);
        if !relative
            .components()
            .all(|c| matches!(c, Component::Normal(_)))
        {
            let message = format!("volume file `{}` leaves its volume", file.path);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let path = directory.join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let temporary = path.with_extension("lateen-new");
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(file.mode);
        io::Write::write_all(&mut options.open(&temporary)?, &file.content)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(file.mode))?;
        fs::rename(&temporary, &path)?;
    }
    Ok(())
}

fn make_volume(spec: &Spec, name: &str, volume: &Volume) -> io::Result<()> {
    let path = volume_path(spec, name, volume);
    match volume {
        Volume::Empty => {
            fs::create_dir_all(&path)?;
            // Kubernetes gives emptyDir to every user.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
        }
        Volume::Files(files) => {
            fs::create_dir_all(&path)?;
            write_volume(&path, files)
        }
        Volume::Host(_) => Ok(()),
    }
}

/// Puts `/etc/hosts` and its like in place for all containers.
fn own_files(spec: &Spec) -> io::Result<()> {
    let mut mounts = Mounts::new(&spec.vault);
    let directory = spec.vault.join("files");
    fs::create_dir_all(&directory)?;
    for (path, content) in &spec.files {
        let source = directory.join(path.trim_start_matches('/').replace('/', "-"));
        fs::write(&source, content)?;
        mounts.bind(&Source::take(&source)?, Path::new(path), false)?;
    }
    Ok(())
}

fn network(spec: &Spec) -> Result<(), NetlinkError> {
    let mut links = Links::open()?;
    let loopback = link::index_of("lo")?;
    links.set_up(loopback)?;
    if spec.ipv6.is_some() && spec.redirection.is_some() {
        // The proxy calls its application from this address. Of IPv4's 127.0.0.6 loopback has the whole network already.
        links.add_address(loopback, IpNet::from(IpAddr::V6(PASSTHROUGH_V6)))?;
    }
    let eth0 = link::index_of(POD_INTERFACE)?;
    links.set_up(eth0)?;
    if let Some(address) = spec.ipv4 {
        links.add_address(eth0, IpNet::from(IpAddr::V4(address)))?;
        let node = IpAddr::V4(NODE_V4);
        links.add_route(&Route {
            to: node.into(),
            link: eth0,
            via: None,
            source: None,
        })?;
        let to = default_route(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        links.add_route(&Route {
            to,
            link: eth0,
            via: Some(node),
            source: None,
        })?;
    }
    if let Some(address) = spec.ipv6 {
        links.add_address(eth0, IpNet::from(IpAddr::V6(address)))?;
        let via = Some(IpAddr::V6(GATEWAY_V6));
        let to = default_route(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        links.add_route(&Route {
            to,
            link: eth0,
            via,
            source: None,
        })?;
    }
    Ok(())
}

/// Keeps marked packets within the pod: what the proxy sends in its client's name, and the answers.
fn transparent_routes(spec: &Spec) -> Result<(), NetlinkError> {
    let mut links = Links::open()?;
    let loopback = link::index_of("lo")?;
    // By its source such a packet should have come by another interface. Best effort: mostly the check is off.
    for interface in ["all", "lo"] {
        let _ = fs::write(
            format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"),
            "0",
        );
    }
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    links.deliver_marked(TPROXY_MARK, TPROXY_TABLE, default_route(any), loopback)?;
    if spec.ipv6.is_some() {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        links.deliver_marked(TPROXY_MARK, TPROXY_TABLE, default_route(any), loopback)?;
    }
    Ok(())
}

fn default_route(any: IpAddr) -> IpNet {
    IpNet::new(any, 0).expect("a prefix of length 0 is valid for both families")
}

/// As container runtimes do: a container that is not root may listen on port 80. Best effort.
fn allow_low_ports() {
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
}
