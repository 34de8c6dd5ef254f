//! `lateen analyze`: what `validate` finds, asked for and told as `istioctl analyze` does.
//!
//! Differences of the two: without files the running mesh is looked at; files are laid over it, as if they were applied; only one namespace is
//! told of unless `-A` is given; a finding is one line; exit status 79 says that something was found, and only with `-o log`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_control::findings::{Extent, findings, settings};
use lateen_sources::files::{Loaded, Reader};
use serde_json::{Value, json};

use super::validate;
use crate::cli::{AnalyzeArgs, AnalyzeOutput, DataPlane, Level};
use crate::output::{self, print_json, print_yaml};
use crate::state::StateDir;

/// istioctl's exit status when something was found.
const FOUND: u8 = 79;

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    args: &AnalyzeArgs,
) -> Result<ExitCode> {
    let suppressed = Suppressed::parse(&args.suppress)?;
    let (mut loaded, extent) = input(state, namespace, args)?;
    let resources = loaded.resources.to_vec();
    let settings = settings(&resources, true);
    let native = args.data_plane == DataPlane::Lateen;
    let between = findings(&resources, &settings, native, extent);
    loaded.diagnostics.extend(between);
    let mut found = loaded.diagnostics;
    for useless in suppressed.without(&found) {
        eprintln!("warning: --suppress {useless:?} has no effect: there is no such finding");
    }
    found.retain(|it| !suppressed.holds(it) && (it.resource.is_some() || !args.ignore_unknown));
    let all = found.len();
    if !args.all_namespaces {
        let wanted = namespace.unwrap_or("default");
        found.retain(|it| is_in(it, wanted));
    }
    let elsewhere = all - found.len();
    found.sort_by(|a, b| (a.severity, a.code, &a.span).cmp(&(b.severity, b.code, &b.span)));
    found.dedup();
    let fails = found
        .iter()
        .any(|it| args.failure_threshold.holds(it.severity));
    found.retain(|it| args.output_threshold.holds(it.severity));
    tell(&found, args, namespace)?;
    if elsewhere > 0 {
        eprintln!("note: there are findings in other namespaces, too ({elsewhere}): -A tells them");
    }
    Ok(match args.output {
        AnalyzeOutput::Log if fails => ExitCode::from(FOUND),
        _ => ExitCode::SUCCESS,
    })
}

/// What is looked at: files, laid over the mesh that runs if there is one.
fn input(
    state: &StateDir,
    namespace: Option<&str>,
    args: &AnalyzeArgs,
) -> Result<(Loaded, Extent)> {
    let own = namespace.unwrap_or("default");
    let running = if args.use_kube {
        state.running()?
    } else {
        None
    };
    let files = match args.paths.as_slice() {
        [] => Loaded::default(),
        [path] if path == Path::new("-") => validate::standard_input(own)?,
        paths => read(paths.to_vec(), own)?,
    };
    let Some(up) = running else {
        if args.paths.is_empty() {
            bail!("no mesh is running here; give files or directories: lateen analyze DIR");
        }
        return Ok((files, Extent::Part));
    };
    let mesh = Reader::new(up.paths, &*up.namespace)
        .read()
        .unwrap_or_default();
    Ok((over(mesh, files), Extent::Whole))
}

fn read(paths: Vec<PathBuf>, namespace: &str) -> Result<Loaded> {
    for path in &paths {
        if let Err(error) = std::fs::metadata(path) {
            bail!("reading {}: {error}", path.display());
        }
    }
    Ok(Reader::new(paths, namespace).read().unwrap_or_default())
}

/// A mesh as it would be with more files applied to it.
fn over(mut mesh: Loaded, files: Loaded) -> Loaded {
    let replaced: std::collections::BTreeSet<_> = files.resources.iter().map(|r| r.key()).collect();
    let stay = mesh
        .resources
        .iter()
        .filter(|r| !replaced.contains(&r.key()));
    let all = stay.chain(files.resources.iter()).cloned();
    mesh.resources = all.collect::<Vec<_>>().into();
    let others = mesh.others.iter().chain(files.others.iter()).cloned();
    mesh.others = others.collect::<Vec<_>>().into();
    mesh.diagnostics.extend(files.diagnostics);
    mesh.files.extend(files.files);
    mesh
}

