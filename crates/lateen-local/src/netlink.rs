//! Netlink: messages, sockets, acknowledgements. The messages' meaning is in [`link`] and [`nft`].
//!
//! Small on purpose: requests that are answered by an acknowledgement, nothing else. A container image made
//! `FROM scratch` has no `ip`, `nft` or `iptables`; with this it needs none.
//! Source: the kernel's uapi headers `linux/netlink.h`, `linux/rtnetlink.h`, `linux/netfilter/nf_tables.h`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

pub mod link;
pub(crate) mod nft;

/// The kernel answers a netlink request while it is being sent; this only guards against a kernel that does not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// One answer: an error header and at most the request it is about.
const ANSWER_BYTES: usize = 64 << 10;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or used.
    #[error("cannot {operation} over netlink")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// The kernel refused.
    #[error("the kernel refused to {request}")]
    Refused {
        /// What was asked for.
        request: String,
        /// Its answer.
        #[source]
        source: Errno,
    },
    /// The answer is not one.
    #[error("unexpected netlink answer")]
    Answer,
}

impl NetlinkError {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => Some(*source),
            Self::Answer => None,
        }
    }
}

/// A request under construction. Lengths and padding are kept right as attributes are added.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// What it asks for, for errors.
    what: String,
}

impl Message {
    /// Starts a message of a type, with the fixed header that type needs.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8], what: impl Into<String>) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self {
            bytes,
            what: what.into(),
        }
    }

    /// Adds an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(start);
        self
    }

    /// Adds a string with its terminating zero.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end(start);
        self
    }

    /// Adds a number in network order, as nf_tables wants them.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds an attribute made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind | NLA_F_NESTED);
        inner(self);
        self.end(start);
        self
    }

    /// Adds raw bytes: a fixed header inside an attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        pad(&mut self.bytes);
        self
    }

    /// Asks for an acknowledgement.
    fn acknowledged(&mut self) {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | NLM_F_ACK;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The message as it is sent.
    pub(crate) fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let length = u32::try_from(bytes.len()).expect("a message is far below 4 GiB");
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute is below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A netlink socket of the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket for links, addresses and routes.
    pub(crate) fn route() -> Result<Self, NetlinkError> {
        Self::open(None)
    }

    /// Opens a socket for nf_tables.
    pub(crate) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(net::netlink::NETFILTER))
    }

    fn open(protocol: Option<net::Protocol>) -> Result<Self, NetlinkError> {
        let failed = |operation| move |source| NetlinkError::Socket { operation, source };
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let fd = net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)
            .map_err(failed("open a socket"))?;
        net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed("bind"))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(failed("set a time limit"))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&mut self, mut message: Message) -> Result<(), NetlinkError> {
        message.acknowledged();
        let sequence = self.next();
        self.send(&message.finish(sequence))?;
        match self.first_error_until(sequence)? {
            None => Ok(()),
            Some((_, source)) => Err(NetlinkError::Refused {
                request: message.what,
                source,
            }),
        }
    }

    /// Sends nf_tables messages as one transaction: all of it happens or none.
    pub(crate) fn transaction(&mut self, mut messages: Vec<Message>) -> Result<(), NetlinkError> {
        let Some(last) = messages.last_mut() else {
            return Ok(());
        };
        // Only the last one is acknowledged: an answer for each would overflow the socket's buffer. Errors always come.
        last.acknowledged();
        let begin = self.next();
        let mut bytes = nft::batch_begin().finish(begin);
        for message in &messages {
            let sequence = self.next();
            bytes.extend(message.finish(sequence));
        }
        let last = self.sequence;
        let end = self.next();
        bytes.extend(nft::batch_end().finish(end));
        self.send(&bytes)?;
        let Some((failed, source)) = self.first_error_until(last)? else {
            return Ok(());
        };
        let at = failed.wrapping_sub(begin).wrapping_sub(1) as usize;
        let request = messages
            .get(at)
            .map_or("commit the rules", |m| m.what.as_str())
            .to_owned();
        Err(NetlinkError::Refused { request, source })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        net::send(&self.fd, bytes, SendFlags::empty())
            .map(drop)
            .map_err(|source| NetlinkError::Socket {
                operation: "send",
                source,
            })
    }

    /// Reads answers up to that of message `last`; gives the first error with its message's number.
    ///
    /// The kernel works while `send` runs, so all answers are there already: after an error nothing is waited for.
    /// (A transaction that fails as a whole is answered for its first header only.)
    fn first_error_until(&self, last: u32) -> Result<Option<(u32, Errno)>, NetlinkError> {
        let mut buffer = vec![0; ANSWER_BYTES];
        let mut first = None;
        loop {
            let flags = if first.is_some() {
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            let received = match net::recv(&self.fd, buffer.as_mut_slice(), flags) {
                Ok((received, _)) => received,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if first.is_some() => return Ok(first),
                Err(source) => {
                    return Err(NetlinkError::Socket {
                        operation: "receive",
                        source,
                    });
                }
            };
            for (sequence, code) in answers(&buffer[..received])? {
                if code != 0 && first.is_none() {
                    first = Some((sequence, Errno::from_raw_os_error(-code)));
                }
                if sequence == last {
                    return Ok(first);
                }
            }
        }
    }
}

/// The numbers and error codes of the acknowledgements in a datagram; other messages are passed over.
fn answers(mut bytes: &[u8]) -> Result<Vec<(u32, i32)>, NetlinkError> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER {
        let length = read_u32(bytes, 0) as usize;
        if length < HEADER || length > bytes.len() {
            return Err(NetlinkError::Answer);
        }
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if kind == NLMSG_ERROR {
            if length < HEADER + 4 {
                return Err(NetlinkError::Answer);
            }
            found.push((read_u32(bytes, 8), read_u32(bytes, HEADER).cast_signed()));
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(found)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_what_is_nested_and_padding_is_left_out_of_them() {
        let mut message = Message::new(7, 0, &[1, 2, 3, 4], "x");
        message.nest(1, |m| {
            m.attr_str(2, "ab");
        });
        let bytes = message.finish(9);
        assert_eq!(bytes.len(), 16 + 4 + 4 + 8);
        assert_eq!(read_u32(&bytes, 0), 32);
        assert_eq!(read_u32(&bytes, 8), 9);
        assert_eq!(
            bytes[20..24],
            [12, 0, 1, 0x80],
            "the nest holds the padded attribute"
        );
        assert_eq!(bytes[24..32], [7, 0, 2, 0, b'a', b'b', 0, 0]);
    }

    #[test]
    fn a_cut_answer_is_an_error_and_not_a_panic() {
        let mut answer = Message::new(NLMSG_ERROR, 0, &(-2i32).to_ne_bytes(), "x").finish(5);
        assert_eq!(answers(&answer).unwrap(), [(5, -2)]);
        answer.truncate(18);
        assert!(answers(&answer).is_err());
        assert!(answers(&[255; 40]).is_err());
    }
}
