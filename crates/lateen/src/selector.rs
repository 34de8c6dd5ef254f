//! Label selectors as kubectl's `-l` takes them: `app=web,version!=v1,tier,!canary`.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

/// Requirements that must all hold. None admits everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug)]
enum Requirement {
    Equal(String, String),
    NotEqual(String, String),
    Exists(String),
    Absent(String),
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        Ok(Self {
            requirements: parts.map(requirement).collect::<Result<_>>()?,
        })
    }
}

fn requirement(part: &str) -> Result<Requirement> {
    let pair = |key: &str, value: &str| {
        (
            key.trim().to_owned(),
            value.trim_start_matches('=').trim().to_owned(),
        )
    };
    let found = if let Some((key, value)) = part.split_once("!=") {
        let (key, value) = pair(key, value);
        Requirement::NotEqual(key, value)
    } else if let Some((key, value)) = part.split_once('=') {
        let (key, value) = pair(key, value);
        Requirement::Equal(key, value)
    } else if let Some(key) = part.strip_prefix('!') {
        Requirement::Absent(key.trim().to_owned())
    } else {
        Requirement::Exists(part.to_owned())
    };
    let (Requirement::Equal(key, _)
    | Requirement::NotEqual(key, _)
    | Requirement::Exists(key)
    | Requirement::Absent(key)) = &found;
    if key.is_empty() || key.contains(char::is_whitespace) {
        bail!("`{part}` is no label requirement; write key=value, key!=value, key or !key");
    }
    Ok(found)
}

impl Selector {
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| match requirement {
                Requirement::Equal(key, value) => labels.get(key) == Some(value),
                Requirement::NotEqual(key, value) => labels.get(key) != Some(value),
                Requirement::Exists(key) => labels.contains_key(key),
                Requirement::Absent(key) => !labels.contains_key(key),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_requirements_must_hold() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let check = |text: &str| text.parse::<Selector>().expect(text).matches(&labels);
        assert!(
            check("app=web") && check("app==web") && check("app") && check("!tier") && check("")
        );
        assert!(check("app=web,version!=v1"));
        assert!(!check("app=db") && !check("tier") && !check("app!=web") && !check("!app"));
        assert!("in (a, b)".parse::<Selector>().is_err());
    }
}
