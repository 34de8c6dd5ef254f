//! The trust domains a mesh has and had: which identities a principal in a policy stands for.
//!
//! Source: Istio, `trustdomain.Bundle`.

/// The mesh's trust domain, then its aliases. Empty: principals are taken as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TrustDomains(Vec<String>);

/// What stands for the mesh's own trust domain wherever it is written.
const LOCAL: &str = "cluster.local";

impl TrustDomains {
    /// The domain of today, and those of former days.
    pub(crate) fn new(domain: &str, aliases: &[String]) -> Self {
        let mut all = vec![domain.to_owned()];
        all.extend(aliases.iter().cloned());
        Self(all)
    }

    /// Principals in every trust domain that is meant: an identity of this mesh counts whatever domain it was written with.
    pub(super) fn principals(&self, written: &[String]) -> Vec<String> {
        let mut out = Vec::new();
        for principal in written {
            match domain_of(principal).filter(|domain| self.means(domain)) {
                Some(domain) => out.extend(self.in_each(principal, domain)),
                None => out.push(principal.clone()),
            }
        }
        out
    }

    /// Trust domains, each of this mesh's with all its aliases.
    pub(super) fn domains(&self, written: &[String]) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut add = |domain: &String| {
            if !out.contains(domain) {
                out.push(domain.clone());
            }
        };
        for domain in written {
            if self.0.contains(domain) {
                self.0.iter().for_each(&mut add);
            } else {
                add(domain);
            }
        }
        out
    }

    /// Whether a domain, maybe with a wildcard, is this mesh's.
    fn means(&self, domain: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let fits = |text: &str, pattern: &str| fits_end(text, pattern) || fits_start(text, pattern);
        domain == LOCAL
            || self
                .0
                .iter()
                .any(|own| own == domain || own == "*" || fits(domain, own) || fits(own, domain))
    }

    /// A principal in each domain; as it is where its own domain, with its wildcard, already covers one.
    fn in_each(&self, principal: &str, domain: &str) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for own in &self.0 {
            let moved = if fits_end(own, domain) {
                principal.to_owned()
            } else {
                format!("{own}{}", &principal[domain.len()..])
            };
            if !out.contains(&moved) {
                out.push(moved);
            }
        }
        out
    }
}

/// The trust domain of `domain/ns/namespace/sa/account`, if it is written and not `*`.
fn domain_of(principal: &str) -> Option<&str> {
    let domain = principal.split('/').next()?;
    (principal.split('/').count() == 5 && domain != "*").then_some(domain)
}

fn fits_start(text: &str, pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .is_some_and(|start| text.starts_with(start))
}

fn fits_end(text: &str, pattern: &str) -> bool {
    pattern
        .strip_prefix('*')
        .is_some_and(|end| text.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    fn moved(own: &str, aliases: &[&str], principal: &str) -> Vec<String> {
        TrustDomains::new(own, &list(aliases)).principals(&list(&[principal]))
    }

    #[test]
    fn an_identity_of_the_mesh_counts_in_every_domain_it_had() {
        let both = ["new/ns/a/sa/b", "old/ns/a/sa/b"];
        assert_eq!(moved("new", &["old"], "old/ns/a/sa/b"), both);
        assert_eq!(moved("new", &["old"], "cluster.local/ns/a/sa/b"), both);
        assert_eq!(moved("new", &["old"], "x/ns/a/sa/b"), ["x/ns/a/sa/b"]);
        assert_eq!(moved("new", &["old"], "*/ns/a/sa/b"), ["*/ns/a/sa/b"]);
        assert_eq!(moved("new", &["old"], "new/a"), ["new/a"]);
    }

    #[test]
    fn a_wildcard_stays_for_the_domains_it_covers() {
        assert_eq!(
            moved("new-td", &["old-td", "other"], "*-td/ns/a/sa/b"),
            ["*-td/ns/a/sa/b", "other/ns/a/sa/b"]
        );
    }

    #[test]
    fn domains_come_with_their_aliases_once() {
        let domains = TrustDomains::new("new", &list(&["old"]));
        assert_eq!(
            domains.domains(&list(&["old", "x", "new"])),
            ["new", "old", "x"]
        );
        assert_eq!(
            domains.domains(&list(&["cluster.local"])),
            ["cluster.local"]
        );
    }
}
