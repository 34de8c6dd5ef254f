//! Why a resource was refused: a sentence with the path of the field.

use std::fmt;

/// A resource that cannot be compiled. Displays as `FIELD.PATH: reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdsError {
    path: String,
    reason: String,
}

impl XdsError {
    /// An error without a path yet.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            reason: reason.into(),
        }
    }

    /// An error that says the whole chain of causes.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        Self::new(reason)
    }

    /// The error, found within a field (`name`, `name[3]`).
    #[must_use]
    pub fn within(mut self, field: impl AsRef<str>) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{}{separator}{}", field.as_ref(), self.path);
        self
    }

    /// The field's path; empty if it is about the whole resource.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for XdsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for XdsError {}

/// Names the field an error was found in.
pub(super) trait Within<T> {
    fn within(self, field: &str) -> Result<T, XdsError>;
    fn at(self, field: &str, index: usize) -> Result<T, XdsError>;
}

impl<T> Within<T> for Result<T, XdsError> {
    fn within(self, field: &str) -> Self {
        self.map_err(|error| error.within(field))
    }

    fn at(self, field: &str, index: usize) -> Self {
        self.map_err(|error| error.within(format!("{field}[{index}]")))
    }
}
