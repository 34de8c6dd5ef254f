//! One fetch of one key set: connect, ask, follow redirects, read. Everything is bounded, and every address is checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use lateen_compile::{JwksSource, MAX_JWKS_BYTES, NotAKeySet, public_set};
use lateen_traffic::jwt::{KeySet, KeySetError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::bundle::{self, Bundle, NotABundle};
use super::guard::{AddressGuard, Blocked};
use super::location::{Location, NoLocation};
use super::schedule::Fetched;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// The longest a fetch may take, whatever a rule says.
const LONGEST: Duration = Duration::from_secs(30);

/// Where an issuer says what it offers, below its own URI (OpenID Connect Discovery 1.0 section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Location(#[from] NoLocation),
    #[error("the name `{host}` does not resolve")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("`{0}` has no ready endpoint on port {1} in the mesh")]
    NoEndpoint(String, u16),
    #[error(transparent)]
    Blocked(#[from] Blocked),
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS with `{host}` failed")]
    Tls {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("there are no root certificates to verify `{0}` with")]
    NoRoots(String),
    #[error("HTTP with `{host}` failed")]
    Http {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer of `{host}` cannot be read, or is larger than {MAX_JWKS_BYTES} bytes")]
    Body {
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{host}` answered {status}")]
    Status { host: String, status: StatusCode },
    #[error("`{0}` redirects more than {MAX_REDIRECTS} times")]
    Redirects(String),
    #[error("`{0}` redirects from https to http")]
    Downgrade(String),
    #[error(transparent)]
    KeySet(#[from] NotAKeySet),
    #[error("proxies cannot use what was answered")]
    Unusable(#[source] KeySetError),
    #[error(transparent)]
    Bundle(#[from] NotABundle),
    #[error("the OpenID configuration of `{0}` has no `jwks_uri`")]
    NoJwksUri(String),
    #[error("the OpenID configuration of `{0}` is of the issuer `{1}`")]
    OtherIssuer(String, String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Names of the mesh: the addresses of a host's port. `None` if the mesh has no such host.
pub(crate) type Names = Arc<dyn Fn(&str, u16) -> Option<Vec<SocketAddr>> + Send + Sync>;

/// The host and port that a source is first asked at.
pub(crate) fn host_of(source: &JwksSource) -> Option<(String, u16)> {
    let location = match source {
        JwksSource::Uri(uri) | JwksSource::Discovery(uri) => Location::parse(uri),
        JwksSource::SpiffeBundle(url) => bundle::location(url),
    }
    .ok()?;
    Some((location.host, location.port))
}

/// What fetching needs.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) guard: AddressGuard,
    /// TLS with roots; `None` if there are none.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// What was answered.
struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

impl Fetcher {
    /// Fetches the keys of a source.
    pub(crate) async fn fetch(
        &self,
        source: &JwksSource,
        names: &Names,
        timeout: Duration,
    ) -> Result<Fetched, FetchError> {
        let timeout = timeout.min(LONGEST);
        tokio::time::timeout(timeout, self.keys(source, names))
            .await
            .map_err(|_| FetchError::Timeout(timeout))?
    }

    async fn keys(&self, source: &JwksSource, names: &Names) -> Result<Fetched, FetchError> {
        let location = match source {
            JwksSource::Uri(uri) => Location::parse(uri)?,
            JwksSource::Discovery(issuer) => self.discover(issuer, names).await?,
            JwksSource::SpiffeBundle(url) => bundle::location(url)?,
        };
        let answer = self.get(location, names).await?;
        if matches!(source, JwksSource::SpiffeBundle(_)) {
            let bundle = Bundle::read(&answer.body)?;
            return Ok(Fetched {
                keys: bundle.roots.into(),
                max_age: bundle.refresh.or_else(|| max_age(&answer.headers)),
            });
        }
        let keys = public_set(&answer.body)?;
        // Proxies refuse a listener with keys that none of them can use, and what the keys look like does not tell: a point may not be
        // on its curve. The last good ones stay instead.
        KeySet::parse(&keys)
            .and_then(KeySet::of_public_keys)
            .map_err(FetchError::Unusable)?;
        Ok(Fetched {
            keys,
            max_age: max_age(&answer.headers),
        })
    }

    /// Where an issuer says that its keys are.
    async fn discover(&self, issuer: &str, names: &Names) -> Result<Location, FetchError> {
        let base = issuer.trim_end_matches('/');
        let location = Location::parse(&format!("{base}{DISCOVERY}"))?;
        let tls = location.tls;
        let answer = self.get(location, names).await?;
        let document: Value =
            serde_json::from_slice(&answer.body).map_err(|_| NotAKeySet::NotJson)?;
        let of = document.get("issuer").and_then(Value::as_str);
        if let Some(other) = of.filter(|of| of.trim_end_matches('/') != base) {
            return Err(FetchError::OtherIssuer(issuer.to_owned(), other.to_owned()));
        }
        let uri = document.get("jwks_uri").and_then(Value::as_str);
        let uri = uri.ok_or_else(|| FetchError::NoJwksUri(issuer.to_owned()))?;
        let keys = Location::parse(uri)?;
        if tls && !keys.tls {
            return Err(FetchError::Downgrade(issuer.to_owned()));
        }
        Ok(keys)
    }

    /// Asks, and follows redirects.
    async fn get(&self, from: Location, names: &Names) -> Result<Answer, FetchError> {
        let mut location = from;
        for _ in 0..=MAX_REDIRECTS {
            let (status, headers, body) = self.ask(&location, names).await?;
            let host = || location.host.clone();
            if status.is_success() {
                return Ok(Answer { headers, body });
            }
            let target = headers
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
            let Some(target) = target else {
                return Err(FetchError::Status {
                    host: host(),
                    status,
                });
            };
            let next = location.follow(target)?;
            if location.tls && !next.tls {
                return Err(FetchError::Downgrade(host()));
            }
            location = next;
        }
        Err(FetchError::Redirects(location.host))
    }

    /// One request on a connection of its own.
    async fn ask(
        &self,
        location: &Location,
        names: &Names,
    ) -> Result<(StatusCode, HeaderMap, Bytes), FetchError> {
        let stream = self.connect(location, names).await?;
        if !location.tls {
            return exchange(stream, location).await;
        }
        let config = self
            .tls
            .clone()
            .ok_or_else(|| FetchError::NoRoots(location.host.clone()))?;
        let failed = |source| FetchError::Tls {
            host: location.host.clone(),
            source,
        };
        let name = ServerName::try_from(location.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(failed)?;
        exchange(stream, location).await
    }

    /// Connects to the first address that takes the connection. One that is not allowed ends it: a name that leads there is not
    /// trusted with its other addresses either.
    async fn connect(&self, location: &Location, names: &Names) -> Result<TcpStream, FetchError> {
        let addresses = resolve(location, names).await?;
        for address in &addresses {
            self.guard.check(address.ip())?;
        }
        let mut failure = FetchError::NoEndpoint(location.host.clone(), location.port);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => failure = FetchError::Connect { address, source },
            }
        }
        Err(failure)
    }
}

/// The addresses of a host: its own if it is one, else those the mesh knows, else those of DNS.
async fn resolve(location: &Location, names: &Names) -> Result<Vec<SocketAddr>, FetchError> {
    if let Ok(address) = location.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, location.port)]);
    }
    if let Some(known) = names(&location.host, location.port) {
        if known.is_empty() {
            return Err(FetchError::NoEndpoint(location.host.clone(), location.port));
        }
        return Ok(known);
    }
    let found = tokio::net::lookup_host((location.host.as_str(), location.port)).await;
    found
        .map(Iterator::collect)
        .map_err(|source| FetchError::Resolve {
            host: location.host.clone(),
            source,
        })
}

async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    location: &Location,
) -> Result<(StatusCode, HeaderMap, Bytes), FetchError> {
    let host = || location.host.clone();
    let failed = |source| FetchError::Http {
        host: host(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = Request::get(&location.path)
        .header(header::HOST, &location.authority)
        .header(header::ACCEPT, "application/json, application/jwk-set+json")
        .header(header::USER_AGENT, "lateen")
        .body(Empty::<Bytes>::new())
        .map_err(|_| NoLocation::NotAbsolute(location.path.clone()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = response.into_parts();
        // What a redirect or an error says besides is not read.
        if !parts.status.is_success() {
            return Ok((parts.status, parts.headers, Bytes::new()));
        }
        let body = Limited::new(body, MAX_JWKS_BYTES).collect().await;
        let body = body.map_err(|source| FetchError::Body {
            host: host(),
            source,
        })?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    };
    // The connection is driven here and ends with the answer: nothing of it outlives a fetch that is given up.
    tokio::pin!(answer, connection);
    let mut open = true;
    loop {
        tokio::select! {
            done = &mut answer => return done,
            _ = &mut connection, if open => open = false,
        }
    }
}

/// For how long an answer may be kept (RFC 9111 section 5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let directives = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut age = None;
    for directive in directives {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" || directive == "no-cache" {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            age = seconds
                .trim_matches('"')
                .parse()
                .ok()
                .map(Duration::from_secs);
        }
    }
    age
}
