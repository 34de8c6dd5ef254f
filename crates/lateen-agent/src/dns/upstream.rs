//! Passing queries on: all servers are asked at once and the first good answer counts.
//!
//! Queries and answers are passed on as bytes, with another id, so that whatever a record holds arrives as it was.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};

use super::query::Protocol;

/// How other servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamOptions {
    /// The servers.
    pub servers: Vec<SocketAddr>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The mark of the sockets, by which redirection does not send the query back to us.
    pub mark: Option<u32>,
}

/// Asks other servers.
#[derive(Clone, Debug)]
pub struct Upstream {
    options: UpstreamOptions,
}

impl Upstream {
    /// Asks these.
    pub fn new(options: UpstreamOptions) -> Self {
        Self { options }
    }

    /// The answer of whichever server is first with a good one; a failure counts only if there is nothing better. `None` if none
    /// answers in time. Cancel-safe: nothing outlives the future.
    pub async fn ask(&self, query: &[u8], protocol: Protocol) -> Option<Vec<u8>> {
        let servers = self.options.servers.iter();
        let mut asked: FuturesUnordered<_> = servers
            .map(|server| self.ask_one(*server, query, protocol))
            .collect();
        let mut failure = None;
        let first_good = async {
            while let Some(answer) = asked.next().await {
                match answer {
                    Ok((answer, true)) => return Some(answer),
                    Ok((answer, false)) => failure = Some(answer),
                    Err(error) => tracing::debug!(%error, "a name server does not answer"),
                }
            }
            None
        };
        let answer = tokio::time::timeout(self.options.timeout, first_good).await;
        answer.ok().flatten().or(failure)
    }

    /// An answer, and whether it is a good one: "no such name" is.
    async fn ask_one(
        &self,
        server: SocketAddr,
        query: &[u8],
        protocol: Protocol,
    ) -> io::Result<(Vec<u8>, bool)> {
        let request = Message::from_vec(query).map_err(io::Error::other)?;
        let id: u16 = rand::random();
        let mut sent = query.to_vec();
        set_id(&mut sent, id);
        let mut answer = match protocol {
            Protocol::Udp => self.over_udp(server, &sent, &request, id).await?,
            Protocol::Tcp => self.over_tcp(server, &sent).await?,
        };
        let Some(code) = verdict(&answer, &request, id) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "answer to another question",
            ));
        };
        set_id(&mut answer, request.metadata.id);
        Ok((
            answer,
            matches!(code, ResponseCode::NoError | ResponseCode::NXDomain),
        ))
    }

    /// Each query has a socket and so a port of its own, which an attacker off the path would have to guess with the id.
    async fn over_udp(
        &self,
        server: SocketAddr,
        query: &[u8],
        request: &Message,
        id: u16,
    ) -> io::Result<Vec<u8>> {
        let local = match server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(local).await?;
        if let Some(mark) = self.options.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(server).await?;
        socket.send(query).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let answer = buffer.get(..length).unwrap_or_default();
            // A stray or forged datagram does not end the wait for the right one.
            if verdict(answer, request, id).is_some() {
                return Ok(answer.to_vec());
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = match server {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(mark) = self.options.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        let mut stream = socket.connect(server).await?;
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes(), query].concat())
            .await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

/// The response code of an answer to a query, both as bytes, that was asked under this number; `None` if it is none.
pub fn response_code(answer: &[u8], query: &[u8], id: u16) -> Option<ResponseCode> {
    verdict(answer, &Message::from_vec(query).ok()?, id)
}

/// The response code, if it is an answer to our question.
fn verdict(answer: &[u8], request: &Message, id: u16) -> Option<ResponseCode> {
    let answer = Message::from_vec(answer).ok()?;
    let ours = answer.metadata.id == id
        && answer.metadata.message_type == MessageType::Response
        && (answer.queries == request.queries || answer.queries.is_empty());
    ours.then_some(answer.metadata.response_code)
}

fn set_id(message: &mut [u8], id: u16) {
    if let Some(head) = message.get_mut(..2) {
        head.copy_from_slice(&id.to_be_bytes());
    }
}
