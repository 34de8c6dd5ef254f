//! Generates the messages no crate ships (`proto/`), and one descriptor set over those and everything in `envoy-types`.
//!
//! `protoc` comes from a crate, so a fresh machine needs nothing installed. The pure-Rust `protox` cannot stand in for it: it
//! resolves names of transitive imports that Envoy's files rely on `protoc` not to see.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::MetadataCommand;

type Error = Box<dyn std::error::Error>;

/// The package whose `.proto` files describe the messages of [`envoy_types::pb`].
const ENVOY_TYPES: &str = "envoy-types";

fn main() -> Result<(), Error> {
    for path in ["build.rs", "Cargo.toml", "proto"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let protoc = protoc_bin_vendored::protoc_bin_path()?;
    let google = protoc_bin_vendored::include_path()?;
    let own = Path::new("proto");

    generate(own, &google, &protoc)?;

    let mut roots = subdirectories(&envoy_types_directory()?.join("proto"))?;
    // A repository copied as a whole has its import root one directory down (`cel-spec/proto`).
    for root in &mut roots {
        let inner = root.join("proto");
        if inner.is_dir() {
            *root = inner;
        }
    }
    roots.push(own.to_owned());
    describe(&roots, &google, &protoc, &out.join("descriptors.bin"))
}

/// Rust types, clients and servers for our own files. They use the Google types of `envoy-types`, so that a `Struct` is one type.
fn generate(own: &Path, google: &Path, protoc: &Path) -> Result<(), Error> {
    let mut config = tonic_prost_build::Config::new();
    config
        .protoc_executable(protoc)
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .btree_map(["."]);
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .compile_with_config(
            config,
            &proto_files(own)?,
            &[own.to_owned(), google.to_owned()],
        )?;
    Ok(())
}

/// Writes the `FileDescriptorSet` of every file below `roots`. Each root is an import path of its own.
fn describe(roots: &[PathBuf], google: &Path, protoc: &Path, to: &Path) -> Result<(), Error> {
    let mut command = Command::new(protoc);
    command
        .arg("--include_imports")
        .arg(format!("--descriptor_set_out={}", to.display()));
    for root in roots.iter().map(PathBuf::as_path).chain([google]) {
        command.arg("-I").arg(root);
    }
    for root in roots {
        for file in proto_files(root)? {
            command.arg(file.strip_prefix(root)?);
        }
    }
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("protoc failed: {status}").into())
    }
}

/// Where cargo unpacked `envoy-types`. Cargo tells a build script nothing about its package's dependencies, so ask.
fn envoy_types_directory() -> Result<PathBuf, Error> {
    let target = env::var("TARGET")?;
    let manifest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let ask = |options: &[&str]| {
        let mut all = vec![
            "--filter-platform".to_owned(),
            target.clone(),
            "--locked".to_owned(),
        ];
        all.extend(options.iter().map(|o| (*o).to_owned()));
        MetadataCommand::new()
            .manifest_path(&manifest)
            .other_options(all)
            .exec()
    };
    // Offline first: nothing to fetch when the whole workspace is built. A build of one package may not have fetched what
    // only the others need, and `cargo metadata` insists on all of it.
    let metadata = ask(&["--offline"]).or_else(|_| ask(&[]))?;
    let package = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == ENVOY_TYPES);
    let manifest = &package
        .ok_or("envoy-types is not a dependency")?
        .manifest_path;
    Ok(manifest
        .parent()
        .ok_or("a manifest lies in a directory")?
        .as_std_path()
        .to_owned())
}

fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .filter(|path| path.as_ref().map_or(true, |p| p.is_dir()))
        .collect::<io::Result<_>>()?;
    found.sort();
    Ok(found)
}

/// The `.proto` files below `dir`, sorted, so that equal inputs make equal descriptor sets.
fn proto_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(proto_files(&path)?);
        } else if path.extension() == Some(OsStr::new("proto")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
