//! gRPC over HTTP: its local replies, its status codes, and counting its messages.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// `DEADLINE_EXCEEDED`.
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;

/// Counts length-prefixed messages in a stream of data frames, whatever way they are cut.
///
/// Source: "gRPC over HTTP2", section "Length-Prefixed-Message": one byte of flags, four of length, then the message.
#[derive(Debug, Default)]
pub(crate) struct MessageCounter {
    count: u64,
    header: [u8; 5],
    header_have: usize,
    body_left: u64,
}

impl MessageCounter {
    /// Messages whose header was complete.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.body_left > 0 {
                let skip = data
                    .len()
                    .min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                self.body_left -= skip as u64;
                data = &data[skip..];
                continue;
            }
            let take = data.len().min(self.header.len() - self.header_have);
            self.header[self.header_have..self.header_have + take].copy_from_slice(&data[..take]);
            self.header_have += take;
            data = &data[take..];
            if self.header_have == self.header.len() {
                let [_, length @ ..] = self.header;
                self.body_left = u64::from(u32::from_be_bytes(length));
                self.header_have = 0;
                self.count += 1;
            }
        }
    }
}

/// Whether a content type is gRPC's (`application/grpc`, alone or with a `+` suffix); gRPC-Web is not.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// The gRPC status a client is told for an HTTP status of the proxy's own.
///
/// Source: "HTTP to gRPC Status Code Mapping" of the gRPC project, as Envoy applies it to local replies.
pub(crate) const fn status_of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,                   // INTERNAL
        401 => 16,                   // UNAUTHENTICATED
        403 => 7,                    // PERMISSION_DENIED
        404 => 12,                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

/// The HTTP status a gRPC status counts as where only HTTP's are judged. Source: Envoy, `Grpc::Utility::grpcToHttpStatus`.
pub(crate) const fn http_of_status(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,          // CANCELLED
        3 | 9 | 11 => 400, // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        4 => 504,          // DEADLINE_EXCEEDED
        5 => 404,          // NOT_FOUND
        6 | 10 => 409,     // ALREADY_EXISTS, ABORTED
        7 => 403,          // PERMISSION_DENIED
        8 => 429,          // RESOURCE_EXHAUSTED
        12 => 501,         // UNIMPLEMENTED
        14 => 503,         // UNAVAILABLE
        16 => 401,         // UNAUTHENTICATED
        _ => 500,          // UNKNOWN, INTERNAL, DATA_LOSS
    }
}

/// The status a finished stream carries: in its trailers, or in the headers of a trailers-only response.
pub(crate) fn status_in(headers: &HeaderMap) -> Option<u32> {
    std::str::from_utf8(headers.get("grpc-status")?.as_bytes())
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Percent-encodes a `grpc-message` (bytes outside printable ASCII, and `%`).
pub(crate) fn message_value(message: &str) -> HeaderValue {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 0xf)]));
        }
    }
    HeaderValue::from_str(&out).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(body: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    proptest! {
        #[test]
        fn however_frames_are_cut_the_count_is_that_of_the_messages(
            sizes in proptest::collection::vec(0usize..40, 0..12),
            cut in 1usize..23,
        ) {
            let stream: Vec<u8> = sizes.iter().flat_map(|n| message(&vec![7; *n])).collect();
            let mut counter = MessageCounter::default();
            for chunk in stream.chunks(cut) {
                counter.feed(chunk);
            }
            prop_assert_eq!(counter.count(), sizes.len() as u64);
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(message_value("naïve 100%\n"), "na%C3%AFve 100%25%0A");
    }
}
