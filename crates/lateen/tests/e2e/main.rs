//! Whole meshes: real processes, network namespaces, certificates and traffic, on both data planes.

#![expect(clippy::print_stderr, reason = "tests say loudly what they skip")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod background;
mod certificates;
mod changes;
mod clients;
mod decisions;
mod differential;
mod kinds;
mod lifecycle;
mod load;
mod mesh;
mod metrics;
mod peers;
mod samples;
mod scenario;
mod seeds;
mod telemetry;
mod views;

use std::fs;
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh::{DataPlane, available, repository};
use scenario::Scenario;

/// Meshes are started one at a time: each is a dozen processes, and the tests' timing is part of what they check.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn my_turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a scenario on each data plane that can run here; the outcomes it states must hold on both, so they agree.
fn run_scenario(file: &str) {
    let _turn = my_turn();
    let path = repository()
        .join("crates/lateen/tests/scenarios")
        .join(file);
    let scenario = Scenario::parse(&fs::read_to_string(path).unwrap());
    if let Some(tool) = scenario.lacks() {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: {}: there is no {tool}",
            scenario.title
        );
        return;
    }
    let mut failures = Vec::new();
    for data_plane in DataPlane::BOTH.into_iter().filter(|d| available(*d)) {
        failures.extend(scenario.run(data_plane));
    }
    assert!(
        failures.is_empty(),
        "{}:\n{}",
        scenario.title,
        failures.join("\n")
    );
}

#[test]
fn routes_are_tried_in_order_and_the_first_match_decides() {
    run_scenario("routing.md");
}

#[test]
fn mutual_tls_is_automatic_and_strict_refuses_plain_text() {
    run_scenario("mtls.md");
}

#[test]
fn requests_on_ports_that_nobody_declared_are_known_as_requests() {
    run_scenario("sniffed-ports.md");
}

#[test]
fn requests_stay_in_their_zone_where_proxies_know_their_peers() {
    run_scenario("zones.md");
}

#[test]
fn the_ingress_gateway_admits_its_hosts_and_routes_by_virtual_service() {
    run_scenario("gateway.md");
}

#[test]
fn ipv6_goes_through_the_sidecars_as_ipv4_does() {
    run_scenario("ipv6.md");
}

#[test]
fn transparent_interception_keeps_the_clients_address() {
    run_scenario("tproxy.md");
}

#[test]
fn the_iptables_tools_serve_where_netlink_does_not() {
    run_scenario("iptables.md");
}

#[test]
fn a_mesh_may_have_its_own_trust_domain_and_ports() {
    run_scenario("mesh-settings.md");
}

#[test]
fn kubernetes_ingress_and_http_routes_route() {
    run_scenario("kubernetes-routing.md");
}

#[test]
fn hosts_are_looked_up_when_they_are_asked_for() {
    run_scenario("dynamic-dns.md");
}

#[test]
fn workloads_register_themselves_and_count_while_they_are_well() {
    run_scenario("workload-group.md");
}

#[test]
fn a_sidecar_ends_tls_of_its_own() {
    run_scenario("sidecar-tls.md");
}

#[test]
fn an_applications_metrics_are_merged_with_its_proxys() {
    run_scenario("metrics-merge.md");
}

#[test]
fn what_leaves_the_mesh_leaves_by_the_egress_gateway() {
    run_scenario("egress.md");
}

#[test]
fn raw_tcp_and_what_nobody_configured_pass_through() {
    run_scenario("tcp.md");
}

#[test]
fn external_authorizers_are_asked_over_http_and_grpc_and_a_missing_one_denies() {
    run_scenario("ext-authz.md");
}

#[test]
fn seed_000_security_and_zero_trust_hold_as_written() {
    run_scenario("seed-000-security.md");
}

#[test]
fn seed_002_authorization_and_security_patterns_hold_as_written() {
    run_scenario("seed-002-authorization.md");
}

#[test]
fn seed_003_zero_trust_authorization_holds_as_written() {
    run_scenario("seed-003-zero-trust.md");
}

#[test]
fn seed_003_canary_with_strict_mutual_tls_runs_as_written() {
    run_scenario("seed-003-canary.md");
}

#[test]
fn seed_000_jwt_authentication_takes_one_issuers_tokens() {
    run_scenario("seed-000-jwt-authentication.md");
}

#[test]
fn seed_001_jwt_authentication_refuses_bad_tokens() {
    run_scenario("seed-001-jwt-authentication.md");
}

#[test]
fn seed_002_request_authentication_fetches_keys() {
    run_scenario("seed-002-request-authentication.md");
}

#[test]
fn proxies_fetch_keys_from_services_of_the_mesh() {
    run_scenario("remote-jwks.md");
}

#[test]
fn gateways_route_by_claims() {
    run_scenario("jwt-routing.md");
}
