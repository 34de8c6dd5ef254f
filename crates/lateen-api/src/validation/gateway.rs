//! Gateway, and server TLS settings, which Sidecar uses too.

use std::collections::BTreeSet;

use super::forms::Protocol;
use super::{Report, common, forms};
use crate::cipher;
use crate::networking::{
    Gateway, Port, Server, ServerTlsMode, ServerTlsSettings, TlsCertificate, TlsProtocol,
};

pub(crate) fn check(spec: &Gateway, report: &mut Report<'_>) {
    if spec.servers.is_empty() {
        report.error("a gateway needs at least one entry in `servers`");
    }
    common::labels("selector", &spec.selector, report);
    report.key("servers", |report| {
        for (index, server) in spec.servers.iter().enumerate() {
            let port_name = server.port.as_ref().map(|port| port.name.as_str());
            let is_double = port_name.is_some_and(|name| {
                let names = spec.servers[..index]
                    .iter()
                    .filter_map(|other| other.port.as_ref());
                names.into_iter().any(|port| port.name == name)
            });
            report.index(index, |report| {
                if is_double {
                    let message = "the names of the servers' ports have to be unique";
                    report.key("port", |report| report.error_at("name", message));
                }
                check_server(server, report);
            });
        }
    });
}

fn check_server(server: &Server, report: &mut Report<'_>) {
    if server.hosts.is_empty() {
        report.error_at("hosts", "a server needs at least one host");
    }
    report.each("hosts", &server.hosts, |report, host| {
        gateway_host(host, report)
    });
    if server.bind.starts_with("unix://") {
        unix_bind(server, report);
    } else {
        common::bind_address(&server.bind, report);
    }
    report.some("tls", server.tls.as_ref(), |report, tls| {
        server_tls(tls, report)
    });
    let Some(port) = &server.port else { return };
    check_port(port, &server.bind, report);
    if let Some(protocol) = Protocol::parse(&port.protocol) {
        tls_fits(server, protocol, report);
    }
}

/// `namespace/host`, where the namespace may be `*` or `.`, or a host alone.
fn gateway_host(host: &str, report: &mut Report<'_>) {
    let name = match host.split_once('/') {
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | ".") && !forms::is_dns_label(namespace) {
                report.error(format!("`{namespace}` is none of `*`, `.` and a namespace"));
            }
            name
        }
        None => host,
    };
    if let Some(why) = forms::full_name(name)
        && !forms::is_ip(name)
    {
        report.error(why);
    }
}

fn unix_bind(server: &Server, report: &mut Report<'_>) {
    let path = server.bind.trim_start_matches("unix://");
    if let Some(why) = common::unix_path(path) {
        report.error_at("bind", why);
    }
    if server.port.as_ref().is_some_and(|port| port.number != 0) {
        let message = "a Unix domain socket has no port number: write 0";
        report.key("port", |report| report.error_at("number", message));
    }
}

fn check_port(port: &Port, bind: &str, report: &mut Report<'_>) {
    report.key("port", |report| {
        if Protocol::parse(&port.protocol).is_none() && !port.protocol.is_empty() {
            report.key("protocol", |report| {
                let message = format!("`{}` is not a protocol", port.protocol);
                report.error_with(message, format!("known are {}", forms::PROTOCOLS));
            });
        }
        let is_unix = port.number == 0 && bind.starts_with("unix://");
        if !forms::is_port(port.number) && !is_unix {
            report.error_at("number", forms::PORT);
        }
        if port.target_port > 0 {
            report.error_at("targetPort", "a gateway's port has no targetPort");
        }
        if port.name.is_empty() {
            report.error_at("name", "a gateway's port needs a name");
        }
    });
}

