//! The compiling of an update in parts, so that several can share in it who each take one after another.
//!
//! A change is compiled by itself; a large route configuration is in several parts, since its virtual hosts are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lateen_envoy::TypeUrl;

use super::{Change, Compiled, Made, Program, Seen};
use crate::from_xds::{self, CheckedHost, SplitRoutes};

/// Changes in a part, at most.
const CHANGES: usize = 64;
/// Virtual hosts in a part, at most. A route configuration with more is in several.
const HOSTS: usize = 128;

/// Part of the compiling of an update.
#[derive(Debug)]
pub struct Part<'a>(Of<'a>);

#[derive(Debug)]
enum Of<'a> {
    /// Changes as they are.
    Changes(&'a [Change]),
    /// Some virtual hosts of the route configuration that is the next change.
    Hosts(Arc<ManyHosts>, Range<usize>),
}

/// What a part comes to.
#[derive(Debug)]
pub struct CompiledPart(Vec<Compiled>);

/// A route configuration whose virtual hosts several look at.
#[derive(Debug)]
struct ManyHosts {
    routes: SplitRoutes,
    /// Those that were looked at, by the first of their part.
    checked: Mutex<BTreeMap<usize, Vec<CheckedHost>>>,
}

impl ManyHosts {
    /// Looks at some. Who is the last of all to have looked gets the whole.
    fn check(&self, some: Range<usize>, seen: &mut Seen) -> Option<Compiled> {
        let found = self.routes.check(some.clone(), &mut seen.hosts);
        let all = {
            let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            checked.insert(some.start, found);
            let count: usize = checked.values().map(Vec::len).sum();
            (count == self.routes.len()).then(|| std::mem::take(&mut *checked))
        };
        let routes = self.routes.finish(all?.into_values().flatten().collect());
        let made = routes.map(|routes| Made::Routes(routes.into()));
        Some(Compiled(made.map_err(Box::new)))
    }
}

impl<'a> Part<'a> {
    /// All parts of an update, in its order.
    pub fn all(changes: &'a [Change]) -> Vec<Self> {
        let mut parts = Vec::new();
        // Each large route configuration ends a run of other changes.
        for run in changes.split_inclusive(is_large) {
            let split = run
                .split_last()
                .and_then(|(last, others)| Some((split(last)?, others)));
            let (routes, others) =
                split.map_or((None, run), |(split, others)| (Some(split), others));
            let others = others.chunks(CHANGES);
            parts.extend(others.map(|some| Part(Of::Changes(some))));
            let Some(routes) = routes else {
                continue;
            };
            let (count, checked) = (routes.len(), Mutex::default());
            let many = Arc::new(ManyHosts { routes, checked });
            let hosts = (0..count).step_by(HOSTS);
            let hosts = hosts.map(|from| from..count.min(from + HOSTS));
            parts.extend(hosts.map(|some| Part(Of::Hosts(Arc::clone(&many), some))));
        }
        parts
    }
}

/// Bytes that tell a large resource from others: more than a few virtual hosts have.
const LARGE: usize = 64 * 1024;

fn is_large(change: &Change) -> bool {
    let Change::Upsert(TypeUrl::RouteConfiguration, resource) = change else {
        return false;
    };
    resource.body.value.len() > LARGE
}

/// A route configuration with many virtual hosts.
fn split(change: &Change) -> Option<SplitRoutes> {
    let Change::Upsert(TypeUrl::RouteConfiguration, resource) = change else {
        return None;
    };
    let split = is_large(change).then(|| from_xds::split_routes(&resource.body));
    split.flatten().filter(|split| split.len() > HOSTS)
}

impl Program {
    /// Compiles a part of an update, for one who has seen other parts of it.
    pub fn compile_part(&self, part: &Part<'_>, seen: &mut Seen) -> CompiledPart {
        CompiledPart(match &part.0 {
            Of::Changes(changes) => self.compile(changes, seen),
            Of::Hosts(many, some) => many.check(some.clone(), seen).into_iter().collect(),
        })
    }
}

impl IntoIterator for CompiledPart {
    type Item = Compiled;
    type IntoIter = std::vec::IntoIter<Compiled>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
