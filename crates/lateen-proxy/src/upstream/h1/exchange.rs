//! One request and its response on a connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use hyper::{Request, Response};
use tokio::task::AbortHandle;

use super::head::{Asked, Head};
use super::upload::{self, Upload};
use super::wire::Wire;
use super::{Body, Error};
use crate::http::body::RequestBody;
use crate::upstream::plain::Plain;
use crate::upstream::{SendError, UpstreamBody, UpstreamError};

/// A request that is to be sent.
#[derive(Debug)]
pub(crate) struct Begun {
    upload: Upload,
    asked: Asked,
}

impl Begun {
    /// Of a request, for a connection that keeps how names are `cased` or not.
    ///
    /// # Errors
    /// Its head promises a body that is not there.
    pub(super) fn request(request: Request<RequestBody>, cased: bool) -> Result<Self, SendError> {
        let (parts, body) = request.into_parts();
        let asked = Asked::of(&parts.method, &parts.headers);
        let upload = upload::upload(&parts, body, cased).map_err(unsent)?;
        Ok(Self { upload, asked })
    }

    /// Of a head in parts.
    ///
    /// # Errors
    /// It promises a body that is not there.
    pub(super) fn plain(
        plain: &Plain<'_>,
        body: RequestBody,
        cased: bool,
    ) -> Result<Self, SendError> {
        let (asked, upload) = upload::plain(plain, body, cased).map_err(unsent)?;
        Ok(Self { upload, asked })
    }
}

fn unsent(error: Error) -> SendError {
    SendError {
        error: UpstreamError::H1(error),
        unsent: true,
    }
}

/// Sends a request and waits for its response's head.
///
/// # Errors
/// There is no response.
pub(super) async fn send(
    wire: &Rc<RefCell<Wire>>,
    begun: Begun,
) -> Result<Response<UpstreamBody>, SendError> {
    wire.borrow_mut().begin();
    let Begun { mut upload, asked } = begun;
    let mut broken = None;
    let head = std::future::poll_fn(|cx| {
        let mut wire = wire.borrow_mut();
        if broken.is_none()
            && !upload.is_done()
            && let Some(stream) = wire.stream.as_mut()
            && let Poll::Ready(Err(error)) = upload.poll(stream, cx)
        {
            let error = Error::from(error);
            if matches!(error, Error::Body(_)) {
                // Nobody is left who would send the rest: there is no answer to wait for.
                return Poll::Ready(Err(error));
            }
            broken = Some(error);
        }
        if upload.is_held() {
            return Poll::Pending; // no answer comes before that
        }
        // A host that refuses a long body may answer and close: its answer counts for more than the broken write.
        match wire.poll_head(cx, asked) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken.take().unwrap_or(error))),
            Poll::Pending if broken.is_some() && upload.written() == 0 => {
                Poll::Ready(Err(broken.take().unwrap_or(Error::Closed)))
            }
            other => other,
        }
    })
    .await;
    let head = head.map_err(|error| SendError {
        unsent: upload.written() == 0,
        error: UpstreamError::H1(error),
    })?;
    Ok(response(wire, head, upload, broken.is_some()))
}

fn response(
    wire: &Rc<RefCell<Wire>>,
    head: Head,
    upload: Upload,
    broken: bool,
) -> Response<UpstreamBody> {
    let unfinished = !broken && !upload.is_done();
    let rest = unfinished.then(|| send_rest(wire, upload));
    let keep_alive = head.keep_alive && !broken;
    let body = Body::new(wire, head.framing, keep_alive, rest);
    let mut response = Response::new(UpstreamBody::H1(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if let Some(spelling) = head.spelling {
        response.extensions_mut().insert(*spelling);
    }
    response
}

/// Sends the rest of a request beside its response, so that neither waits for the other.
fn send_rest(wire: &Rc<RefCell<Wire>>, mut upload: Upload) -> AbortHandle {
    let wire = Rc::clone(wire);
    let rest = std::future::poll_fn(move |cx| match wire.borrow_mut().stream.as_mut() {
        Some(stream) => upload.poll(stream, cx).map_err(Error::from),
        None => Poll::Ready(Ok(())),
    });
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = rest.await {
            tracing::debug!(%error, "the rest of a request was not sent");
            // Not finished, and so the connection is not used again.
            std::future::pending::<()>().await;
        }
    });
    task.abort_handle()
}
