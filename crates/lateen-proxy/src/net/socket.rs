//! Sockets as a data plane needs them: SO_REUSEPORT listeners, marked upstream connections, redirected destinations, and
//! connections in a client's name.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};

/// Accept queue of a listener; the kernel caps it at `net.core.somaxconn` (4096 since Linux 5.4). Envoy's default is the same cap.
const BACKLOG: i32 = 4096;

/// How sockets towards upstreams are made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectOptions {
    /// `SO_MARK`, by which redirection rules know the proxy's own traffic.
    pub(crate) mark: Option<u32>,
    /// Local address to connect from, such as Istio's `127.0.0.6` for inbound traffic.
    pub(crate) source: Option<IpAddr>,
    /// TCP keep-alive, if the cluster asks for it.
    pub(crate) keepalive: Option<Keepalive>,
    /// Whose address to connect from, in place of `source` and `mark`.
    pub(crate) original_source: Option<OriginalSource>,
}

/// A client in whose name its connection goes on (`envoy.filters.listener.original_src`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OriginalSource {
    /// Its address.
    pub(crate) ip: IpAddr,
    /// `SO_MARK`, by which the answers find their way; 0 sets none.
    pub(crate) mark: u32,
}

/// Ports that connections in a client's name are made from. Clients choose theirs from 32768 on (`ip_local_port_range`): had one of
/// both the same, they would be one connection to the kernel.
const BORROWED_PORTS: std::ops::Range<u16> = 16384..32768;
/// How many of those are tried.
const BORROWED_TRIES: u32 = 16;

/// `envoy.config.core.v3.TcpKeepalive`; a missing value is the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// Unanswered probes before the connection is dead.
    pub(crate) probes: Option<u32>,
    /// Idle time before the first probe.
    pub(crate) time: Option<Duration>,
    /// Time between probes.
    pub(crate) interval: Option<Duration>,
}

/// Opens one of several listeners that share `address` (SO_REUSEPORT), so that every worker accepts for itself.
///
/// One on `::` is for IPv6 alone. A transparent one also gets connections to addresses that are not this machine's, where the
/// kernel is told to deliver them (`TPROXY`).
///
/// # Errors
/// The address is taken by another process, not local, or not allowed; or there is no right to listen transparently.
pub(crate) fn listen(address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent {
        set_transparent(SockRef::from(&socket), address)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Where a connection was going before the kernel redirected it here; `None` if it came straight.
pub(crate) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let original = if canonical(local).is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    original.ok()?.as_socket().map(canonical)
}

/// IPv4 addresses as such, not mapped into IPv6 as a dual-stack socket reports them.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Prepares an accepted connection: no Nagle delay, as the proxy writes whole messages.
pub(crate) fn prepare_accepted(stream: &TcpStream) {
    // A socket whose peer already went away refuses options; the next read tells.
    let _ = stream.set_nodelay(true);
}

/// Connects to an upstream.
///
/// # Errors
/// What `connect(2)` says; a source address of the other family is left out rather than refused.
pub(crate) async fn connect(address: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let raw = SockRef::from(&socket);
    let original = options
        .original_source
        .filter(|own| own.ip.is_ipv4() == address.is_ipv4());
    let mark = original.map(|own| own.mark).filter(|mark| *mark != 0);
    if let Some(mark) = mark.or(options.mark) {
        raw.set_mark(mark)?;
    }
    if let Some(keepalive) = options.keepalive {
        raw.set_tcp_keepalive(&tcp_keepalive(keepalive))?;
    }
    if let Some(original) = original {
        set_transparent(SockRef::from(&socket), address)?;
        bind_as(&socket, original.ip)?;
    } else if let Some(source) = source_for(address, options.source) {
        // Several connections to different peers may share a local port, so that one source address is not limited to the
        // 28 thousand ports of the ephemeral range.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Lets a socket have an address that is not this machine's.
fn set_transparent(socket: SockRef<'_>, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    }
}

/// Takes a free port of somebody else's address.
fn bind_as(socket: &TcpSocket, ip: IpAddr) -> io::Result<()> {
    socket.set_reuseaddr(true)?;
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..BORROWED_TRIES {
        match socket.bind(SocketAddr::new(ip, rand::random_range(BORROWED_PORTS))) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            bound => return bound,
        }
    }
    Err(taken)
}

/// Connects to a Unix socket. A path that begins with `@` is a name in the abstract namespace, as in Envoy.
///
/// # Errors
/// What `connect(2)` says.
pub(crate) async fn connect_unix(path: &str) -> io::Result<UnixStream> {
    let Some(name) = path.strip_prefix('@') else {
        return UnixStream::connect(path).await;
    };
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    // A connection to a local socket is there at once or not at all.
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn source_for(address: SocketAddr, source: Option<IpAddr>) -> Option<IpAddr> {
    let source = source?;
    (source.is_ipv4() == address.is_ipv4() && source != IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        .then_some(source)
}

fn tcp_keepalive(from: Keepalive) -> TcpKeepalive {
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = from.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = from.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = from.probes {
        keepalive = keepalive.with_retries(probes);
    }
    keepalive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_listeners_share_an_address() {
        let first = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = first.local_addr().unwrap();
        assert!(listen(address, false).is_ok());
    }

    #[tokio::test]
    async fn a_source_address_is_used_and_one_of_the_other_family_left_out() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let options = ConnectOptions {
            source: Some("127.0.0.6".parse().unwrap()),
            ..Default::default()
        };
        let stream = connect(address, options).await.unwrap();
        assert_eq!(
            stream.local_addr().unwrap().ip(),
            "127.0.0.6".parse::<IpAddr>().unwrap()
        );
        let options = ConnectOptions {
            source: Some("::6".parse().unwrap()),
            ..Default::default()
        };
        assert!(connect(address, options).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_has_no_original_destination() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // Without connection tracking the kernel refuses the option; with it, it names the address dialled.
        assert!(original_destination(&server).is_none_or(|a| a == listener.local_addr().unwrap()));
    }
}
