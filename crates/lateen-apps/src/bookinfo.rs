//! Istio's Bookinfo: a page about a book, its details, its reviews and their ratings, in four services.
//!
//! Source: Istio 1.30 `samples/bookinfo/src`, by behaviour.

pub(crate) mod details;
pub(crate) mod page;
pub(crate) mod productpage;
pub(crate) mod ratings;
pub(crate) mod reviews;

use crate::{Environment, RunError, options};

/// The port all four services listen on, unless an argument says otherwise.
const PORT: u16 = 9080;

/// The port that a service's first argument names.
fn port(arguments: &[String]) -> Result<u16, RunError> {
    arguments
        .first()
        .map_or(Ok(PORT), |text| options::port(text))
}

/// The base URL of another service: `NAME_HOSTNAME`, `SERVICES_DOMAIN` and `NAME_SERVICE_PORT` move it.
fn peer(name: &str, environment: &Environment) -> String {
    let upper = name.to_ascii_uppercase();
    let variable = |suffix: &str| environment.get(&format!("{upper}{suffix}"));
    let host = variable("_HOSTNAME").map_or(name, String::as_str);
    let domain = environment
        .get("SERVICES_DOMAIN")
        .map(|domain| format!(".{domain}"));
    let port = variable("_SERVICE_PORT").map_or("9080", String::as_str);
    format!("http://{host}{}:{port}", domain.unwrap_or_default())
}

/// A product id as the services read it from a path.
fn product_id(text: &str) -> Option<u64> {
    text.parse().ok()
}