/// TLS settings for TLS, none without.
fn tls_fits(server: &Server, protocol: Protocol, report: &mut Report<'_>) {
    let Some(tls) = &server.tls else {
        if protocol.is_tls() {
            report.error_with(
                "a server for HTTPS or TLS needs `tls`",
                "write `tls: {mode: SIMPLE, credentialName: …}`, or `{mode: PASSTHROUGH}`",
            );
        }
        return;
    };
    if tls.https_redirect && !protocol.is_http() {
        report.key("tls", |report| {
            report.warning(
                "httpsRedirect is for plain HTTP servers",
                "nothing is redirected",
            );
        });
    }
    if protocol.is_tls() {
        return;
    }
    let only_redirects = matches!(
        tls.mode,
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
    ) && tls.ca_certificates.is_empty()
        && tls.private_key.is_empty()
        && tls.server_certificate.is_empty();
    if !protocol.is_http() || !only_redirects {
        report.error_at(
            "tls",
            "a server whose protocol is neither HTTPS nor TLS cannot have `tls`",
        );
    }
}

/// `tls` of a server.
pub(crate) fn server_tls(tls: &ServerTlsSettings, report: &mut Report<'_>) {
    let old = matches!(
        tls.min_protocol_version,
        TlsProtocol::Tlsv10 | TlsProtocol::Tlsv11
    );
    if old && tls.cipher_suites.is_empty() {
        report.key("minProtocolVersion", |report| {
            report.warning(
                "TLS below 1.2 also needs `cipherSuites` that it knows; none are enabled by default",
                "clients of these versions cannot connect",
            );
        });
    }
    cipher_suites(tls, report);
    match tls.mode {
        ServerTlsMode::IstioMutual => istio_mutual(tls, report),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            if certificates(tls).any(|(_, is_set)| is_set) {
                let message = format!("the mode {} uses no certificates", tls.mode);
                report.warning(message, "they are ignored");
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            terminating(tls, report);
        }
    }
}

fn cipher_suites(tls: &ServerTlsSettings, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    report.each("cipherSuites", &tls.cipher_suites, |report, name| {
        if !cipher::is_suite(name) {
            report.warning(format!("`{name}` is not a cipher suite"), "it is ignored");
        } else if !seen.insert(name.clone()) {
            report.warning(format!("`{name}` is listed twice"), "it counts once");
        }
    });
}

/// The fields that name certificates, and whether they are set.
fn certificates(tls: &ServerTlsSettings) -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("caCrl", !tls.ca_crl.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
    ]
    .into_iter()
}

fn istio_mutual(tls: &ServerTlsSettings, report: &mut Report<'_>) {
    for (key, _) in certificates(tls).filter(|(key, is_set)| *is_set && *key != "caCrl") {
        let message = format!("ISTIO_MUTUAL uses the mesh's certificates; leave out `{key}`");
        report.error_at(key, message);
    }
}

fn terminating(tls: &ServerTlsSettings, report: &mut Report<'_>) {
    let has_credential = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let has_files = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let sources = [
        has_files,
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.iter().filter(|is_set| **is_set).count() > 1 {
        report.error(
            "only one of credentialName, credentialNames, tlsCertificates, and \
             serverCertificate with privateKey may be set",
        );
    }
    if has_credential {
        if !tls.ca_crl.is_empty() && !tls.credential_name.is_empty() {
            report.error_at(
                "caCrl",
                "with credentialName the revocation list is in the secret",
            );
        }
        return;
    }
    if tls.mode != ServerTlsMode::Simple && tls.ca_certificates.is_empty() {
        report.error(format!(
            "the mode {} needs `caCertificates`, or `credentialName`",
            tls.mode
        ));
    }
    if tls.tls_certificates.is_empty() {
        files(&tls.server_certificate, &tls.private_key, tls.mode, report);
    } else {
        report.each(
            "tlsCertificates",
            &tls.tls_certificates,
            |report, pair: &TlsCertificate| {
                files(
                    &pair.server_certificate,
                    &pair.private_key,
                    tls.mode,
                    report,
                );
            },
        );
    }
    if !tls.ca_crl.is_empty() && tls.mode == ServerTlsMode::Simple {
        report.error_at(
            "caCrl",
            "SIMPLE asks for no client certificates that could be revoked",
        );
    }
}

fn files(certificate: &str, key: &str, mode: ServerTlsMode, report: &mut Report<'_>) {
    for (name, value) in [("serverCertificate", certificate), ("privateKey", key)] {
        if value.is_empty() {
            report.error_with(
                format!("the mode {mode} needs `{name}`"),
                "write the files' paths or, at a Gateway, `credentialName: SECRET`",
            );
        }
    }
}
