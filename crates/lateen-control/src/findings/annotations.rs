//! Annotations and settings of a pod's proxy whose values it cannot use: log levels, and regular expressions of statistics.
//!
//! Each is read by whoever starts the proxy, which can tell nobody but its own log.

use lateen_api::mesh::{MeshConfig, ProxyConfig, ProxyStatsMatcher};
use lateen_api::{
    Diagnostic, ObjectMeta, Resource, Severity, SourceFile, Spec, nearest, parse_fragment,
    regex_problem,
};
use lateen_sources::mesh;
use lateen_sources::plan::PROXY_CONFIG_ANNOTATION;

/// Istio's `InvalidAnnotation`.
const INVALID: &str = "IST0125";
/// `LAT0509`: a regular expression of `proxyStatsMatcher` that cannot be used.
const STATS: &str = "LAT0509";

/// Envoy's log levels.
const LEVELS: [&str; 8] = [
    "trace", "debug", "info", "warning", "warn", "error", "critical", "off",
];

const EFFECT_OF_LEVEL: &str =
    "the proxy's level stays as it is (of a stock Envoy: it does not start)";
const EFFECT_OF_REGEX: &str = "statistics are not kept for it (a stock Envoy does not start)";

pub(super) fn findings(mesh: &MeshConfig, resources: &[Resource]) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    let settings = mesh.default_config.as_ref();
    let matcher = settings.and_then(|settings| settings.proxy_stats_matcher.as_ref());
    out.extend(
        matcher
            .into_iter()
            .flat_map(wrong_regexes)
            .map(|(index, why)| {
                let field = format!("defaultConfig.proxyStatsMatcher.inclusionRegexps[{index}]");
                let found = Diagnostic::new(STATS, Severity::Warning, format!("`{field}`: {why}"))
                    .effect(EFFECT_OF_REGEX);
                mesh::about(found, resources, &field)
            }),
    );
    for resource in resources {
        if let Some((meta, prefix)) = pods(resource) {
            let pods = Pods {
                resource,
                meta,
                prefix,
            };
            out.extend(pods.levels());
            out.extend(pods.statistics());
        }
    }
    out
}

/// What a workload's pods are annotated with, and where that is written.
struct Pods<'a> {
    resource: &'a Resource,
    meta: &'a ObjectMeta,
    prefix: &'static str,
}

fn pods(resource: &Resource) -> Option<(&ObjectMeta, &'static str)> {
    const TEMPLATE: &str = "spec.template.metadata";
    Some(match &*resource.spec {
        Spec::Deployment(it) => (&it.spec.template.metadata, TEMPLATE),
        Spec::ReplicaSet(it) => (&it.spec.template.metadata, TEMPLATE),
        Spec::StatefulSet(it) => (&it.spec.template.metadata, TEMPLATE),
        Spec::DaemonSet(it) => (&it.spec.template.metadata, TEMPLATE),
        Spec::Job(it) => (&it.spec.template.metadata, TEMPLATE),
        Spec::CronJob(it) => (
            &it.spec.job_template.spec.template.metadata,
            "spec.jobTemplate.spec.template.metadata",
        ),
        Spec::Pod(_) => (&*resource.meta, "metadata"),
        _ => return None,
    })
}

