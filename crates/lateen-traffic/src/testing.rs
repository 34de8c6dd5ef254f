//! Requests and connections for tests.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::request::{ConnectionInfo, FilterState, PeerTls, RequestView};
use crate::value::Metadata;

/// A request that owns its parts.
#[derive(Debug)]
pub(crate) struct Request {
    method: String,
    authority: String,
    path: String,
    pub(crate) scheme: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) connection: ConnectionInfo<'static>,
    pub(crate) peer: PeerTls<'static>,
    pub(crate) metadata: Metadata,
    pub(crate) filter_state: FilterState,
}

impl Request {
    pub(crate) fn new(method: &str, authority: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            scheme: "http",
            headers: HeaderMap::new(),
            connection: ConnectionInfo::plain(
                "10.0.0.1:40000".parse().unwrap(),
                "10.0.0.2:80".parse().unwrap(),
            ),
            peer: PeerTls::default(),
            metadata: Metadata::default(),
            filter_state: FilterState::new(),
        }
    }

    pub(crate) fn get() -> Self {
        Self::path("/")
    }

    pub(crate) fn path(path: &str) -> Self {
        Self::new("GET", "example.com", path)
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        );
        self
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&RequestView<'_>) -> T) -> T {
        look(&self.view())
    }

    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: self.scheme,
            authority: &self.authority,
            path: &self.path,
            protocol: None,
            headers: &self.headers,
            client: self.connection.remote,
            connection: &self.connection,
            peer: &self.peer,
            dynamic_metadata: &self.metadata,
            filter_state: &self.filter_state,
        }
    }
}
