//! Leading a request from one decision to the next.
//!
//! A request arrives at a listener ([`Arrival`]); [`connection`] finds its chain and ends its TLS; [`http`] or [`tcp`] find its
//! cluster; [`upstream`] picks a host and knows whose proxy is there; and so on, until it ends. Where chance decides, the
//! [`Trail`] so far is cloned for each branch.

mod access;
mod authorizer;
mod connection;
mod entry;
mod filters;
mod forward;
mod http;
mod jwt;
mod tcp;
mod upstream;

pub(crate) use access::RuleName;
pub(crate) use connection::mode_of;
pub(crate) use upstream::short;

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::HeaderMap;
use lateen_traffic::Listener;
use lateen_traffic::tls::SanMatcher;

use crate::asked::Asked;
use crate::mesh::{Client, Mesh, Proxy};
use crate::place::{Place, Places};
use crate::report::{
    Branch, End, Explanation, Facts, Note, NoteKind, Outcome, Stage, Step, Verdict,
};

/// Proxies a request may pass; a mesh that sends it in circles is told so.
const MOST_HOPS: u32 = 8;
/// Branches that are told apart. Weights multiply over hops; beyond this only the likeliest are followed.
const MOST_BRANCHES: usize = 64;

/// How to explain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Fixes everything that chance decides.
    pub seed: Option<u64>,
    /// The port of the listener the connection is accepted by, where the proxy alone is explained. 15001 if not given.
    pub listener: Option<u16>,
    /// Seconds since 1970, for tokens that expire.
    pub now: u64,
    /// What external authorizers say; not known if not given.
    pub authorizer: Option<Authorizer>,
}

/// What an external authorizer is taken to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorizer {
    /// It lets pass what it is asked about.
    Allows,
    /// It refuses what it is asked about.
    Denies,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The client's pod is not there (any more).
    #[error("there is no pod {0}/{1}")]
    NoPod(String, String),
    /// The proxy has no such listener.
    #[error("the proxy has no listener on port {port}; it has {}", .known.join(", "))]
    NoListener {
        /// The port asked for.
        port: u16,
        /// What it has.
        known: Vec<String>,
    },
}

/// Explains a request of a client in a mesh.
///
/// # Errors
/// The client is not in the mesh.
pub fn explain(
    mesh: &Mesh,
    client: &Client,
    asked: &Asked,
    options: Options,
) -> Result<Explanation, ExplainError> {
    let mut walker = Walker::new(Some(mesh), mesh.places(), options);
    let from = entry::from_client(&mut walker, mesh, client, asked)?;
    Ok(walker.finish(asked, from))
}

/// Explains what one proxy does with a request, such as one whose configuration was dumped. What is behind it is not known.
///
/// # Errors
/// The proxy has no listener on the port given.
pub fn explain_proxy(
    proxy: Arc<Proxy>,
    places: &Places,
    asked: &Asked,
    options: Options,
) -> Result<Explanation, ExplainError> {
    let mut walker = Walker::new(None, places, options);
    let from = proxy.name.clone();
    entry::at_proxy(&mut walker, proxy, asked)?;
    Ok(walker.finish(asked, from))
}

/// What a connection carries.
#[derive(Clone, Debug)]
enum Payload {
    /// Requests.
    Http(Box<Head>),
    /// TLS around something.
    Tls(Box<Hello>),
    /// Bytes no inspector knows.
    Opaque,
}

/// A request's head.
#[derive(Clone, Debug)]
struct Head {
    method: String,
    authority: String,
    path: String,
    headers: HeaderMap,
    http2: bool,
}

/// A ClientHello, and what the client does then.
#[derive(Clone, Debug)]
struct Hello {
    sni: Option<String>,
    alpn: Vec<String>,
    /// The identity in the client's certificate, if it presents one.
    certificate: Option<String>,
    /// What the client wants of the server's certificate.
    expects: Vec<SanMatcher>,
    inner: Payload,
}

/// A connection that arrives at a proxy.
#[derive(Clone, Debug)]
struct Arrival {
    proxy: Arc<Proxy>,
    /// The listener whose socket accepts it.
    accepting: Arc<Listener>,
    local: SocketAddr,
    remote: SocketAddr,
    payload: Payload,
    /// The workload behind the proxy: `deploy/reviews-v1`, with its namespace.
    workload: Option<String>,
}

