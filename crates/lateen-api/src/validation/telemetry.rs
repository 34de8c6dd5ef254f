//! Telemetry.

use super::{Report, common};
use crate::telemetry::{Telemetry, Tracing};

pub(crate) fn check(spec: &Telemetry, report: &mut Report<'_>) {
    common::selector(spec.selector.as_ref(), report);
    common::targets(spec.target_ref.as_ref(), &spec.target_refs, report);
    if spec.tracing.len() > 1 {
        report.key("tracing", |report| {
            report.warning(
                "there can be only one entry of `tracing`",
                "the first is used",
            );
        });
    }
    report.each("tracing", &spec.tracing, tracing);
    report.each("accessLogging", &spec.access_logging, |report, logging| {
        let Some(filter) = &logging.filter else {
            return;
        };
        if let Some(why) = expression(&filter.expression) {
            report.key("filter", |report| report.error_at("expression", why));
        }
    });
}

fn tracing(report: &mut Report<'_>, tracing: &Tracing) {
    if tracing.providers.len() > 1 {
        report.key("providers", |report| {
            report.warning("there can be only one provider", "the first is used");
        });
    }
    if tracing.custom_tags.contains_key("") {
        report.error_at("customTags", "a tag's name must not be empty");
    }
}

/// What is plainly wrong with a CEL expression: brackets and quotes that do not close. Its meaning is checked where it
/// is evaluated.
fn expression(text: &str) -> Option<String> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    for c in text.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => open.push(')'),
            (None, '[') => open.push(']'),
            (None, '{') => open.push('}'),
            (None, ')' | ']' | '}') if open.pop() != Some(c) => {
                return Some(format!(
                    "`{text}` is not a CEL expression: unexpected `{c}`"
                ));
            }
            (None, _) => {}
        }
    }
    if quote.is_some() || !open.is_empty() {
        return Some(format!(
            "`{text}` is not a CEL expression: something is not closed"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::expression;

    #[test]
    fn brackets_and_quotes_have_to_close() {
        assert_eq!(expression("response.code >= 400 && 'a(\\'' in x"), None);
        assert!(expression("has(x").is_some());
        assert!(expression("x == 'a").is_some());
        assert!(expression("x]").is_some());
    }
}
