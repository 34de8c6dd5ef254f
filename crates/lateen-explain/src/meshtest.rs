//! Users' assertions: a request in, what is to become of it out. Each runs as an explanation and is compared field by field.
//!
//! The file format is `lateen_api::meshtest`; `docs/reference/meshtest.md` describes it for users.

mod coverage;
mod expect;
mod junit;

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::meshtest::{MeshCase, MeshTest, MeshVerdict};
use lateen_api::value::Value;
use lateen_api::{FileSpan, Origin, SourceFile};
use serde::Serialize;
use serde_json::Value as Json;

pub use coverage::{Coverage, Rule};
pub use junit::junit;

use crate::asked::Asked;
use crate::mesh::{Client, Mesh};
use crate::place::Source;
use crate::report::Explanation;
use crate::walk::{Authorizer, Options, explain};

/// A request that is not understood, or a workload that is not there.
pub const BAD_TEST: &str = "LAT0701";

/// A file of assertions, read.
#[derive(Clone, Debug)]
pub struct TestFile {
    /// What it asserts.
    pub test: MeshTest,
    origin: Origin,
}

/// How one assertion went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub source: Source,
    /// What is not as asserted; empty if all is.
    pub failures: Vec<Failure>,
    /// What happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// One thing that is not as asserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The field of `expect`.
    pub field: String,
    /// Where it stands.
    pub source: Source,
    /// What was expected, and what is.
    pub message: String,
}

impl CaseResult {
    /// Whether all is as asserted.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl TestFile {
    /// Reads a file. With an error among the diagnostics nothing of it should be run.
    pub fn parse(file: &SourceFile) -> (Self, Vec<Diagnostic>) {
        let (test, origin, mut found) = lateen_api::parse_document(file);
        let read = Self { test, origin };
        for diagnostic in &mut found {
            // The shared wording is of objects in force; a test has no earlier version.
            "no test of this file is run".clone_into(&mut diagnostic.effect);
        }
        for (index, case) in read.test.tests.iter().enumerate() {
            if matches!(&case.token, Some(token) if token.as_str().is_none() && token.as_object().is_none())
            {
                let what =
                    "a token is its text, or a map of its claims such as {sub: alice, role: admin}";
                found.push(read.wrong(index, "token", what));
            }
            // A request that could not be read at all has been told already.
            let written = read.origin.span(&format!("tests[{index}].request"));
            if written.is_some()
                && let Err(error) = asked(case)
            {
                found.push(read.wrong(index, "request", &chain(&*error)));
            }
        }
        (read, found)
    }

    /// Runs the assertions against a mesh. The options' time is for tokens that expire.
    ///
    /// # Errors
    /// A test names a workload that the mesh does not have.
    pub fn run(&self, mesh: &Mesh, options: Options) -> Result<Vec<CaseResult>, Vec<Diagnostic>> {
        let mut results = Vec::new();
        let mut wrong = Vec::new();
        for (index, case) in self.test.tests.iter().enumerate() {
            match self.run_case(mesh, index, case, options) {
                Ok(result) => results.push(result),
                Err(diagnostic) => wrong.push(*diagnostic),
            }
        }
        if wrong.is_empty() {
            Ok(results)
        } else {
            Err(wrong)
        }
    }

    fn run_case(
        &self,
        mesh: &Mesh,
        index: usize,
        case: &MeshCase,
        options: Options,
    ) -> Result<CaseResult, Box<Diagnostic>> {
        let mut asked =
            asked(case).map_err(|error| Box::new(self.wrong(index, "request", &chain(&*error))))?;
        if let Some(Json::Object(claims)) = case.token.as_ref().map(Value::to_json) {
            mesh.carry(&mut asked, claims, options.now)
                .map_err(|error| Box::new(self.wrong(index, "token", &chain(&error))))?;
        }
        let options = Options {
            authorizer: match case.ext_authz {
                Some(MeshVerdict::Allow) => Some(Authorizer::Allows),
                Some(MeshVerdict::Deny) => Some(Authorizer::Denies),
                None => options.authorizer,
            },
            ..options
        };
        let client = self
            .client(mesh, case)
            .map_err(|(field, error)| Box::new(self.wrong(index, field, &error)))?;
        let explanation = explain(mesh, &client, &asked, options)
            .map_err(|error| Box::new(self.wrong(index, "from", &error.to_string())))?;
        let namespace = self.namespace();
        let checks = expect::Checks {
            mesh,
            namespace,
            explanation: &explanation,
        };
        let failures = checks
            .run(&case.expect)
            .into_iter()
            .map(|(field, message)| Failure {
                source: self.source(&format!("tests[{index}].expect.{field}")),
                field: field.to_owned(),
                message,
            })
            .collect();
        Ok(CaseResult {
            name: if case.name.is_empty() {
                explanation.request.clone()
            } else {
                case.name.clone()
            },
            source: self.source(&format!("tests[{index}]")),
            failures,
            explanation: Some(explanation),
        })
    }

