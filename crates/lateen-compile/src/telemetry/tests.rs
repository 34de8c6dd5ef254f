//! Tests of merged access logs.

use super::*;

fn entry(providers: &[&str], disabled: Option<bool>, mode: Option<WorkloadMode>) -> AccessLogging {
    AccessLogging {
        providers: providers
            .iter()
            .map(|name| lateen_api::telemetry::ProviderRef {
                name: (*name).to_owned(),
            })
            .collect(),
        r#match: mode.map(|mode| lateen_api::telemetry::LogSelector { mode }),
        disabled,
        filter: None,
    }
}

fn merged(levels: &[&[AccessLogging]], defaults: &[&str], mode: WorkloadMode) -> Vec<String> {
    let defaults: Vec<String> = defaults.iter().map(|&name| name.to_owned()).collect();
    let out = merge(&levels.to_vec(), &defaults, mode);
    out.into_keys().map(str::to_owned).collect()
}

#[test]
fn the_narrower_level_names_the_providers() {
    let (mesh, workload) = ([entry(&["a"], None, None)], [entry(&["b"], None, None)]);
    let client = WorkloadMode::Client;
    assert_eq!(merged(&[], &["d"], client), ["d"]);
    assert_eq!(merged(&[&mesh], &["d"], client), ["a"]);
    assert_eq!(merged(&[&mesh, &workload], &[], client), ["b"]);
}

#[test]
fn a_level_can_switch_off_what_another_asked_for() {
    let mesh = [entry(&["a"], None, None)];
    let off = [entry(&[], Some(true), None)];
    assert!(merged(&[&mesh, &off], &[], WorkloadMode::Client).is_empty());
    let on = [entry(&[], Some(false), None)];
    assert_eq!(
        merged(&[&mesh, &off, &on], &[], WorkloadMode::Client),
        ["a"]
    );
}

#[test]
fn a_mode_concerns_what_a_workload_sends_or_what_it_gets() {
    let server = [entry(&["a"], None, Some(WorkloadMode::Server))];
    assert_eq!(merged(&[&server], &[], WorkloadMode::Server), ["a"]);
    assert!(merged(&[&server], &[], WorkloadMode::Client).is_empty());
}

#[test]
fn the_built_in_provider_logs_to_standard_output_in_the_meshs_format() {
    let mesh = Mesh {
        log_format: LogFormat::Text("mesh\n".to_owned()),
        ..Mesh::default()
    };
    let lookup = |name: &str| match name {
        "nowhere" => Err(String::new()),
        name => Ok(name.to_owned()),
    };
    let built_in = log(&mesh, "envoy", Some("x"), &lookup).unwrap();
    let LogSink::File { path, format, .. } = built_in.sink else {
        panic!("{built_in:?}");
    };
    assert_eq!(path, "/dev/stdout");
    assert_eq!(format, mesh.log_format);
    assert_eq!(built_in.filter.as_deref(), Some("x"));
    assert_eq!(log(&mesh, "nobody", None, &lookup), None);
}

#[test]
fn services_take_logs_if_there_are_such_services() {
    let otel = |name: &str, service: &str| ExtensionProvider {
        name: name.to_owned(),
        envoy_otel_als: Some(lateen_api::mesh::EnvoyOpenTelemetryLogProvider {
            service: service.to_owned(),
            port: 4317,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mesh = Mesh {
        extension_providers: vec![otel("there", "otel.obs"), otel("away", "nowhere")],
        ..Mesh::default()
    };
    let lookup = |name: &str| match name {
        "nowhere" => Err(String::new()),
        name => Ok(name.to_owned()),
    };
    let there = log(&mesh, "there", None, &lookup).unwrap();
    let LogSink::OpenTelemetry(to, _) = there.sink else {
        panic!("{there:?}");
    };
    assert_eq!(to.cluster, "outbound|4317||otel.obs");
    assert_eq!(log(&mesh, "away", None, &lookup), None);
}
