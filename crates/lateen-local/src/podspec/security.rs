//! A container's user and rights.
//!
//! Containers start with the rights container runtimes give by default; above all they cannot mark their sockets as the
//! proxy's or change the pod's rules.

use lateen_api::kube;
use lateen_api::value::Value;
use rustix::thread::CapabilitySet;

use crate::sandbox::Container;

/// The default set of Docker and containerd, without the right to make raw sockets: it includes `SO_MARK`, with which
/// a container could step around its proxy. `ping` works without it.
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Fills in user, group and rights; the container's settings win over the pod's.
pub(super) fn apply(
    resolved: &mut Container,
    pod: Option<&kube::PodSecurityContext>,
    container: &kube::Container,
) {
    let own = container.security_context.as_ref();
    let id = |own: Option<i64>, pod: Option<i64>| own.or(pod).and_then(|id| u32::try_from(id).ok());
    resolved.user = id(
        own.and_then(|c| c.run_as_user),
        pod.and_then(|p| p.run_as_user),
    );
    resolved.group = id(
        own.and_then(|c| c.run_as_group),
        pod.and_then(|p| p.run_as_group),
    );
    let privileged = own.and_then(|c| c.privileged) == Some(true);
    resolved.capabilities =
        (!privileged).then(|| capabilities(own.and_then(|c| c.capabilities.as_ref())).bits());
}

fn capabilities(changes: Option<&Value>) -> CapabilitySet {
    let named = |key: &str| -> CapabilitySet {
        let names = changes
            .and_then(|c| c.get(key))
            .and_then(Value::as_list)
            .unwrap_or_default();
        names
            .iter()
            .filter_map(Value::as_str)
            .map(capability)
            .collect()
    };
    DEFAULT.difference(named("drop")).union(named("add"))
}

/// A capability by Kubernetes' name, such as `NET_ADMIN`; unknown names are none.
fn capability(name: &str) -> CapabilitySet {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    if name.eq_ignore_ascii_case("ALL") {
        return CapabilitySet::all();
    }
    CapabilitySet::from_name(&name.to_ascii_uppercase()).unwrap_or(CapabilitySet::empty())
}
