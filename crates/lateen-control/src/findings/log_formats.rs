//! Formats of access logs in MeshConfig that Lateen's proxy cannot write. Its own parser is asked.

use std::sync::Arc;

use lateen_api::mesh::{AccessLogEncoding, MeshConfig};
use lateen_api::{Diagnostic, Resource, Severity};
use lateen_sources::mesh;
use lateen_telemetry::access_log::{Content, Environment, Expression, TextFormat};
use lateen_traffic::cel;

/// `LAT3062`: a format of access logs that the proxy cannot write.
const FORMAT: &str = "LAT3062";

pub(super) fn findings(mesh: &MeshConfig, resources: &[Resource]) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    let mut check = |field: String, format: &str| {
        let error = TextFormat::parse(format, false, &environment()).err();
        out.extend(error.map(|error| {
            let found = Diagnostic::new(FORMAT, Severity::Warning, format!("`{field}`: {error}"))
                .effect("nothing is written to this log")
                .fix("docs/compatibility.md lists the operators");
            mesh::about(found, resources, &field)
        }));
    };
    for text in texts(mesh) {
        check("accessLogFormat".to_owned(), &text);
    }
    for (index, provider) in mesh.extension_providers.iter().enumerate() {
        let file = provider.envoy_file_access_log.as_ref();
        let format = file.and_then(|file| file.log_format.as_ref());
        if let Some(text) = format.and_then(|format| format.text.as_ref()) {
            let field = format!("extensionProviders[{index}].envoyFileAccessLog.logFormat.text");
            check(field, text);
        }
    }
    out
}

/// The formats that `accessLogFormat` holds: itself, or one for each field of its JSON.
fn texts(mesh: &MeshConfig) -> Vec<String> {
    let format = &mesh.access_log_format;
    match mesh.access_log_encoding {
        AccessLogEncoding::Text => vec![format.clone()],
        AccessLogEncoding::Json => {
            let fields: serde_json::Map<_, _> = serde_json::from_str(format).unwrap_or_default();
            let texts = fields.values().filter_map(|value| value.as_str());
            texts.map(str::to_owned).collect()
        }
    }
}

/// Expressions are those of the proxy; every file is taken to be there, since it is the pod's.
fn environment() -> Environment<'static> {
    Environment {
        expression: &|text| {
            let parsed = cel::Expression::parse(text).map_err(|error| error.to_string())?;
            Ok(Arc::new(parsed) as Expression)
        },
        file: &|_| Some(Arc::new(OfThePod)),
        ..Environment::default()
    }
}

/// A file that nobody reads here.
#[derive(Debug)]
struct OfThePod;

impl Content for OfThePod {
    fn text(&self) -> Arc<str> {
        "".into()
    }
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    fn found(mesh_config: &str) -> Vec<(u32, String)> {
        let yaml = format!(
            "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {{name: mesh}}\nspec:\n  meshConfig:\n{mesh_config}"
        );
        let parsed = parse_file(&SourceFile::new("mesh.yaml", yaml.as_str()), "default");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let (mesh, _) = mesh::config(&parsed.resources);
        let found = findings(&mesh, &parsed.resources).into_iter();
        found
            .map(|d| (d.span.as_ref().map_or(0, |span| span.line), d.message))
            .collect()
    }

    #[test]
    fn what_the_proxy_cannot_write_is_told_where_it_stands() {
        let text = found("    accessLogFormat: '%REQ(A)% %SECRET(x)%'\n");
        assert_eq!(text.len(), 1);
        assert_eq!(text[0].0, 6);
        assert!(text[0].1.contains("SECRET"), "{}", text[0].1);
        let json = found(
            "    accessLogEncoding: JSON\n    accessLogFormat: '{\"a\": \"%CEL(nobody.knows)%\", \"b\": \"%PROTOCOL%\"}'\n",
        );
        assert_eq!(json.len(), 1, "{json:?}");
        let provider = found(
            "    extensionProviders:\n    - name: log\n      envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '%NOTHING%'}}\n",
        );
        assert_eq!(provider.len(), 1, "{provider:?}");
        assert_eq!(provider[0].0, 8);
    }

    #[test]
    fn what_it_can_is_no_finding() {
        let fine =
            "    accessLogFormat: '%PROTOCOL% %CEL(request.host)% %FILE_CONTENT(/etc/zone)%'\n";
        assert_eq!(found(fine), []);
        assert_eq!(found("    accessLogFile: /dev/stdout\n"), []);
    }
}
