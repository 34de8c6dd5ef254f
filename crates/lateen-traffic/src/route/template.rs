//! URI templates (`envoy.path.match.uri_template`, `envoy.path.rewrite.uri_template`, and in RBAC).
//!
//! `*` is one segment, `**` any number of them at the end, `{name}` one segment that is kept, `{name=PATTERN}` what the pattern
//! matches. Source: Envoy's `UriTemplateMatchConfig`.

use std::sync::Arc;

use regex::Regex;

/// Characters of a path that wildcards match: RFC 3986's `pchar` without `*`. Source: Envoy's `uri_template_lib`.
const WILDCARD_CHARACTERS: &str = r"a-zA-Z0-9\-._~%!$&'()*+,;:@=";
/// Variables one template may have, as in Envoy.
const MAX_VARIABLES: usize = 5;

/// A compiled template.
#[derive(Clone, Debug)]
pub struct UriTemplate {
    regex: Regex,
    source: Arc<str>,
    variables: Vec<Box<str>>,
}

/// Why a template was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin with a slash.
    #[error("template {0:?} does not begin with a slash")]
    NoSlash(String),
    /// A `**` is not at the end, or a variable is wrong.
    #[error("template {template:?} is invalid: {reason}")]
    Invalid {
        /// The template.
        template: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl UriTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// It does not follow the syntax.
    pub fn new(template: &str) -> Result<Self, TemplateError> {
        if !template.starts_with('/') {
            return Err(TemplateError::NoSlash(template.to_owned()));
        }
        let invalid = |reason| TemplateError::Invalid {
            template: template.to_owned(),
            reason,
        };
        let mut compiler = Compiler::default();
        compiler.pattern(template, Depth::Top).map_err(invalid)?;
        let regex =
            Regex::new(&format!("^(?:{})$", compiler.regex)).map_err(|_| invalid("too large"))?;
        Ok(Self {
            regex,
            source: template.into(),
            variables: compiler.variables,
        })
    }

    /// Whether a path (without its query) matches.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    /// The path that a rewrite with this template's variables makes; `None` if the path does not match or a variable is not
    /// the template's.
    pub fn rewrite(&self, path: &str, rewrite: &str) -> Option<String> {
        let found = self.regex.captures(path)?;
        let mut out = String::with_capacity(rewrite.len() + path.len());
        let mut rest = rewrite;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            let group = self
                .variables
                .iter()
                .position(|variable| **variable == *name)?
                + 1;
            out.push_str(before);
            out.push_str(found.get(group)?.as_str());
            rest = after;
        }
        out.push_str(rest);
        Some(out)
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// What every matching path begins with.
    pub(crate) fn literal_prefix(&self) -> &str {
        &self.source[..self.source.find(['*', '{']).unwrap_or(self.source.len())]
    }
}

#[derive(Default)]
struct Compiler {
    regex: String,
    variables: Vec<Box<str>>,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    Variable,
}

impl Compiler {
    fn pattern(&mut self, pattern: &str, depth: Depth) -> Result<(), &'static str> {
        let mut rest = pattern;
        while let Some(next) = rest.chars().next() {
            rest = match next {
                '*' => self.wildcard(rest)?,
                '{' if depth == Depth::Top => self.variable(&rest[1..])?,
                '{' | '}' => return Err("misplaced brace"),
                literal => {
                    self.regex
                        .push_str(&regex_syntax::escape(literal.encode_utf8(&mut [0; 4])));
                    &rest[literal.len_utf8()..]
                }
            };
        }
        Ok(())
    }

    fn wildcard<'p>(&mut self, rest: &'p str) -> Result<&'p str, &'static str> {
        if self.ended {
            return Err("a wildcard follows **");
        }
        if let Some(rest) = rest.strip_prefix("**") {
            self.ended = true;
            self.regex.push_str(&format!("[{WILDCARD_CHARACTERS}/]*"));
            return Ok(rest);
        }
        self.regex.push_str(&format!("[{WILDCARD_CHARACTERS}]+"));
        Ok(&rest[1..])
    }

    fn variable<'p>(&mut self, rest: &'p str) -> Result<&'p str, &'static str> {
        let (inner, rest) = rest.split_once('}').ok_or("a brace is not closed")?;
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            return Err("a variable's name is invalid");
        }
        if self.variables.iter().any(|variable| **variable == *name) {
            return Err("a variable's name is used twice");
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err("too many variables");
        }
        self.variables.push(name.into());
        self.regex.push('(');
        self.pattern(pattern, Depth::Variable)?;
        self.regex.push(')');
        Ok(rest)
    }
}
