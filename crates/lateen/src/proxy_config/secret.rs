//! `proxy-config secret`: the certificates a proxy holds, and until when.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::Rows;
use super::dump::text;

/// One certificate of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    name: String,
    kind: &'static str,
    state: String,
    valid: bool,
    serial: String,
    not_after: String,
    not_before: String,
    pem: String,
}

/// The certificates in a config dump's secrets. `now` decides which are valid, in seconds since the Unix epoch.
pub(crate) fn items(secrets: &[(&'static str, &Value)], now: i64) -> Vec<Item> {
    let mut items: Vec<Item> = secrets
        .iter()
        .flat_map(|(state, secret)| of_secret(state, secret, now))
        .collect();
    items.sort_by(|a, b| (&a.name, &a.serial).cmp(&(&b.name, &b.serial)));
    items
}

fn of_secret(state: &str, dynamic: &Value, now: i64) -> Vec<Item> {
    let name = text(dynamic, "name");
    let secret = &dynamic["secret"];
    let chain = bytes(&secret["tls_certificate"]["certificate_chain"]);
    let roots = bytes(&secret["validation_context"]["trusted_ca"]);
    let (kind, pem) = match (chain, roots) {
        (Some(chain), _) => ("Cert Chain", chain),
        (None, Some(roots)) => ("CA", roots),
        (None, None) => {
            return vec![Item {
                state: "WARMING".to_owned(),
                ..empty(name, "-")
            }];
        }
    };
    let parsed: Vec<Item> = Pem::iter_from_buffer(&pem)
        .filter_map(Result::ok)
        .filter_map(|block| certificate(name, kind, state, &block, now))
        .collect();
    if parsed.is_empty() {
        vec![Item {
            state: state.to_owned(),
            ..empty(name, kind)
        }]
    } else {
        parsed
    }
}

fn empty(name: &str, kind: &'static str) -> Item {
    Item {
        name: name.to_owned(),
        kind,
        state: String::new(),
        valid: false,
        serial: String::new(),
        not_after: String::new(),
        not_before: String::new(),
        pem: String::new(),
    }
}

fn certificate(name: &str, kind: &'static str, state: &str, block: &Pem, now: i64) -> Option<Item> {
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    let valid = (validity.not_before.timestamp()..validity.not_after.timestamp()).contains(&now);
    let serial: String = certificate
        .raw_serial()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    Some(Item {
        name: name.to_owned(),
        kind,
        state: state.to_owned(),
        valid,
        serial,
        not_after: rfc3339(validity.not_after.timestamp()),
        not_before: rfc3339(validity.not_before.timestamp()),
        pem: STANDARD.encode(&block.contents),
    })
}

fn rfc3339(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|t| {
            t.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_default()
}

/// A data source's bytes, inline in either form.
fn bytes(source: &Value) -> Option<Vec<u8>> {
    match (
        source["inline_bytes"].as_str(),
        source["inline_string"].as_str(),
    ) {
        (Some(encoded), _) => STANDARD.decode(encoded).ok(),
        (None, Some(text)) => Some(text.as_bytes().to_vec()),
        (None, None) => None,
    }
}

/// The table.
pub(crate) fn rows(items: &[Item]) -> Rows {
    let mut rows = Rows::new(&[
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ]);
    for item in items {
        rows.push(vec![
            item.name.clone(),
            item.kind.to_owned(),
            item.state.clone(),
            item.valid.to_string(),
            item.serial.clone(),
            item.not_after.clone(),
            item.not_before.clone(),
        ]);
    }
    rows
}

/// istioctl's JSON form.
pub(crate) fn json(items: &[Item]) -> Value {
    items
        .iter()
        .map(|item| {
            json!({
                "resource_name": item.name,
                "cert": item.pem,
                "state": item.state,
                "cert_valid": item.valid,
                "serial_number": item.serial,
                "not_after": item.not_after,
                "not_before": item.not_before,
                "type": item.kind,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_shows_its_serial_and_whether_it_is_valid_now() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("made");
        let secret = json!({"name": "default", "secret": {"tls_certificate": {
            "certificate_chain": {"inline_bytes": STANDARD.encode(made.cert.pem())}}}});
        let shown = items(&[("ACTIVE", &secret)], 1_800_000_000);
        assert_eq!(shown.len(), 1);
        assert!(shown[0].valid && !shown[0].serial.is_empty());
        assert!(!items(&[("ACTIVE", &secret)], 0)[0].valid);
    }

    #[test]
    fn a_secret_that_has_not_arrived_is_shown_as_warming() {
        let secret = json!({"name": "kubernetes://missing"});
        assert_eq!(items(&[("ACTIVE", &secret)], 0)[0].state, "WARMING");
    }
}
