//! Writing a request: its head, then its body as it comes.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header, request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::Error;
use crate::http::body::RequestBody;
use crate::net::Stream;

/// A body's first part goes out with the head if it is there already and no longer than this.
const WITH_HEAD: usize = 16 * 1024;

/// A request on its way.
#[derive(Debug)]
pub(super) struct Upload {
    /// What is to be written next: a head, a chunk's size, the end.
    frame: Bytes,
    /// Then this.
    data: Bytes,
    /// Then this, which ends a chunk.
    tail: Bytes,
    body: Option<RequestBody>,
    length: Length,
    written: u64,
    flushed: bool,
}

/// How the body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// So many bytes are left of it.
    Exact(u64),
    /// In chunks.
    Chunked,
}

impl Upload {
    /// Encodes a head. Names and values hold no line ends, by their types.
    ///
    /// # Errors
    /// The head promises a body that is not there.
    pub(super) fn new(parts: &request::Parts, body: RequestBody) -> Result<Self, Error> {
        let empty = body.is_end_stream();
        let (length, says_so) = match length(&parts.headers)? {
            Some(length) => (length, true),
            None if empty => (Length::Exact(0), true),
            None => {
                let exact = body.size_hint().exact();
                (exact.map_or(Length::Chunked, Length::Exact), false)
            }
        };
        if empty && matches!(length, Length::Exact(1..)) {
            return Err(Error::Body(None));
        }
        Ok(Self {
            frame: head(parts, (!says_so).then_some(length)),
            data: Bytes::new(),
            tail: Bytes::new(),
            body: (!empty).then_some(body),
            length,
            written: 0,
            flushed: false,
        })
    }

    /// Whether a byte of it was written.
    pub(super) const fn has_begun(&self) -> bool {
        self.written > 0
    }

    /// Whether all of it was written.
    pub(super) const fn is_done(&self) -> bool {
        self.flushed && self.body.is_none() && self.frame.is_empty() && self.data.is_empty()
    }

    /// Writes as much as can be written now; ready when all is.
    pub(super) fn poll(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let more = self.data.is_empty() && self.tail.is_empty() && self.frame.len() < WITH_HEAD;
            let waits = more && self.body.is_some() && self.next(cx)?.is_pending();
            ready!(self.write(stream, cx))?;
            if waits || self.body.is_none() {
                ready!(self.flush(stream, cx))?;
                return if waits {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
        }
    }

    /// Takes the next frame of the body. What it encodes follows what is already to be written.
    fn next(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let Some(body) = self.body.as_mut() else {
            return Ok(Poll::Ready(()));
        };
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame
                .transpose()
                .map_err(|error| Error::Body(Some(error)))?,
        };
        match frame {
            None => self.end()?,
            Some(frame) => match frame.into_data() {
                Ok(data) => self.data(data)?,
                // Trailers are not passed on in HTTP/1, as in Envoy without `enable_trailers`: few servers read them.
                Err(_trailers) => self.end()?,
            },
        }
        // A body that says so beforehand saves a further look.
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            self.end()?;
        }
        Ok(Poll::Ready(()))
    }

    fn data(&mut self, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(()); // an empty chunk would end the body
        }
        match &mut self.length {
            Length::Exact(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(Error::Body(None))?;
            }
            Length::Chunked => {
                self.append(format!("{:x}\r\n", data.len()).as_bytes());
                self.tail = Bytes::from_static(b"\r\n");
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.body = None;
        match self.length {
            Length::Exact(0) => Ok(()),
            Length::Exact(_) => Err(Error::Body(None)),
            Length::Chunked => {
                self.tail = Bytes::from_static(if self.tail.is_empty() {
                    b"0\r\n\r\n"
                } else {
                    b"\r\n0\r\n\r\n"
                });
                Ok(())
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.frame = if self.frame.is_empty() {
            Bytes::copy_from_slice(bytes)
        } else {
            [&self.frame[..], bytes].concat().into()
        };
    }

    fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !(self.frame.is_empty() && self.data.is_empty() && self.tail.is_empty()) {
            let parts = [
                IoSlice::new(&self.frame),
                IoSlice::new(&self.data),
                IoSlice::new(&self.tail),
            ];
            let written = if self.data.is_empty() && self.tail.is_empty() {
                Pin::new(&mut *stream).poll_write(cx, &self.frame)
            } else {
                Pin::new(&mut *stream).poll_write_vectored(cx, &parts)
            };
            let n = ready!(written).map_err(Error::Io)?;
            if n == 0 {
                return Poll::Ready(Err(Error::Io(std::io::ErrorKind::WriteZero.into())));
            }
            self.wrote(n);
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut n: usize) {
        self.written += n as u64;
        self.flushed = false;
        for part in [&mut self.frame, &mut self.data, &mut self.tail] {
            let taken = n.min(part.len());
            part.advance(taken);
            n -= taken;
            if part.is_empty() {
                *part = Bytes::new(); // lets go of the buffer
            }
        }
    }

    fn flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.flushed {
            ready!(Pin::new(stream).poll_flush(cx)).map_err(Error::Io)?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// The framing that the headers state.
fn length(headers: &HeaderMap) -> Result<Option<Length>, Error> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(Some(Length::Chunked));
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let number = length.to_str().ok().and_then(|text| text.parse().ok());
    number
        .map(|number| Some(Length::Exact(number)))
        .ok_or(Error::Body(None))
}

/// Encodes a head, with the framing it does not state itself.
fn head(parts: &request::Parts, framing: Option<Length>) -> Bytes {
    let path = match parts.uri.path_and_query() {
        Some(path) => path.as_str(),
        None => parts
            .uri
            .authority()
            .map_or("/", http::uri::Authority::as_str),
    };
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let method = parts.method.as_str();
    let mut out = Vec::with_capacity(method.len() + path.len() + fields + 16);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        line(&mut out, name, value);
    }
    match framing {
        Some(Length::Exact(length)) => {
            out.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        Some(Length::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        None => {}
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}

fn line(out: &mut Vec<u8>, name: &http::HeaderName, value: &http::HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}
