//! For whom a token is.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Audiences that are accepted; none means that any is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audiences(BTreeSet<Arc<str>>);

impl Audiences {
    /// Audiences as configured.
    pub fn new<'a>(audiences: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            audiences
                .into_iter()
                .map(|text| bare(text).into())
                .collect(),
        )
    }

    /// Whether a token for these is accepted.
    pub fn accept(&self, audiences: &[Arc<str>]) -> bool {
        self.0.is_empty() || audiences.iter().any(|text| self.0.contains(bare(text)))
    }

    /// The audiences, without scheme and final slash.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|text| &**text)
    }
}

/// An audience without `http://`, `https://` and one slash at the end. Source: Envoy, `CheckAudience`.
fn bare(text: &str) -> &str {
    let text = ["http://", "https://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    text.strip_suffix('/').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_final_slash_do_not_count() {
        let audiences = Audiences::new(["https://a.example/"]);
        for token in ["a.example", "http://a.example", "https://a.example/"] {
            assert!(audiences.accept(&[token.into()]), "{token}");
        }
        for token in [
            "",
            "b.example",
            "a.example//",
            "ftp://a.example",
            "A.example",
        ] {
            assert!(!audiences.accept(&[token.into()]), "{token}");
        }
        assert!(!audiences.accept(&[]));
        assert!(Audiences::default().accept(&[]));
    }
}
