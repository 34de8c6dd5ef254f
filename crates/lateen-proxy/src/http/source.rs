//! A request's body as it comes from the client, of which filters may read ahead.
//!
//! What was read ahead is handed out first, so that whoever reads the body afterwards sees all of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::body::{BodyError, Meter};
use super::client::{ClientBody, ClientError};
use super::grpc_web::Decoder;
use crate::net::splice::Splice;

/// A request's body.
#[derive(Debug)]
pub(crate) struct Source {
    /// None once all of it was read.
    incoming: Option<ClientBody>,
    ahead: VecDeque<Bytes>,
    ahead_bytes: usize,
    /// Boxed: a body is handed on from step to step, and few have any.
    trailers: Option<Box<HeaderMap>>,
    meter: Rc<Meter>,
    /// Decodes what is read (gRPC-Web's text form).
    decoder: Option<Decoder>,
}

/// How much of a body was read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// All of it.
    Whole,
    /// As much as was asked for, and there may be more.
    Part,
}

impl Source {
    /// A body whose bytes are counted as they are read.
    pub(crate) fn new(incoming: ClientBody, meter: Rc<Meter>) -> Self {
        let ended = incoming.is_end_stream();
        if ended {
            meter.end();
        }
        Self {
            incoming: (!ended).then_some(incoming),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            trailers: None,
            meter,
            decoder: None,
        }
    }

    /// A body that was read before, and is there whole.
    pub(crate) fn kept(data: &[Bytes], trailers: Option<HeaderMap>, meter: &Rc<Meter>) -> Self {
        Self {
            incoming: None,
            ahead_bytes: data.iter().map(Bytes::len).sum(),
            ahead: data.iter().cloned().collect(),
            trailers: trailers.map(Box::new),
            meter: Rc::clone(meter),
            decoder: None,
        }
    }

    /// Leaves out what is there.
    pub(crate) fn discard(&mut self) {
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.trailers = None;
    }

    /// From here on the body is base64 and is decoded as it is read.
    pub(crate) fn decode_base64(&mut self) {
        self.decoder = Some(Decoder::default());
    }

    /// What counts it.
    pub(crate) const fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// Reads until the body has ended or `enough` bytes are there; the last frame may bring more than that.
    ///
    /// # Errors
    /// The client broke it off.
    pub(crate) async fn read_ahead(&mut self, enough: usize) -> Result<Ahead, ClientError> {
        while self.incoming.is_some() {
            if self.ahead_bytes >= enough {
                return Ok(Ahead::Part);
            }
            let next = std::future::poll_fn(|cx| self.poll_incoming(cx)).await;
            let Some(frame) = next.transpose()? else {
                break;
            };
            match frame.into_data() {
                Ok(data) => {
                    self.ahead_bytes += data.len();
                    self.ahead.push_back(data);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
            }
        }
        Ok(Ahead::Whole)
    }

    /// Bytes that were read ahead.
    pub(crate) const fn ahead_bytes(&self) -> usize {
        self.ahead_bytes
    }

    /// The first bytes of what was read ahead, at most `limit`.
    pub(crate) fn first_bytes(&self, limit: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.ahead_bytes.min(limit));
        for data in &self.ahead {
            let room = limit - out.len();
            out.extend_from_slice(&data[..data.len().min(room)]);
        }
        out
    }

    /// The next frame as it came, what was read ahead first.
    fn poll_coded(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(data) = self.ahead.pop_front() {
            self.ahead_bytes -= data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.incoming.is_none() {
            let trailers = self.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
        }
        self.poll_incoming(cx)
            .map(|next| next.map(|frame| frame.map_err(BodyError::Source)))
    }

    /// Whether what comes next can go from socket to socket.
    pub(crate) fn can_splice(&self) -> bool {
        let bare = self.ahead.is_empty() && self.decoder.is_none();
        bare && !self.meter.reads() && self.incoming.as_ref().is_some_and(ClientBody::can_splice)
    }

    /// Reads what comes next into a pipe; how much it is, never nothing.
    pub(crate) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, BodyError>> {
        let Some(ClientBody::H1(incoming)) = self.incoming.as_mut() else {
            return Poll::Ready(Err(BodyError::NotReplayable));
        };
        let moved = ready!(incoming.poll_splice(cx, pipe)).map_err(ClientError::H1);
        let ended = incoming.is_end();
        if let Ok(moved) = moved {
            self.meter.passed(moved);
            if ended {
                self.meter.end();
            }
        }
        if ended || moved.is_err() {
            self.incoming = None;
        }
        Poll::Ready(moved.map_err(BodyError::Source))
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let Some(incoming) = self.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        let next = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let ended = match &next {
            None | Some(Err(_)) => true,
            Some(Ok(frame)) => {
                self.meter.record(frame);
                frame.is_trailers() || incoming.is_end_stream()
            }
        };
        if ended {
            self.incoming = None;
            if !matches!(next, Some(Err(_))) {
                self.meter.end();
            }
        }
        Poll::Ready(next)
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let next = ready!(self.poll_coded(cx));
            let Some(decoder) = &mut self.decoder else {
                return Poll::Ready(next);
            };
            match next {
                Some(Ok(frame)) if frame.is_data() => {
                    let data = frame.into_data().unwrap_or_default();
                    match decoder.decode(&data) {
                        Some(data) if data.is_empty() => {} // not a whole group yet
                        Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        None => return Poll::Ready(Some(Err(BodyError::NotBase64))),
                    }
                }
                None if !decoder.is_complete() => {
                    return Poll::Ready(Some(Err(BodyError::NotBase64)));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.as_ref().is_none_or(Decoder::is_complete)
            && self.incoming.is_none()
            && self.ahead.is_empty()
            && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.decoder.is_some() {
            return SizeHint::default();
        }
        let ahead = self.ahead_bytes as u64;
        let Some(incoming) = &self.incoming else {
            return SizeHint::with_exact(ahead);
        };
        let rest = incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}