impl Pods<'_> {
    fn finding(&self, code: &'static str, annotation: &str, why: &str) -> Diagnostic {
        let field = format!("{}.annotations[\"{annotation}\"]", self.prefix);
        let message = format!("the annotation `{annotation}`: {why}");
        Diagnostic::new(code, Severity::Warning, message)
            .on(self.resource.reference())
            .at(field.as_str())
            .spanned(Some(self.resource.file_span(&field)))
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.meta.annotations.get(name).map(String::as_str)
    }

    fn levels(&self) -> Vec<Diagnostic> {
        const LEVEL: &str = "sidecar.istio.io/logLevel";
        const COMPONENTS: &str = "sidecar.istio.io/componentLogLevel";
        let mut out = Vec::new();
        let mut wrong = |annotation: &str, why: String, level: &str| {
            let fix = match nearest(level, &LEVELS) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("levels are {}", LEVELS.join(", ")),
            };
            let found = self.finding(INVALID, annotation, &why);
            out.push(found.effect(EFFECT_OF_LEVEL).fix(fix));
        };
        if let Some(level) = self
            .annotation(LEVEL)
            .filter(|level| !LEVELS.contains(level))
        {
            wrong(LEVEL, format!("`{level}` is no log level"), level);
        }
        let components = self.annotation(COMPONENTS).unwrap_or_default().split(',');
        for pair in components.map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair
                .split_once(':')
                .map(|(name, level)| (name.trim(), level.trim()))
            {
                Some((name, level)) if !name.is_empty() && LEVELS.contains(&level) => {}
                Some((_, level)) => wrong(
                    COMPONENTS,
                    format!("`{level}` in `{pair}` is no log level"),
                    level,
                ),
                None => wrong(
                    COMPONENTS,
                    format!("`{pair}` is not NAME:LEVEL, such as `rbac:debug`"),
                    pair,
                ),
            }
        }
        out
    }

    fn statistics(&self) -> Vec<Diagnostic> {
        const REGEXPS: &str = "sidecar.istio.io/statsInclusionRegexps";
        let listed = self
            .annotation(REGEXPS)
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        let wrong = listed
            .filter(|text| !text.is_empty())
            .filter_map(expression_problem);
        let mut out: Vec<Diagnostic> = wrong
            .map(|why| {
                let found = self.finding(INVALID, REGEXPS, &why);
                found
                    .effect(EFFECT_OF_REGEX)
                    .fix("write RE2 expressions, separated by commas")
            })
            .collect();
        if let Some(text) = self.annotation(PROXY_CONFIG_ANNOTATION) {
            let file = SourceFile::new(PROXY_CONFIG_ANNOTATION, text);
            let (config, _) = parse_fragment::<ProxyConfig>(&file);
            let matcher = config.proxy_stats_matcher.as_ref();
            out.extend(
                matcher
                    .into_iter()
                    .flat_map(wrong_regexes)
                    .map(|(index, why)| {
                        let why = format!("proxyStatsMatcher.inclusionRegexps[{index}]: {why}");
                        self.finding(STATS, PROXY_CONFIG_ANNOTATION, &why)
                            .effect(EFFECT_OF_REGEX)
                    }),
            );
        }
        out
    }
}

fn wrong_regexes(matcher: &ProxyStatsMatcher) -> impl Iterator<Item = (usize, String)> {
    let regexps = matcher.inclusion_regexps.iter().enumerate();
    regexps.filter_map(|(index, text)| Some((index, expression_problem(text)?)))
}

/// What is wrong with an expression in which `{pod_ip}` stands for an address.
fn expression_problem(text: &str) -> Option<String> {
    regex_problem(&text.replace("{pod_ip}", "10.0.0.1"))
}

#[cfg(test)]
mod tests {
    use lateen_api::parse_file;

    use super::*;

    fn found(annotations: &str) -> Vec<(&'static str, String)> {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: {annotations}\nspec: {{containers: [{{name: a, image: a}}]}}\n"
        );
        let parsed = parse_file(&SourceFile::new("a.yaml", &text), "default");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let found = findings(&MeshConfig::default(), &parsed.resources).into_iter();
        let told = |found: Diagnostic| {
            assert_eq!(found.span.map(|span| span.line), Some(5));
            (found.code, found.fix.unwrap_or_default())
        };
        found.map(told).collect()
    }

    #[test]
    fn levels_that_there_are_not_are_found() {
        let slip = || (INVALID, "did you mean `debug`?".to_owned());
        assert_eq!(found("{sidecar.istio.io/logLevel: debgu}"), [slip()]);
        assert_eq!(
            found("{sidecar.istio.io/componentLogLevel: 'rbac:debgu,http:trace'}"),
            [slip()]
        );
        assert_eq!(found("{sidecar.istio.io/componentLogLevel: rbac}").len(), 1);
        assert_eq!(
            found(
                "{sidecar.istio.io/logLevel: warn, sidecar.istio.io/componentLogLevel: 'rbac:debug, misc:error'}"
            ),
            []
        );
    }

    #[test]
    fn expressions_of_statistics_that_cannot_be_used_are_found() {
        assert_eq!(
            found("{sidecar.istio.io/statsInclusionRegexps: 'a.*,b('}")[0].0,
            INVALID
        );
        assert_eq!(
            found("{sidecar.istio.io/statsInclusionRegexps: 'a.*, b+'}"),
            []
        );
        let config = |regex: &str| {
            format!(
                "{{proxy.istio.io/config: '{{\"proxyStatsMatcher\": {{\"inclusionRegexps\": [\"{regex}\"]}}}}'}}"
            )
        };
        assert_eq!(found(&config("b("))[0].0, STATS);
        assert_eq!(found(&config("b.*")), []);
    }
}