/// Whether a finding is about a namespace, or about no object of a namespace.
fn is_in(found: &Diagnostic, namespace: &str) -> bool {
    let own = found
        .resource
        .as_ref()
        .map_or("", |resource| &*resource.namespace);
    own.is_empty() || own == namespace
}

fn tell(found: &[Diagnostic], args: &AnalyzeArgs, namespace: Option<&str>) -> Result<()> {
    match args.output {
        AnalyzeOutput::Json => return print_json(&found.iter().map(message).collect()),
        AnalyzeOutput::Yaml => return print_yaml(&found.iter().map(message).collect()),
        AnalyzeOutput::Log => {}
    }
    let lines: Vec<String> = found.iter().map(|it| line(it, output::colour())).collect();
    if !lines.is_empty() {
        return output::print(&format!("{}\n", lines.join("\n")));
    }
    let what = match args.paths.as_slice() {
        [] if args.all_namespaces => "all namespaces".to_owned(),
        [] => format!("namespace: {}", namespace.unwrap_or("default")),
        paths => {
            let names: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            names.join(", ")
        }
    };
    eprintln!("\u{2714} No validation issues found when analyzing {what}.");
    Ok(())
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "Error",
        Severity::Warning => "Warning",
        Severity::Info => "Info",
    }
}

/// How istioctl names an object: `VirtualService reviews.default`.
fn origin(found: &Diagnostic) -> Option<String> {
    let resource = found.resource.as_ref()?;
    let (kind, name) = (&resource.kind, &resource.name);
    Some(match &*resource.namespace {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    })
}

fn place(found: &Diagnostic) -> Option<String> {
    let span = found.span.as_ref()?;
    Some(match span.line {
        0 => span.path.to_string(),
        line => format!("{}:{line}", span.path),
    })
}

/// `Error [IST0101] (VirtualService default/reviews mesh.yaml:12) what is wrong`.
fn line(found: &Diagnostic, color: bool) -> String {
    let parts: Vec<String> = [origin(found), place(found)]
        .into_iter()
        .flatten()
        .collect();
    let origin = if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(" "))
    };
    let (paint, reset) = match (color, found.severity) {
        (false, _) => ("", ""),
        (true, Severity::Error) => ("\x1b[1;31m", "\x1b[0m"),
        (true, Severity::Warning) => ("\x1b[33m", "\x1b[0m"),
        (true, Severity::Info) => ("\x1b[34m", "\x1b[0m"),
    };
    let fix = found
        .fix
        .as_ref()
        .map_or_else(String::new, |fix| format!("; {fix}"));
    let text = format!("{}{fix}", found.message);
    // A manifest must not be able to talk to the terminal.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    format!(
        "{paint}{}{reset} [{}]{origin} {text}",
        level(found.severity),
        found.code
    )
}

/// The members that istioctl has, and what else is known.
fn message(found: &Diagnostic) -> Value {
    let mut out = json!({
        "code": found.code,
        "level": level(found.severity),
        "message": found.message,
    });
    let rest = [
        ("origin", origin(found)),
        ("reference", place(found)),
        (
            "field",
            Some(found.field.clone()).filter(|field| !field.is_empty()),
        ),
        (
            "effect",
            Some(found.effect.clone()).filter(|effect| !effect.is_empty()),
        ),
        ("fix", found.fix.clone()),
    ];
    for (key, value) in rest {
        if let Some(value) = value {
            out[key] = value.into();
        }
    }
    out
}

impl Level {
    /// Whether something is as bad as this, or worse.
    fn holds(self, severity: Severity) -> bool {
        let least = match self {
            Self::Error => Severity::Error,
            Self::Warning => Severity::Warning,
            Self::Info => Severity::Info,
        };
        severity <= least
    }
}

