//! Istio's own cases, read in place from `$LATEEN_CONFORMANCE`; `make conformance` runs the same with more to see.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lateen_testkit::conformance::{self, KnownFailures, Suite, Verbosity};

fn holds(suite: Suite) {
    let Some(root) = std::env::var_os("LATEEN_CONFORMANCE").map(PathBuf::from) else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {suite}: LATEEN_CONFORMANCE is not set"
        );
        return;
    };
    let report = conformance::run(suite, &root).unwrap_or_else(|error| panic!("{error:#}"));
    let Some(report) = report else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {suite}: there is no directory {}",
            suite.directory(&root).display()
        );
        return;
    };
    let known = KnownFailures::read(Path::new("known-failures.txt"))
        .expect("the list of known failures is well formed");
    let text = report.render(&known, Verbosity::Failures);
    println!("{text}");
    assert!(report.is_good(&known), "{text}");
}

#[test]
fn requests_go_where_istio_sends_them() {
    holds(Suite::Simulation);
}

#[test]
fn resources_are_accepted_and_refused_as_istio_does() {
    holds(Suite::CrdValidation);
}

#[test]
fn authorization_policies_mean_what_they_mean_in_istio() {
    holds(Suite::Authz);
}
