//! HTTP/1 by hyper, for clusters that keep the spelling of header names: what a name looked like is known to hyper alone, which read
//! it on the client's side.

use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use lateen_traffic::cluster::UpstreamHttp;

use super::ConnectionFacts;
use crate::http::body::RequestBody;
use crate::net::Stream;
use crate::upstream::connect::{ConnectError, Target};

/// Makes a connection of a stream. It lives as long as its driver.
///
/// # Errors
/// The handshake fails.
pub(super) async fn open(
    stream: Stream,
    target: &Target,
    http: &UpstreamHttp,
    held: Rc<ConnectionFacts>,
) -> Result<SendRequest<RequestBody>, ConnectError> {
    let (sender, driver) = http1::Builder::new()
        .max_headers(http.max_headers_count as usize)
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http {
            address: target.address.clone(),
            source: Arc::new(source),
        })?;
    tokio::task::spawn_local(async move {
        // Its errors come out of the request that met them; between requests they only mean "closed".
        let _ = driver.with_upgrades().await;
        drop(held);
    });
    Ok(sender)
}
