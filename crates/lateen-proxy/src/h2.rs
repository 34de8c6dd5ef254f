//! HTTP/2 (RFC 9113), on both sides.
//!
//! A connection is one structure that its streams and what moves its bytes share ([`link`]): frames are read into it and written from it, all
//! on one thread, without a lock, a channel or a task between. [`frame`] says what frames look like, [`hpack`] how fields are compressed,
//! [`head`] what they mean together. Bytes are moved by [`crate::streams`]. Who answers is [`crate::http::h2`], who calls
//! [`crate::upstream::h2`]. See `docs/decisions`.

pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod hpack;
pub(crate) mod link;
mod settings;

#[cfg(test)]
mod tests;

pub(crate) use self::settings::Settings;

use bytes::BytesMut;

use crate::streams::tunnel;
use crate::streams::wire::{Link as _, Taken};

/// What a granted CONNECT makes of a stream.
pub(crate) type Tunnel = tunnel::Tunnel<link::Incoming, link::Outgoing>;

/// Reads bytes as a server does that answers nothing.
pub(crate) fn fuzz_server(bytes: &[u8]) {
    fuzz(&link::Link::server(Settings::default()), bytes);
}

/// Reads bytes as a client does that has asked two things.
pub(crate) fn fuzz_client(bytes: &[u8]) {
    let link = link::Link::client(Settings::default());
    let mut request = http::Request::new(());
    *request.uri_mut() = http::Uri::from_static("http://a/");
    let parts = request.into_parts().0;
    let begun = [true, false].map(|end| {
        let put = |encoder: &mut _, out: &mut _| head::put_request(encoder, out, &parts, None);
        link.begin(put, false, end)
    });
    fuzz(&link, bytes);
    drop(begun);
}

fn fuzz(link: &std::rc::Rc<link::Link>, bytes: &[u8]) {
    let mut read = BytesMut::new();
    let mut begun = Vec::new();
    // In two pieces, since a frame may come in several.
    for piece in bytes.chunks(bytes.len() / 2 + 1) {
        read.extend_from_slice(piece);
        loop {
            match link.take(&mut read) {
                Ok(Taken::Begun(stream)) => begun.push(stream),
                Ok(Taken::Frame) => {}
                Ok(Taken::More) => break,
                Err(_) => return,
            }
        }
    }
}

/// Reads bytes as a block of fields, twice: what the first remembers, the second may refer to.
pub(crate) fn fuzz_fields(bytes: &[u8]) {
    let mut decoder = hpack::Decoder::default();
    for _ in 0..2 {
        if decoder.decode(bytes, |_, _| ()).is_err() {
            return;
        }
    }
}
