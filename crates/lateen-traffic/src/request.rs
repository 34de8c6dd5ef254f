//! What a decision may look at: the connection, the peer's certificate, the request. Borrowed views; nothing is copied.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

use crate::value::Metadata;

/// The transport protocol that the listener filters found (`FilterChainMatch.transport_protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportProtocol {
    /// `raw_buffer`: no inspector ran, or it saw no TLS.
    #[default]
    RawBuffer,
    /// `tls`: the TLS inspector saw a ClientHello.
    Tls,
    /// `quic`.
    Quic,
}

impl TransportProtocol {
    /// Envoy's name of it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RawBuffer => "raw_buffer",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }
}

/// A downstream connection as the listener filters left it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    /// Where the connection was going: the original destination if it was redirected, else the local address.
    pub local: SocketAddr,
    /// Who opened it, after the PROXY protocol if that is in use.
    pub remote: SocketAddr,
    /// The peer of the socket itself.
    pub direct_remote: SocketAddr,
    /// The server name of the ClientHello, as sent (matching ignores its case).
    pub server_name: Option<&'a str>,
    /// What the inspectors saw.
    pub transport_protocol: TransportProtocol,
    /// ALPN protocols offered, or what the HTTP inspector found (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: &'a [&'a str],
    /// Whether the connection reached the virtual listener by redirection on this host (`SAME_IP_OR_LOOPBACK`).
    pub is_local: bool,
}

impl ConnectionInfo<'static> {
    /// A plain connection between two addresses.
    pub fn plain(remote: SocketAddr, local: SocketAddr) -> Self {
        Self {
            local,
            remote,
            direct_remote: remote,
            server_name: None,
            transport_protocol: TransportProtocol::RawBuffer,
            application_protocols: &[],
            is_local: remote.ip() == local.ip() || remote.ip().is_loopback(),
        }
    }

    /// A connection between unspecified addresses, for decisions that look at none.
    pub fn unspecified() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            is_local: false,
            ..Self::plain(nowhere, nowhere)
        }
    }
}

/// The TLS side of a downstream connection. The default is a connection without TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerTls<'a> {
    /// Whether the connection is TLS.
    pub is_tls: bool,
    /// Whether the peer presented a certificate.
    pub presented: bool,
    /// Whether the certificate was verified against a trust bundle.
    pub validated: bool,
    /// URI SANs in certificate order (SPIFFE identities).
    pub uri_sans: &'a [String],
    /// DNS SANs in certificate order.
    pub dns_sans: &'a [String],
    /// The subject in RFC 2253 form; empty if none.
    pub subject: &'a str,
    /// SHA-256 of the certificate, lower-case hex; empty if none.
    pub sha256_fingerprint: &'a str,
}

/// Named strings that filters leave for later ones (Envoy's filter state, string-valued objects).
pub type FilterState = BTreeMap<Arc<str>, Arc<str>>;

/// A request's head, after [`crate::path`] and [`crate::headers::normalize_authority`] ran.
///
/// Pseudo-headers are fields here and never in `headers`.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:scheme`; `http` or `https` (or what a trusted `x-forwarded-proto` said).
    pub scheme: &'a str,
    /// `:authority`, or the `Host` header.
    pub authority: &'a str,
    /// `:path` with its query; empty for CONNECT without a path.
    pub path: &'a str,
    /// The `:protocol` of an extended CONNECT, or the `upgrade` token of HTTP/1.1.
    pub protocol: Option<&'a str>,
    /// Everything else.
    pub headers: &'a HeaderMap,
    /// The client: the connection's peer, or what a trusted `x-forwarded-for` says.
    pub client: SocketAddr,
    /// The connection it came over.
    pub connection: &'a ConnectionInfo<'a>,
    /// The peer's certificate.
    pub peer: &'a PeerTls<'a>,
    /// What filters wrote so far (JWT claims among it).
    pub dynamic_metadata: &'a Metadata,
    /// What filters left so far.
    pub filter_state: &'a FilterState,
}

impl<'a> RequestView<'a> {
    /// The path without query and fragment: what path matchers see.
    pub fn path_only(&self) -> &'a str {
        crate::path::without_query(self.path)
    }

    /// The query without the question mark; empty if none.
    pub fn query(&self) -> &'a str {
        crate::path::query(self.path)
    }

    /// Whether it is a gRPC request, by its content type (`application/grpc`, with a `+` or nothing after it).
    pub fn is_grpc(&self) -> bool {
        let Some(value) = self.headers.get(http::header::CONTENT_TYPE) else {
            return false;
        };
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
    }
}
