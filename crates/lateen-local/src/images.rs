//! What to run for a container image, since there are no images on a machine without a container runtime.
//!
//! A container with a `command` runs it as it stands. For the others a table maps image patterns to command lines.

use std::borrow::Cow;

/// What the caller knows of an image that the table does not have.
pub type Fallback = fn(&str) -> Option<ImageRule>;
/// What the caller can run in place of a program that the machine does not have, without its arguments.
pub type Substitute = fn(&str) -> Option<Vec<String>>;

/// A table from image patterns to command lines; the first match wins.
#[derive(Clone, Debug, Default)]
pub struct Images {
    rules: Vec<ImageRule>,
    fallback: Option<Fallback>,
    substitute: Option<Substitute>,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRule {
    /// An image reference in which `*` stands for any run of characters, such as `*/examples-bookinfo-reviews-v1:*`.
    ///
    /// Without a tag it fits any tag; without a registry it fits any registry.
    pub pattern: String,
    /// The command line the image's entrypoint becomes; a container's `args` are appended.
    ///
    /// `/proc/self/exe` as its first word means this binary.
    pub argv: Vec<String>,
    /// Arguments used when the container gives no `args`: an image's `CMD`.
    pub default_args: Vec<String>,
    /// Environment the image brings along; a container's own `env` wins.
    pub env: Vec<(String, String)>,
}

/// A `PATTERN=COMMAND` that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageRuleError {
    /// No `=`.
    #[error("`{0}` is not PATTERN=COMMAND")]
    NoCommand(String),
    /// Nothing after the `=`.
    #[error("the command for image `{0}` is empty")]
    EmptyCommand(String),
    /// A quote is not closed.
    #[error("the command for image `{0}` has an unclosed quote")]
    UnclosedQuote(String),
}

impl Images {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table that asks `fallback` for what it does not have.
    pub fn with_fallback(fallback: Fallback) -> Self {
        Self {
            fallback: Some(fallback),
            ..Self::default()
        }
    }

    /// The same, with stand-ins for programs that a container's `command` names and the machine may not have.
    #[must_use]
    pub fn with_programs(self, substitute: Substitute) -> Self {
        Self {
            substitute: Some(substitute),
            ..self
        }
    }

    /// What to run where the machine does not have a command line's program.
    pub fn instead_of(&self, argv: &[String]) -> Option<Vec<String>> {
        let (program, arguments) = argv.split_first()?;
        let mut line = self.substitute.and_then(|known| known(program))?;
        line.extend(arguments.iter().cloned());
        Some(line)
    }

    /// Adds a line after the existing ones.
    pub fn push(&mut self, rule: ImageRule) {
        self.rules.push(rule);
    }

    /// Adds a user's `PATTERN=COMMAND` before the built-in lines.
    ///
    /// # Errors
    /// When it is not of that form; quotes group words as in a shell, nothing is expanded.
    pub fn prepend(&mut self, pattern_command: &str) -> Result<(), ImageRuleError> {
        let rule = ImageRule::parse(pattern_command)?;
        self.rules.insert(0, rule);
        Ok(())
    }

    /// The line that fits an image reference.
    pub fn find(&self, image: &str) -> Option<Cow<'_, ImageRule>> {
        let listed = self
            .rules
            .iter()
            .find(|rule| rule.fits(image))
            .map(Cow::Borrowed);
        listed.or_else(|| self.fallback.and_then(|known| known(image)).map(Cow::Owned))
    }
}

impl ImageRule {
    /// Reads `PATTERN=COMMAND`.
    ///
    /// # Errors
    /// See [`ImageRuleError`].
    pub fn parse(text: &str) -> Result<Self, ImageRuleError> {
        let (pattern, command) = text
            .split_once('=')
            .ok_or_else(|| ImageRuleError::NoCommand(text.to_owned()))?;
        let argv = split_words(command)
            .ok_or_else(|| ImageRuleError::UnclosedQuote(pattern.to_owned()))?;
        if argv.is_empty() {
            return Err(ImageRuleError::EmptyCommand(pattern.to_owned()));
        }
        Ok(Self {
            pattern: pattern.to_owned(),
            argv,
            default_args: Vec::new(),
            env: Vec::new(),
        })
    }