    fn namespace(&self) -> &str {
        match self.test.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        }
    }

    /// The client: the test's own, else the file's, else somebody outside.
    fn client(&self, mesh: &Mesh, case: &MeshCase) -> Result<Client, (&'static str, String)> {
        let (from, gateway) = if case.from.is_empty() && case.gateway.is_empty() {
            (&self.test.from, &self.test.gateway)
        } else {
            (&case.from, &case.gateway)
        };
        let namespace = Some(self.test.namespace.as_str()).filter(|ns| !ns.is_empty());
        if !from.is_empty() {
            let pod = mesh
                .find(from, namespace)
                // A workload of another namespace may go by its full name alone.
                .or_else(|error| mesh.find(from, None).map_err(|_| error))
                .map_err(|error| ("from", error.to_string()))?;
            let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
            return Ok(Client::Workload { namespace, pod });
        }
        let wanted = Some(gateway.as_str()).filter(|name| !name.is_empty());
        let pod = mesh
            .gateway(wanted, None)
            .map_err(|error| ("gateway", error.to_string()))?;
        let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
        Ok(Client::Outside { namespace, pod })
    }

    fn source(&self, field: &str) -> Source {
        let span = self.origin.nearest_span(field);
        FileSpan::new(self.origin.path.clone(), span).into()
    }

    fn wrong(&self, index: usize, field: &str, message: &str) -> Diagnostic {
        let path = format!("tests[{index}].{field}");
        let span = self.origin.nearest_span(&path);
        Diagnostic::new(BAD_TEST, Severity::Error, message)
            .at(path)
            .spanned(Some(FileSpan::new(self.origin.path.clone(), span)))
            .effect("no test of this file is run")
    }
}

/// A case's request.
fn asked(case: &MeshCase) -> Result<Asked, Box<dyn std::error::Error>> {
    let words = split_words(&case.request).ok_or("a quotation mark is not closed")?;
    let mut asked = match &words[..] {
        [first, ..] if first == "curl" => crate::curl::parse(&words)?,
        [url] => Asked::parse(None, url, &[])?,
        [method, url] => Asked::parse(Some(&method.to_ascii_uppercase()), url, &[])?,
        _ => return Err("expected [METHOD] URL, or a curl line".into()),
    };
    for (name, value) in &case.headers {
        asked.set_header(name, value)?;
    }
    if let Some(token) = case.token.as_ref().and_then(Value::as_str) {
        asked.set_header("authorization", &format!("Bearer {token}"))?;
    }
    if !case.certificate.is_empty() {
        asked.certificate = Some(case.certificate.clone());
    }
    Ok(asked)
}

/// The words of a command line, as a shell would have them: quotation marks and backslashes, no expansion.
pub fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(letter),
            (_, '\\') => match letters.next() {
                // A line that goes on in the next.
                Some('\n') => {}
                Some(next) => word.get_or_insert_default().push(next),
                None => return None,
            },
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    Some(words)
}

/// An error with its causes, in a line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::split_words;

    #[test]
    fn words_are_those_of_a_shell() {
        let words = split_words("curl -H 'a: b c' -d \"x \\\" y\" \\\n http://x/ ''").unwrap();
        assert_eq!(
            words,
            ["curl", "-H", "a: b c", "-d", "x \" y", "http://x/", ""]
        );
        assert_eq!(split_words("curl 'open"), None);
    }
}
