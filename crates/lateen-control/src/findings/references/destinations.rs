//! The places in a VirtualService that name a destination.

use lateen_api::networking::{Destination, HttpRoute, VirtualService};

/// What happens to what goes to a destination that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Requests of a route.
    Requests,
    /// Copies of requests.
    Copies,
    /// Connections.
    Connections,
}

impl Carries {
    /// What follows from a destination that no cluster is made for.
    pub(super) fn lost(self) -> &'static str {
        match self {
            Self::Requests => {
                "what this route sends there is answered with 503 (NC: no such cluster)"
            }
            Self::Copies => "nothing is mirrored; the requests themselves are not affected",
            Self::Connections => "connections that this route takes are closed",
        }
    }
}

/// A destination, and where it stands.
pub(super) struct Target<'a> {
    pub(super) destination: &'a Destination,
    /// `spec.http[0].route[1].destination`.
    pub(super) field: String,
    pub(super) carries: Carries,
}

/// Every destination of a VirtualService, in the order written.
pub(super) fn all(spec: &VirtualService) -> Vec<Target<'_>> {
    let mut out = Vec::new();
    for (index, route) in spec.http.iter().enumerate() {
        http(index, route, &mut out);
    }
    let tcp = spec.tcp.iter().map(|route| &route.route).enumerate();
    let tls = spec.tls.iter().map(|route| &route.route).enumerate();
    let streams = tcp.map(|it| ("tcp", it)).chain(tls.map(|it| ("tls", it)));
    for (key, (index, routes)) in streams {
        for (at, route) in routes.iter().enumerate() {
            out.extend(route.destination.as_ref().map(|destination| Target {
                destination,
                field: format!("spec.{key}[{index}].route[{at}].destination"),
                carries: Carries::Connections,
            }));
        }
    }
    out.retain(|target| !target.destination.host.is_empty());
    out
}

fn http<'a>(index: usize, route: &'a HttpRoute, out: &mut Vec<Target<'a>>) {
    let path = format!("spec.http[{index}]");
    for (at, weighted) in route.route.iter().enumerate() {
        out.extend(weighted.destination.as_ref().map(|destination| Target {
            destination,
            field: format!("{path}.route[{at}].destination"),
            carries: Carries::Requests,
        }));
    }
    out.extend(route.mirror.as_ref().map(|destination| Target {
        destination,
        field: format!("{path}.mirror"),
        carries: Carries::Copies,
    }));
    for (at, mirror) in route.mirrors.iter().enumerate() {
        out.extend(mirror.destination.as_ref().map(|destination| Target {
            destination,
            field: format!("{path}.mirrors[{at}].destination"),
            carries: Carries::Copies,
        }));
    }
}