/// What happened to a request so far.
#[derive(Clone, Debug)]
struct Trail {
    steps: Vec<Step>,
    /// How many of them happen to every such request.
    common: Option<usize>,
    percent: f64,
    to: Vec<String>,
    facts: Facts,
    hops: u32,
    /// An HTTP proxy was passed, so that what fails behind it is answered with a status.
    through_http: bool,
}

struct Walker<'a> {
    mesh: Option<&'a Mesh>,
    places: &'a Places,
    options: Options,
    ended: Vec<(Trail, Outcome)>,
}

impl<'a> Walker<'a> {
    fn new(mesh: Option<&'a Mesh>, places: &'a Places, options: Options) -> Self {
        Self {
            mesh,
            places,
            options,
            ended: Vec::new(),
        }
    }

    /// A number in place of a random one, different for each purpose.
    fn random(&self, purpose: u64) -> u64 {
        let mixed = self
            .options
            .seed
            .unwrap_or_default()
            .wrapping_add(purpose.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // One step of SplitMix64, so that neighbouring seeds differ in every digit.
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 31)
    }

    fn end(&mut self, trail: Trail, outcome: Outcome) {
        if self.ended.len() < MOST_BRANCHES {
            self.ended.push((trail, outcome));
        }
    }

    /// Ends a request with a last step that says why.
    fn stop(&mut self, mut trail: Trail, step: Step, outcome: Outcome) {
        trail.steps.push(Step {
            verdict: if outcome.succeeds() {
                Verdict::Pass
            } else {
                Verdict::Stop
            },
            ..step
        });
        self.end(trail, outcome);
    }

    fn finish(self, asked: &Asked, from: String) -> Explanation {
        let request = if asked.url.payload.is_http() {
            format!("{} {}", asked.method, asked.url)
        } else {
            asked.url.to_string()
        };
        let common = self
            .ended
            .iter()
            .map(|(trail, _)| trail.common.unwrap_or(trail.steps.len()))
            .min()
            .unwrap_or(0);
        let steps = self
            .ended
            .first()
            .map_or_else(Vec::new, |(trail, _)| trail.steps[..common].to_vec());
        let branches = self.ended.into_iter().map(|(mut trail, outcome)| Branch {
            percent: trail.percent,
            to: trail.to.join(" "),
            steps: trail.steps.split_off(common),
            facts: trail.facts,
            outcome,
        });
        Explanation {
            request,
            from,
            steps,
            branches: branches.collect(),
        }
    }
}

impl Trail {
    fn new() -> Self {
        Self {
            steps: Vec::new(),
            common: None,
            percent: 100.0,
            to: Vec::new(),
            facts: Facts::default(),
            hops: 0,
            through_http: false,
        }
    }

    fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// One of several ways from here on.
    fn branch(&self, percent: f64) -> Self {
        let mut branch = self.clone();
        branch.common.get_or_insert(self.steps.len());
        branch.percent *= percent / 100.0;
        branch
    }
}

impl Step {
    fn new(at: &str, stage: Stage, what: impl Into<String>) -> Self {
        Self {
            at: at.to_owned(),
            stage,
            verdict: Verdict::Pass,
            what: what.into(),
            place: None,
            notes: Vec::new(),
        }
    }

    /// A step that decides nothing.
    fn info(at: &str, stage: Stage, what: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Info,
            ..Self::new(at, stage, what)
        }
    }

    fn at_place(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    fn with_notes(mut self, notes: Vec<Note>) -> Self {
        self.notes = notes;
        self
    }
}

impl Note {
    fn new(kind: NoteKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            place: None,
        }
    }

    fn at_place(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }
}

impl Outcome {
    fn new(end: End, summary: impl Into<String>) -> Self {
        Self {
            end,
            status: None,
            flags: None,
            summary: summary.into(),
            place: None,
        }
    }

    fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    fn flags(mut self, flags: &'static str) -> Self {
        self.flags = Some(flags);
        self
    }

    fn decided_at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// What a client sees of a connection that failed behind an HTTP proxy.
    fn behind(self, trail: &Trail, flags: &'static str) -> Self {
        if trail.through_http {
            self.status(503).flags(flags)
        } else {
            self
        }
    }
}
