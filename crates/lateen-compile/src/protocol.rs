//! Which protocol a port speaks, from `appProtocol`, the port's name or an Istio port's `protocol`.
//!
//! Source: Istio, "Protocol Selection" and `pkg/config/kube/conversion.go`.

/// A port's protocol in Istio's vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Opaque TCP.
    Tcp,
    /// UDP, which the mesh does not carry.
    Udp,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// HTTP/1.1.
    Http,
    /// A forward proxy port (Sidecar egress listeners).
    HttpProxy,
    /// HTTP/2 in clear text.
    Http2,
    /// TLS that carries HTTP, passed through.
    Https,
    /// TLS, passed through.
    Tls,
    /// MongoDB.
    Mongo,
    /// Redis.
    Redis,
    /// MySQL, whose server speaks first.
    MySql,
    /// Not declared: found out from the first bytes of each connection.
    #[default]
    Sniffed,
}

/// Whether a listener treats a protocol as HTTP, as opaque bytes, or looks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handling {
    /// HTTP.
    Http,
    /// Opaque bytes.
    Tcp,
    /// Looks at the first bytes.
    Auto,
}

/// Ports whose servers speak first; sniffing them would wait for bytes that never come. Source: Istio's `wellKnownPorts`.
const SERVER_FIRST_PORTS: [u32; 4] = [25, 53, 3306, 27017];

/// As istioctl prints it.
impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Http => "HTTP",
            Self::HttpProxy => "HTTP_PROXY",
            Self::Http2 => "HTTP2",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Mongo => "Mongo",
            Self::Redis => "Redis",
            Self::MySql => "MySQL",
            Self::Sniffed => "auto-detect",
        })
    }
}

impl Protocol {
    /// Parses an Istio protocol name, in any case. Anything else is [`Protocol::Sniffed`].
    pub fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "http" => Self::Http,
            "http_proxy" => Self::HttpProxy,
            "http2" => Self::Http2,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            _ => Self::Sniffed,
        }
    }

    /// The protocol of a Kubernetes service port.
    pub fn of_service_port(
        port: u32,
        name: &str,
        transport: Option<&str>,
        app_protocol: Option<&str>,
    ) -> Self {
        if transport.is_some_and(|t| t.eq_ignore_ascii_case("udp")) {
            return Self::Udp;
        }
        match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            _ => {}
        }
        let name = app_protocol.unwrap_or(name);
        if name
            .get(..8)
            .is_some_and(|start| start.eq_ignore_ascii_case("grpc-web"))
        {
            return Self::GrpcWeb;
        }
        let found = Self::parse(name.split('-').next().unwrap_or_default());
        if found == Self::Sniffed && SERVER_FIRST_PORTS.contains(&port) {
            Self::Tcp
        } else {
            found
        }
    }

    /// HTTP of any version, in clear text.
    pub fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb
        )
    }

    /// HTTP/2 in clear text.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// gRPC.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }

    /// TLS that is passed through.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Carried as opaque bytes.
    pub fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::Redis | Self::MySql
        )
    }

    /// Found out per connection.
    pub fn is_sniffed(self) -> bool {
        self == Self::Sniffed
    }

    /// HTTP, or possibly HTTP.
    pub fn is_http_or_sniffed(self) -> bool {
        self.is_http() || self.is_sniffed()
    }

    /// How a listener handles it; none for UDP.
    pub fn handling(self) -> Option<Handling> {
        match self {
            Self::Udp => None,
            p if p.is_http() => Some(Handling::Http),
            p if p.is_tcp() => Some(Handling::Tcp),
            _ => Some(Handling::Auto),
        }
    }

    /// What is inside once a proxy has ended the TLS.
    pub fn after_tls_termination(self) -> Self {
        match self {
            Self::Https => Self::Http,
            Self::Tls => Self::Tcp,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(port: u32, name: &str, app: Option<&str>, expected: Protocol) {
        assert_eq!(
            Protocol::of_service_port(port, name, None, app),
            expected,
            "{name} {app:?}"
        );
    }

    #[test]
    fn port_names_declare_protocols_by_prefix() {
        check(80, "http", None, Protocol::Http);
        check(80, "http-api", None, Protocol::Http);
        check(80, "httpapi", None, Protocol::Sniffed);
        check(80, "GRPC-web-x", None, Protocol::GrpcWeb);
        check(80, "grpc-x", None, Protocol::Grpc);
        check(443, "https", None, Protocol::Https);
        check(80, "", None, Protocol::Sniffed);
    }

    #[test]
    fn app_protocol_wins_over_the_name() {
        check(80, "tcp", Some("http"), Protocol::Http);
        check(80, "tcp", Some("kubernetes.io/h2c"), Protocol::Http2);
        check(80, "http", Some("example.com/own"), Protocol::Sniffed);
    }

    #[test]
    fn server_first_ports_are_not_sniffed() {
        check(3306, "", None, Protocol::Tcp);
        check(27017, "db", None, Protocol::Tcp);
    }

    #[test]
    fn udp_is_kept_apart() {
        assert_eq!(
            Protocol::of_service_port(53, "dns", Some("UDP"), None),
            Protocol::Udp
        );
        assert_eq!(Protocol::Udp.handling(), None);
    }
}
