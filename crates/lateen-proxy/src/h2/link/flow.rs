//! Flow control (RFC 9113 section 5.2): what may be sent, and what the peer may send.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::frame::{MOST_WINDOW, Reason, kind};
use super::take::Broken;
use super::{HIGH, State};
use crate::streams::Error;

impl State {
    /// Sends what may be sent of a body now; ready when that is all.
    pub(super) fn poll_data(
        &mut self,
        id: u32,
        data: &mut Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let Some(stream) = self.streams.get_mut(&id) else {
                return Poll::Ready(Err(self.closed.unwrap_or(Error::Reset)));
            };
            if let Some(error) = stream.failed {
                return Poll::Ready(Err(error));
            }
            if data.is_empty() && !end {
                return Poll::Ready(Ok(()));
            }
            let full = self.out.len() >= HIGH || (self.credit <= 0 && !data.is_empty());
            if full || (stream.flow.credit <= 0 && !data.is_empty()) {
                stream.wait_to_write(cx);
                if full && !std::mem::replace(&mut stream.flow.waits, true) {
                    self.waiting.push_back(id);
                }
                return Poll::Pending;
            }
            let most = stream
                .flow
                .credit
                .min(self.credit)
                .min(self.peer.frame as i64);
            // Neither is below zero unless there is nothing to send.
            let part = data.split_to(data.len().min(usize::try_from(most).unwrap_or(0)));
            stream.flow.credit -= part.len() as i64;
            self.credit -= part.len() as i64;
            let last = end && data.is_empty();
            stream.sent = last;
            self.put_data(id, last, part);
            if data.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The peer takes more on a stream, or on all of them.
    pub(super) fn take_credit(&mut self, id: u32, more: u32) -> Result<(), Broken> {
        if id == 0 {
            self.credit += i64::from(more);
            if more == 0 {
                return Err(Broken(Reason::Protocol, "window of nothing"));
            }
            if self.credit > MOST_WINDOW {
                return Err(Broken(Reason::FlowControl, "window"));
            }
            if self.out.len() < HIGH {
                self.wake_waiting();
            }
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.stray(id);
        };
        stream.flow.credit += i64::from(more);
        if more == 0 {
            self.refuse(id, Reason::Protocol);
        } else if stream.flow.credit > MOST_WINDOW {
            self.refuse(id, Reason::FlowControl);
        } else {
            stream.wake_writer();
        }
        Ok(())
    }

    /// Streams get another window than they began with.
    pub(super) fn shift_credit(&mut self, before: u32) -> Result<(), Broken> {
        let more = i64::from(self.peer.window) - i64::from(before);
        self.streams.values_mut().try_for_each(|stream| {
            stream.flow.credit += more;
            if stream.flow.credit > MOST_WINDOW {
                return Err(Broken(Reason::FlowControl, "window"));
            }
            if more > 0 {
                stream.wake_writer();
            }
            Ok(())
        })
    }

    /// Bytes of a stream were taken: the peer may send so many more.
    pub(super) fn taken(&mut self, id: u32, bytes: u32) {
        let most = self.settings.stream_window;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.flow.unread = stream.flow.unread.saturating_sub(bytes);
            stream.flow.taken += bytes;
            if !stream.ended && stream.failed.is_none() && stream.flow.taken >= most / 2 {
                let more = std::mem::take(&mut stream.flow.taken);
                stream.flow.window += i64::from(more);
                self.put(kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
            }
        }
        self.release(bytes);
    }

    /// Bytes are held no more for any stream.
    pub(super) fn release(&mut self, bytes: u32) {
        self.untold += bytes;
        if self.untold >= self.settings.connection_window / 2 && self.closed.is_none() {
            let more = std::mem::take(&mut self.untold);
            self.window += i64::from(more);
            self.put(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }
}
