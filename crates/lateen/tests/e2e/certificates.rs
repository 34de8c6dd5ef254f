//! The certificate authority of a running mesh: its root rotated under load, and one of the user's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::Value;

use crate::load::{Load, canary};
use crate::mesh::{DataPlane, Mesh, available};
use crate::my_turn;

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect()
}

/// `lateen check -o json`: what is in use.
fn check(mesh: &Mesh) -> Vec<Value> {
    let output = mesh.lateen(&["check", "-o", "json"]);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn roots(mesh: &Mesh) -> Vec<String> {
    let all = check(mesh);
    let roots = all.iter().filter(|one| one["what"] == "root");
    roots.map(|one| one["serial"].to_string()).collect()
}

fn rotates_without_loss(data_plane: DataPlane) {
    let _turn = my_turn();
    if !available(data_plane) {
        return;
    }
    let files = canary();
    let mesh = Mesh::up(&borrowed(&files), data_plane);
    let before = roots(&mesh);
    let load = Load::start(&mesh, 40);
    let output = mesh.lateen(&["ca", "rotate-root"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(told.contains("3 of 3: done"), "{told}");
    let after = roots(&mesh);
    assert_eq!(after.len(), 1, "{after:?}");
    assert_ne!(before, after);
    let result = load.finish();
    assert_eq!(result["failed"], 0, "{result:#}");
    assert!(result["ok"].as_u64().unwrap() > 1_000, "{result:#}");
    mesh.down();
}

#[test]
fn a_root_is_rotated_under_load_and_no_request_fails() {
    rotates_without_loss(DataPlane::Lateen);
}

#[test]
fn a_root_is_rotated_under_load_on_envoy_too() {
    rotates_without_loss(DataPlane::Envoy);
}

/// Istio's `cacerts`: a root that stays elsewhere, and an intermediate authority that signs here.
fn plugged_in(dir: &Path) {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params, KeyPair::generate().unwrap())
    };
    let (root_params, root_key) = authority("our root");
    let root = root_params.self_signed(&root_key).unwrap();
    let (params, key) = authority("our mesh");
    let issuer = Issuer::from_params(&root_params, &root_key);
    let signed = params.signed_by(&key, &issuer).unwrap();
    fs::create_dir(dir).unwrap();
    for (name, text, mode) in [
        ("root-cert.pem", root.pem(), 0o644),
        ("ca-cert.pem", signed.pem(), 0o644),
        ("cert-chain.pem", signed.pem() + &root.pem(), 0o644),
        ("ca-key.pem", key.serialize_pem(), 0o600),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn an_authority_of_the_users_own_signs_and_is_not_rotated_from_here() {
    let _turn = my_turn();
    if !available(DataPlane::Lateen) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("cacerts");
    plugged_in(&dir);
    let files = canary();
    let argument = dir.to_string_lossy().into_owned();
    let mesh = Mesh::up_with(
        &borrowed(&files),
        DataPlane::Lateen,
        &["--cacerts", &argument],
    );
    assert!(mesh.get("/").contains("Version: "));
    let names: Vec<String> = check(&mesh)
        .iter()
        .filter(|one| one["what"] != "workload")
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        names.iter().any(|name| name.contains("our root")),
        "{names:?}"
    );
    assert!(
        names.iter().any(|name| name.contains("our mesh")),
        "{names:?}"
    );
    let output = mesh.lateen(&["ca", "rotate-root"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("root-cert.pem"),
        "{told}"
    );
    mesh.down();
}

#[test]
fn a_key_that_others_may_read_is_refused_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("cacerts");
    plugged_in(&dir);
    let key = dir.join("ca-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let config = home.path().join("config");
    fs::create_dir(&config).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lateen"))
        .arg("--state")
        .arg(home.path().join("state"))
        .args(["up", "--cacerts"])
        .args([&dir, &config])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("ca-key.pem"),
        "{told}"
    );
}

/// An authority of another mesh, and a workload's certificate by it in a file with its key.
fn another_mesh(dir: &Path) -> (String, String) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "their root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_key = KeyPair::generate().unwrap();
    let root = params.self_signed(&root_key).unwrap();
    let mut workload = CertificateParams::default();
    let id = "spiffe://partner.example/ns/shop/sa/caller";
    workload.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    workload.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&params, &root_key);
    let certificate = workload.signed_by(&key, &issuer).unwrap();
    let file = dir.join("their-workload.pem");
    fs::write(&file, certificate.pem() + &key.serialize_pem()).unwrap();
    (root.pem(), file.to_string_lossy().into_owned())
}

/// A gateway that lets workloads in with mutual TLS of the mesh, and an answer behind it.
const EDGE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east-west, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: tls, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: ISTIO_MUTUAL}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello, namespace: istio-system}
spec:
  hosts: ['*']
  gateways: [east-west]
  http: [{directResponse: {status: 200, body: {string: hello}}}]
";

fn settings(roots: &str) -> String {
    format!(
        "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {{name: mesh, namespace: istio-system}}
spec: {{meshConfig: {{caCertificates: {roots}}}}}
"
    )
}

fn trusts_another_meshs_root_while_it_is_written(data_plane: DataPlane) {
    let _turn = my_turn();
    if !available(data_plane) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (root, certificate) = another_mesh(home.path());
    let none = settings("[]");
    let files = [("edge.yaml", EDGE), ("mesh.yaml", none.as_str())];
    let mesh = Mesh::up(&files, data_plane);
    let url = format!("https://127.0.0.1:{}/", mesh.ingress);
    let is_let_in = || {
        let words = ["-s", "-k", "-m", "5", "--cert", &certificate, &url];
        let output = Command::new("curl").args(words).output().unwrap();
        output.stdout == b"hello"
    };
    let becomes = |wanted: bool| {
        let end = Instant::now() + Duration::from_secs(30);
        while is_let_in() != wanted {
            assert!(Instant::now() < end, "never let in: {wanted}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    assert!(!is_let_in(), "nobody trusts them yet");
    let theirs = serde_json::json!([{"pem": root, "trustDomains": ["partner.example"]}]);
    fs::write(mesh.dir.join("mesh.yaml"), settings(&theirs.to_string())).unwrap();
    becomes(true);
    let trusted = |mesh: &Mesh| {
        check(mesh)
            .iter()
            .any(|one| one.to_string().contains("their root"))
    };
    assert!(trusted(&mesh), "{:#?}", check(&mesh));
    fs::write(mesh.dir.join("mesh.yaml"), &none).unwrap();
    becomes(false);
    mesh.down();
}

#[test]
fn workloads_of_another_mesh_are_let_in_while_its_root_is_trusted() {
    trusts_another_meshs_root_while_it_is_written(DataPlane::Lateen);
}

#[test]
fn workloads_of_another_mesh_are_let_in_while_its_root_is_trusted_on_envoy_too() {
    trusts_another_meshs_root_while_it_is_written(DataPlane::Envoy);
}