    fn fits(&self, image: &str) -> bool {
        let (repository, tag) = split_reference(image);
        let (wanted, wanted_tag) = split_reference(&self.pattern);
        let tag_fits = match wanted_tag {
            None => true,
            Some(pattern) => glob(pattern, tag.unwrap_or("latest")),
        };
        tag_fits && fits_repository(wanted, repository)
    }
}

/// A pattern without a registry fits the repository's last components.
fn fits_repository(pattern: &str, repository: &str) -> bool {
    let mut rest = repository;
    loop {
        if glob(pattern, rest) {
            return true;
        }
        match rest.split_once('/') {
            Some((_, tail)) => rest = tail,
            None => return false,
        }
    }
}

/// `registry:5000/name:tag@digest` to its repository and its tag.
fn split_reference(image: &str) -> (&str, Option<&str>) {
    let without_digest = image.split_once('@').map_or(image, |(name, _)| name);
    match without_digest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (without_digest, None),
    }
}

/// `*` fits any run of characters, everything else itself.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(previous) = last.replace(part) {
            match rest.find(previous) {
                Some(at) => rest = &rest[at + previous.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |suffix| rest.ends_with(suffix))
}

/// Splits at blanks; single and double quotes group. `None` when a quote stays open.
fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, image: &str) -> bool {
        ImageRule::parse(&format!("{pattern}=/bin/true"))
            .unwrap()
            .fits(image)
    }

    #[test]
    fn a_pattern_without_registry_and_tag_fits_any() {
        assert!(fits(
            "examples-bookinfo-reviews-v1",
            "docker.io/istio/examples-bookinfo-reviews-v1:1.20.3"
        ));
        assert!(fits(
            "istio/examples-bookinfo-*-v1",
            "istio/examples-bookinfo-ratings-v1:1.20.3"
        ));
        assert!(!fits(
            "examples-bookinfo-reviews-v1",
            "istio/examples-bookinfo-reviews-v2:1.20.3"
        ));
    }

    #[test]
    fn a_registry_port_is_not_a_tag() {
        assert!(fits("hello-app", "localhost:5000/hello-app"));
        assert!(fits(
            "hello-app:1.0",
            "gcr.io/google-samples/hello-app:1.0@sha256:00"
        ));
        assert!(!fits(
            "hello-app:1.0",
            "gcr.io/google-samples/hello-app:2.0"
        ));
        assert!(fits("nginx:latest", "nginx"));
    }

    #[test]
    fn users_lines_win_over_built_in_ones() {
        let mut images = Images::new();
        images.push(ImageRule::parse("httpbin=/proc/self/exe app httpbin").unwrap());
        images
            .prepend("httpbin='/opt/my bin' --port \"80\"")
            .unwrap();
        let rule = images
            .find("docker.io/mccutchen/go-httpbin:v2")
            .map(|r| r.argv.clone());
        assert_eq!(rule, None, "`httpbin` is not `go-httpbin`");
        let rule = images.find("kennethreitz/httpbin").unwrap();
        assert_eq!(rule.argv, ["/opt/my bin", "--port", "80"]);
    }

    #[test]
    fn a_line_that_cannot_be_used_says_why() {
        assert_eq!(
            ImageRule::parse("x"),
            Err(ImageRuleError::NoCommand("x".to_owned()))
        );
        assert_eq!(
            ImageRule::parse("x= "),
            Err(ImageRuleError::EmptyCommand("x".to_owned()))
        );
        assert_eq!(
            ImageRule::parse("x='a"),
            Err(ImageRuleError::UnclosedQuote("x".to_owned()))
        );
    }

    #[test]
    fn stars_fit_any_run_of_characters() {
        assert!(glob("a*c", "abbc") && glob("*", "") && glob("a*b*c", "a1b2c"));
        assert!(!glob("a*c", "ab") && !glob("a", "ab") && !glob("ab*bc", "abc"));
    }
}
