//! Expressions of Telemetry objects that Lateen's proxy cannot evaluate. The proxy that reads them is asked: its own parser.

use lateen_api::telemetry::{TagOverrideOperation, Telemetry};
use lateen_api::{Diagnostic, Resource, Severity};
use lateen_traffic::cel::Expression;

/// `LAT3061`: an expression that the proxy cannot evaluate.
const EXPRESSION: &str = "LAT3061";

pub(super) fn findings(resources: &[Resource]) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for resource in resources {
        let Some(spec) = resource.spec_as::<Telemetry>() else {
            continue;
        };
        for (index, entry) in spec.access_logging.iter().enumerate() {
            let Some(filter) = &entry.filter else {
                continue;
            };
            let field = format!("spec.accessLogging[{index}].filter.expression");
            let effect =
                "the proxy does not take the listeners that it is in, and keeps the last good ones";
            out.extend(finding(resource, &field, &filter.expression, effect));
        }
        for (index, entry) in spec.metrics.iter().enumerate() {
            for (number, change) in entry.overrides.iter().enumerate() {
                let tags = change.tag_overrides.iter();
                for (tag, to) in tags.filter(|(_, to)| to.operation == TagOverrideOperation::Upsert)
                {
                    let field = format!(
                        "spec.metrics[{index}].overrides[{number}].tagOverrides.{tag}.value"
                    );
                    let effect = "the label's value is `unknown`";
                    out.extend(finding(resource, &field, &to.value, effect));
                }
            }
        }
    }
    out
}

fn finding(resource: &Resource, field: &str, expression: &str, effect: &str) -> Option<Diagnostic> {
    if expression.is_empty() {
        return None;
    }
    let error = Expression::parse(expression).err()?;
    let found = Diagnostic::new(
        EXPRESSION,
        Severity::Warning,
        format!("`{expression}`: {error}"),
    )
    .on(resource.reference())
    .at(field)
    .spanned(Some(resource.file_span(field)))
    .effect(effect)
    .fix("write a text as 'text'; docs/compatibility.md lists attributes, operators and functions");
    Some(found)
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    #[test]
    fn what_the_proxy_cannot_evaluate_is_told_where_it_stands() {
        let yaml = "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t}
spec:
  accessLogging:
  - filter: {expression: \"response.code >= 400 && nobody.knows\"}
  - filter: {expression: \"response.code >= 400\"}
  metrics:
  - overrides:
    - tagOverrides:
        good: {value: request.host}
        bad: {value: \"some text\"}
        gone: {operation: REMOVE}
";
        let parsed = parse_file(&SourceFile::new("t.yaml", yaml), "default");
        let found = findings(&parsed.resources);
        let lines: Vec<_> = found
            .iter()
            .map(|d| (d.code, d.span.as_ref().map(|span| span.line)))
            .collect();
        assert_eq!(lines, [(EXPRESSION, Some(7)), (EXPRESSION, Some(13))]);
    }
}
