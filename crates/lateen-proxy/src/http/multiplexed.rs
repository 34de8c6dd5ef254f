//! Serving a connection that carries many requests at once, whatever its frames look like.

use std::rc::Rc;
use std::time::Duration;

use lateen_traffic::hcm::HttpConnectionManager;

use super::response::ResponseBody;
use super::server::Session;
use crate::net::Stream;
use crate::streams::Error;
use crate::streams::serving::{self, Ends, Serving};
use crate::streams::upload::{Sink, Upload};

/// Serves a connection to its end. `begun` takes the streams that the client begins; `lost` ends when it is gone.
pub(super) async fn serve<L: Serving>(
    (session, config): (&Rc<Session>, &HttpConnectionManager),
    (link, stream): (&Rc<L>, Stream),
    begun: impl FnMut(L::Begun),
    lost: impl Future<Output = ()>,
) {
    let ends = Ends {
        abused: session.abused(),
        ending: session.ending(config),
        lost,
    };
    let ended = serving::serve((link, stream), begun, ends).await;
    if matches!(ended, Error::Protocol(_)) {
        session.count_protocol_error();
    }
    tracing::debug!(connection = session.connection.facts.id, %ended, "connection with streams ended");
}

/// Sends a body, as long as the client takes it: it may stall for so long.
pub(super) async fn send(outgoing: impl Sink, body: ResponseBody, stall: Option<Duration>) {
    let mut upload = Upload::new(outgoing, body);
    loop {
        let before = upload.progress();
        let sent = std::future::poll_fn(|cx| upload.poll(cx));
        let Some(stall) = stall else {
            let _ = sent.await; // what broke off was recorded with the request
            return;
        };
        if tokio::time::timeout(stall, sent).await.is_ok() {
            return;
        }
        let (bytes, waits) = upload.progress();
        if waits && bytes == before.0 {
            return; // dropping it gives the stream up
        }
    }
}
