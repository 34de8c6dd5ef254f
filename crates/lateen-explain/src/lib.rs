//! "Why did this request get that answer?", asked of configuration: no sockets, clock or randomness.
//!
//! A described request ([`Asked`]) walks the way the proxies would take it: the client's proxy, the network, the destination's
//! proxy. Every decision is the traffic engine's (`lateen-traffic`), on the resources the compiler made for those proxies; this
//! crate only leads the request from one decision to the next and writes down the reasons with the place in the user's files.
//! Where chance decides (weights, faults) the outcome has branches with their probabilities, unless a seed fixes them.
//!
//! It does not read files or ask proxies: the command line does, and hands over a [`Mesh`] or a [`Proxy`].

mod asked;
mod curl;
mod mesh;
pub mod meshtest;
mod place;
mod report;
pub mod security;
mod text;
mod token;
mod walk;

pub use asked::{Asked, AskedError, Payload as Protocol, Url};
pub use curl::{CurlError, parse as parse_curl};
pub use mesh::{Client, FindError, Mesh, MeshInputs, Proxy};
pub use meshtest::split_words;
pub use place::{Place, Places, Source};
pub use report::{
    Branch, End, Explanation, Facts, FaultFacts, LimitFacts, MirrorFacts, Note, NoteKind, Outcome,
    RetryFacts, Stage, Step, TlsMode, Verdict,
};
pub use text::{Look, render};
pub use token::TokenError;
pub use walk::{Authorizer, ExplainError, Options, explain, explain_proxy};
