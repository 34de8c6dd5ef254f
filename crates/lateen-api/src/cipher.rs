//! Names of TLS cipher suites: which ones Istio takes, and which are left out because Envoy would refuse the listener for them.
//!
//! Which of them are offered is up to the proxy.

/// Source: Istio 1.30 `pkg/config/security`, `ValidCipherSuites`.
const KNOWN: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// Whether a text names a suite, or is one of the expressions with signs that BoringSSL reads and Istio does not.
pub fn is_suite(text: &str) -> bool {
    let is_name = text.starts_with(|c: char| c.is_alphanumeric());
    !is_name || text == "ALL" || KNOWN.contains(&text)
}

/// The suites of a list that can be asked for, each once.
pub fn suites(names: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in names {
        if is_suite(name) && !out.contains(name) {
            out.push(name.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_and_what_is_there_twice_is_left_out() {
        let names = ["AES128-SHA", "RSA", "AES128-SHA", "-ALL", "AES256-SHA"];
        let names = names.map(str::to_owned);
        assert_eq!(suites(&names), ["AES128-SHA", "-ALL", "AES256-SHA"]);
    }
}