/// What not to tell: `CODE=KIND NAME.NAMESPACE`, in which `*` stands for any text.
struct Suppressed(Vec<(String, String)>);

impl Suppressed {
    fn parse(given: &[String]) -> Result<Self> {
        let parse = |text: &String| match text.split_once('=') {
            Some((code, object)) if !code.is_empty() && !object.is_empty() => {
                Ok((code.to_owned(), object.to_owned()))
            }
            _ => bail!(
                "`{text}` is not CODE=OBJECT, such as \"IST0102=Namespace shop\" or \"IST0101=VirtualService *.default\""
            ),
        };
        Ok(Self(given.iter().map(parse).collect::<Result<_>>()?))
    }

    fn holds(&self, found: &Diagnostic) -> bool {
        self.0.iter().any(|one| Self::is_meant(one, found))
    }

    /// Those that none of the findings is meant by: mistyped, or of what was mended since.
    fn without<'a>(&'a self, found: &'a [Diagnostic]) -> impl Iterator<Item = String> + 'a {
        let is_useless = |one: &&(String, String)| !found.iter().any(|it| Self::is_meant(one, it));
        let useless = self.0.iter().filter(is_useless);
        useless.map(|(code, object)| format!("{code}={object}"))
    }

    fn is_meant((code, object): &(String, String), found: &Diagnostic) -> bool {
        let Some(resource) = &found.resource else {
            return false;
        };
        let (kind, name, namespace) = (&resource.kind, &resource.name, &resource.namespace);
        // istioctl's help writes the one, its messages the other.
        let names = [
            format!("{kind} {name}.{namespace}"),
            format!("{kind} {namespace}/{name}"),
            format!("{kind} {name}"),
        ];
        code == found.code && names.iter().any(|name| glob(object, name))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else {
            return false;
        };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use lateen_api::ResourceRef;

    use super::*;

    fn finding(severity: Severity) -> Diagnostic {
        Diagnostic::new("IST0101", severity, "no service has the host `a`")
            .on(ResourceRef {
                kind: "VirtualService".to_owned(),
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                ..ResourceRef::default()
            })
            .at("spec.http[0]")
    }

    #[test]
    fn a_finding_is_one_line_as_istioctl_has_it() {
        let shown = line(&finding(Severity::Error), false);
        assert_eq!(
            shown,
            "Error [IST0101] (VirtualService shop/web) no service has the host `a`"
        );
        assert_eq!(message(&finding(Severity::Info))["level"], "Info");
    }

    #[test]
    fn suppressions_name_a_code_and_objects() {
        let suppressed = |text: &str| {
            Suppressed::parse(&[text.to_owned()])
                .unwrap()
                .holds(&finding(Severity::Error))
        };
        assert!(suppressed("IST0101=VirtualService web.shop"));
        assert!(suppressed("IST0101=VirtualService *.shop"));
        assert!(suppressed("IST0101=*"));
        assert!(!suppressed("IST0101=VirtualService *.other"));
        assert!(!suppressed("IST0102=*"));
        assert!(Suppressed::parse(&["IST0101".to_owned()]).is_err());
    }

    #[test]
    fn a_suppression_of_nothing_is_told() {
        let given = ["IST0101=*".to_owned(), "IST9999=*".to_owned()];
        let suppressed = Suppressed::parse(&given).unwrap();
        let found = [finding(Severity::Error)];
        let useless: Vec<_> = suppressed.without(&found).collect();
        assert_eq!(useless, ["IST9999=*"]);
    }

    #[test]
    fn a_threshold_holds_what_is_as_bad_or_worse() {
        assert!(Level::Warning.holds(Severity::Error));
        assert!(!Level::Warning.holds(Severity::Info));
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(glob("a*c*e", "abcde"));
        assert!(glob("*", ""));
        assert!(!glob("a*b", "abc"));
        assert!(!glob("ab*ba", "aba"), "no letter counts twice");
    }
}
