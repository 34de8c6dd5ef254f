//! A connection's own bytes as the body of a response, while a request's body goes the other way: POST that ends here.
//!
//! Source: Envoy's `ConnectConfig.allow_post` and its TCP upstream. The end of either body is the end of that direction alone.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use crate::http::body::RequestBody;
use crate::net::Stream;

/// Bytes that are read at a time, as many as Envoy does.
const READ: usize = 16 * 1024;

/// What a host sends on a connection that a request's body is written to.
#[derive(Debug)]
pub(crate) struct Body {
    reader: ReadHalf<Stream>,
    room: BytesMut,
    ended: bool,
    upload: JoinHandle<()>,
}

impl Body {
    /// Begins to send a request's body on a connection of which the response's is read.
    pub(crate) fn new(stream: Stream, request: RequestBody) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            room: BytesMut::new(),
            ended: false,
            upload: tokio::task::spawn_local(upload(writer, request)),
        }
    }

    /// Whether the host has said all it had to say.
    pub(crate) const fn is_end(&self) -> bool {
        self.ended
    }

    /// The next bytes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.room.resize(READ, 0);
        let mut buffer = ReadBuf::new(&mut self.room);
        let read = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut buffer));
        let count = buffer.filled().len();
        self.ended = read.is_err() || count == 0;
        Poll::Ready(match read {
            Err(error) => Some(Err(error)),
            Ok(()) if count == 0 => None,
            Ok(()) => Some(Ok(Frame::data(self.room.split_to(count).freeze()))),
        })
    }
}

impl Drop for Body {
    /// Nobody wants the response any more: the connection ends, whatever is left of the request.
    fn drop(&mut self) {
        self.upload.abort();
    }
}

/// Writes a request's body. What goes wrong shows in the other direction: a connection that broke has nothing to read, and a client
/// that broke off takes no response.
async fn upload(mut writer: WriteHalf<Stream>, mut request: RequestBody) {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut request).poll_frame(cx)).await;
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                if writer.write_all(&data).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
            // Trailers have no place among bytes; they end the body.
            Some(Ok(Err(_))) | None => break,
            Some(Err(_)) => return,
        }
    }
    let _ = writer.shutdown().await;
}
