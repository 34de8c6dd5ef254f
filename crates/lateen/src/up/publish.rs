//! `--publish [ADDR:]HOSTPORT:SERVICE[.NAMESPACE]:PORT`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use lateen_api::meta::Kind;
use lateen_api::{Resource, nearest};

/// A host port and the service it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Where to listen on the host.
    pub(crate) host: SocketAddr,
    /// The service's name.
    pub(crate) service: String,
    /// Its namespace, if it was given.
    pub(crate) namespace: Option<String>,
    /// Its port.
    pub(crate) port: u16,
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).with_context(|| {
            format!("`{text}` is not [ADDR:]HOSTPORT:SERVICE:PORT; for example 18080:istio-ingressgateway:80")
        })
    }
}

fn parse(text: &str) -> Result<Publish> {
    let (rest, port) = text
        .rsplit_once(':')
        .context("there is no port of the service")?;
    let (host, service) = rest.rsplit_once(':').context("there is no service")?;
    let (address, host_port) = match host.rsplit_once(':') {
        Some((address, port)) => (address.trim_start_matches('[').trim_end_matches(']'), port),
        None => ("", host),
    };
    let ip = match address {
        // Published to this machine only, unless the user says otherwise.
        "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address
            .parse()
            .with_context(|| format!("`{address}` is no address"))?,
    };
    let number = |text: &str| {
        text.parse::<u16>()
            .with_context(|| format!("`{text}` is no port"))
    };
    let (service, namespace) = match service.split_once('.') {
        Some((name, namespace)) => (name, Some(namespace.to_owned())),
        None => (service, None),
    };
    if service.is_empty() {
        bail!("the service's name is empty");
    }
    Ok(Publish {
        host: SocketAddr::new(ip, number(host_port)?),
        service: service.to_owned(),
        namespace,
        port: number(port)?,
    })
}

impl Publish {
    /// The namespace of the service: the one given, or the only one that has such a service.
    pub(crate) fn namespace(&self, resources: &[Resource]) -> Result<String> {
        let services = || resources.iter().filter(|r| r.kind == Kind::Service);
        let having: Vec<&str> = services()
            .filter(|r| r.meta.name == self.service)
            .map(|r| r.meta.namespace.as_str())
            .filter(|n| self.namespace.as_deref().is_none_or(|wanted| wanted == *n))
            .collect();
        match having[..] {
            [only] => Ok(only.to_owned()),
            [] => {
                let known: Vec<&str> = services().map(|r| r.meta.name.as_str()).collect();
                let near = nearest(&self.service, &known);
                let hint = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
                bail!(
                    "--publish {}: there is no service `{}`{hint}",
                    self.host.port(),
                    self.service
                )
            }
            [first, second, ..] => bail!(
                "--publish {}: service `{}` is in {first} and {second}; write {}.{first}",
                self.host.port(),
                self.service,
                self.service
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_published_to_this_machine_unless_an_address_is_given() {
        let short: Publish = "18080:istio-ingressgateway:80".parse().expect("parsed");
        assert_eq!(short.host, SocketAddr::from(([127, 0, 0, 1], 18080)));
        assert_eq!(
            (short.service.as_str(), short.namespace, short.port),
            ("istio-ingressgateway", None, 80)
        );
        let wide: Publish = "0.0.0.0:8080:web.shop:80".parse().expect("parsed");
        assert_eq!(wide.host, SocketAddr::from(([0, 0, 0, 0], 8080)));
        assert_eq!(wide.namespace.as_deref(), Some("shop"));
        let v6: Publish = "[::1]:8080:web:80".parse().expect("parsed");
        assert!(v6.host.is_ipv6());
    }

    #[test]
    fn what_cannot_be_read_is_answered_with_an_example() {
        for text in ["", "80", "80:web", "x:web:80", "80::80", "80:web:http"] {
            let error = text.parse::<Publish>().expect_err(text);
            assert!(
                format!("{error:#}").contains("18080:istio-ingressgateway:80"),
                "{error:#}"
            );
        }
    }
}
