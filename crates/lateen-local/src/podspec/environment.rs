//! A container's environment: `env`, `envFrom`, references, `$(NAME)` expansion.
//!
//! Nothing is inherited from the machine but where programs are found: containers are its processes.

use lateen_api::kube;
use lateen_api::value::Value;
use lateen_sources::plan::PodPlan;

use super::{Surroundings, field};

/// The environment, and what a required reference lacks (then the container cannot be started).
pub(super) fn of(
    plan: &PodPlan,
    container: &kube::Container,
    around: &Surroundings<'_>,
) -> (Vec<(String, String)>, Option<String>) {
    let mut env = Environment {
        all: base(plan, around),
        missing: None,
    };
    for source in &container.env_from {
        env.add_source(plan, source, around);
    }
    for var in &container.env {
        env.add_var(plan, container, var, around);
    }
    (env.all, env.missing)
}

/// Replaces `$(NAME)` by a variable's value; an unknown one stays as it is, `$$(NAME)` is the text `$(NAME)`.
pub(super) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, found) = rest.split_at(at);
        expanded.push_str(before);
        if let Some(after) = found.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
            continue;
        }
        let reference = found
            .strip_prefix("$(")
            .and_then(|inner| inner.split_once(')'));
        let Some((name, after)) = reference else {
            expanded.push('$');
            rest = &found[1..];
            continue;
        };
        match env.iter().rev().find(|(own, _)| own == name) {
            Some((_, value)) => expanded.push_str(value),
            None => expanded.push_str(&format!("$({name})")),
        }
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

/// What every process of a pod has.
pub(super) fn base(plan: &PodPlan, around: &Surroundings<'_>) -> Vec<(String, String)> {
    let pairs = [
        ("PATH", around.path),
        ("HOME", around.home),
        ("HOSTNAME", &plan.name),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

struct Environment {
    all: Vec<(String, String)>,
    missing: Option<String>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        self.all.retain(|(own, _)| *own != name);
        self.all.push((name, value));
    }

    fn lacks(&mut self, optional: Option<bool>, message: String) {
        if optional != Some(true) && self.missing.is_none() {
            self.missing = Some(message);
        }
    }

    fn add_source(
        &mut self,
        plan: &PodPlan,
        source: &kube::EnvFromSource,
        around: &Surroundings<'_>,
    ) {
        let sources = [
            (
                &source.config_map_ref,
                &around.desired.config_maps,
                "ConfigMap",
            ),
            (&source.secret_ref, &around.desired.secrets, "Secret"),
        ];
        for (reference, objects, kind) in sources {
            let Some(reference) = reference else { continue };
            match objects.get(&(plan.namespace.clone(), reference.name.clone())) {
                None => self.lacks(
                    reference.optional,
                    format!(
                        "{kind} {} of namespace {} does not exist",
                        reference.name, plan.namespace
                    ),
                ),
                Some(object) => {
                    for (key, value) in object.iter() {
                        let value = String::from_utf8_lossy(value).into_owned();
                        self.set(format!("{}{key}", source.prefix), value);
                    }
                }
            }
        }
    }

    fn add_var(
        &mut self,
        plan: &PodPlan,
        container: &kube::Container,
        var: &kube::EnvVar,
        around: &Surroundings<'_>,
    ) {
        let Some(from) = &var.value_from else {
            let value = expand(&var.value, &self.all);
            return self.set(var.name.clone(), value);
        };
        if let Some(reference) = &from.field_ref {
            match field(plan, &reference.field_path) {
                Some(value) => self.set(var.name.clone(), value),
                None => self.lacks(None, format!("unknown fieldPath {}", reference.field_path)),
            }
        }
        if let Some(reference) = &from.resource_field_ref {
            self.set(var.name.clone(), resource(container, reference).to_string());
        }
        let selectors = [
            (
                &from.config_map_key_ref,
                &around.desired.config_maps,
                "ConfigMap",
            ),
            (&from.secret_key_ref, &around.desired.secrets, "Secret"),
        ];
        for (selector, objects, kind) in selectors {
            let Some(selector) = selector else { continue };
            let object = objects.get(&(plan.namespace.clone(), selector.name.clone()));
            match object.and_then(|object| object.get(&selector.key)) {
                Some(value) => {
                    self.set(
                        var.name.clone(),
                        String::from_utf8_lossy(value).into_owned(),
                    );
                }
                None => self.lacks(
                    selector.optional,
                    format!(
                        "{kind} {} has no key {} (for env {})",
                        selector.name, selector.key, var.name
                    ),
                ),
            }
        }
    }
}

/// `resourceFieldRef`: the quantity divided by `divisor`, rounded up. 0 for a limit that is not set.
fn resource(container: &kube::Container, reference: &Value) -> u64 {
    let path = reference
        .get("resource")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (group, name) = path.split_once('.').unwrap_or(("", path));
    let resources = container.resources.as_ref();
    let quantities = resources.map(|r| {
        if group == "requests" {
            &r.requests
        } else {
            &r.limits
        }
    });
    let amount = quantities
        .and_then(|q| q.get(name))
        .and_then(quantity)
        .unwrap_or(0.0);
    let divisor = reference
        .get("divisor")
        .and_then(quantity)
        .filter(|d| *d > 0.0)
        .unwrap_or(1.0);
    (amount / divisor).ceil() as u64
}

/// A Kubernetes quantity: a number with a decimal or binary suffix.
fn quantity(value: &Value) -> Option<f64> {
    let text = match value {
        Value::Int(number) => return Some(*number as f64),
        Value::Double(number) => return Some(number.get()),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    for (suffix, factor) in SUFFIXES {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<f64>().ok().map(|n| n * factor);
        }
    }
    text.parse().ok()
}
