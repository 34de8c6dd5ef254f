//! From a query's bytes to an answer's bytes, without sockets.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::table::{Found, Table, normal};

/// Seconds a client may keep an answer. Istio's.
const TTL: u32 = 30;
/// Smallest and largest answer over UDP, in bytes: RFC 1035's, and the usual limit of resolvers for EDNS.
const UDP_SIZES: (usize, usize) = (512, 4096);

/// What comes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Send these bytes.
    Locally(Vec<u8>),
    /// Ask another server; these are the bytes to send if none answers.
    AskUpstream {
        /// `SERVFAIL` for the same query.
        on_failure: Vec<u8>,
    },
    /// Not a query: send nothing, so that two servers never answer each other for ever.
    Nothing,
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams, with a limit on their size.
    Udp,
    /// A stream.
    Tcp,
}

/// Answers a query. Without a table nothing is known yet, which is a failure and not a "no such name". `shuffle` gives a number
/// below its argument, by which several addresses take turns.
pub fn answer(
    query: &[u8],
    table: Option<&Table>,
    protocol: Protocol,
    shuffle: &mut dyn FnMut(usize) -> usize,
) -> Answered {
    let Ok(request) = Message::from_vec(query) else {
        return malformed(query);
    };
    if request.metadata.message_type != MessageType::Query {
        return Answered::Nothing;
    }
    let limit = limit(&request, protocol);
    let fail = |code| encode(reply(&request, code), limit);
    let [question] = request.queries.as_slice() else {
        return Answered::Locally(fail(ResponseCode::FormErr));
    };
    if request.metadata.op_code != OpCode::Query {
        return Answered::Locally(fail(ResponseCode::NotImp));
    }
    let Some(table) = table else {
        return Answered::Locally(fail(ResponseCode::ServFail));
    };
    let name = normal(&question.name().to_ascii());
    let is_address = matches!(question.query_type(), RecordType::A | RecordType::AAAA);
    match table.find(&name) {
        Some(found) if is_address => {
            let records = records(question, found, shuffle);
            Answered::Locally(encode(authoritative(&request, records), limit))
        }
        // The name exists, but only the server that holds the other kinds of records can say more.
        Some(_) if table.is_authority(&name) => {
            Answered::Locally(encode(authoritative(&request, Vec::new()), limit))
        }
        None if table.is_authority(&name) => {
            let mut missing = reply(&request, ResponseCode::NXDomain);
            missing.metadata.authoritative = true;
            Answered::Locally(encode(missing, limit))
        }
        _ => Answered::AskUpstream {
            on_failure: fail(ResponseCode::ServFail),
        },
    }
}

/// A known name without an address of the family that was asked for is answered with no records and no error: "no such name"
/// would make clients give up the other family too (istio/istio#31250).
fn records(
    question: &Query,
    found: Found<'_>,
    shuffle: &mut dyn FnMut(usize) -> usize,
) -> Vec<Record> {
    let mut data: Vec<RData> = match question.query_type() {
        RecordType::A => found.v4.iter().copied().map(a).collect(),
        _ => found.v6.iter().copied().map(aaaa).collect(),
    };
    for last in (1..data.len()).rev() {
        data.swap(last, shuffle(last + 1));
    }
    let asked = question.name().clone();
    let canonical = found
        .canonical
        .and_then(|name| Name::from_ascii(format!("{name}.")).ok());
    let Some(canonical) = canonical.filter(|_| !data.is_empty()) else {
        return data
            .into_iter()
            .map(|data| Record::from_rdata(asked.clone(), TTL, data))
            .collect();
    };
    // Chained: some clients do not follow a CNAME by themselves.
    let alias = Record::from_rdata(asked, TTL, RData::CNAME(CNAME(canonical.clone())));
    let addresses = data
        .into_iter()
        .map(|data| Record::from_rdata(canonical.clone(), TTL, data));
    std::iter::once(alias).chain(addresses).collect()
}

fn a(ip: Ipv4Addr) -> RData {
    RData::A(A(ip))
}

fn aaaa(ip: Ipv6Addr) -> RData {
    RData::AAAA(AAAA(ip))
}

fn authoritative(request: &Message, answers: Vec<Record>) -> Message {
    let mut response = reply(request, ResponseCode::NoError);
    response.metadata.authoritative = true;
    response.answers = answers;
    response
}

fn reply(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::error_msg(request.metadata.id, request.metadata.op_code, code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(u16::try_from(UDP_SIZES.1).unwrap_or(u16::MAX));
        response.edns = Some(edns);
    }
    response
}

/// The longest answer the client takes.
fn limit(request: &Message, protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => usize::from(u16::MAX),
        Protocol::Udp => {
            let wanted = request
                .edns
                .as_ref()
                .map_or(0, |edns| usize::from(edns.max_payload()));
            wanted.clamp(UDP_SIZES.0, UDP_SIZES.1)
        }
    }
}

/// Encodes; what does not fit is left out and marked as truncated, so that the client asks again over TCP.
fn encode(mut response: Message, limit: usize) -> Vec<u8> {
    loop {
        match response.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            _ if response.answers.is_empty() => return Vec::new(),
            _ => {
                response.metadata.truncation = true;
                let keep = response.answers.len() / 2;
                response.answers.truncate(keep);
            }
        }
    }
}

/// A query that cannot be read is told so if its id can.
fn malformed(query: &[u8]) -> Answered {
    let [high, low, flags, ..] = query else {
        return Answered::Nothing;
    };
    // The first bit of the flags says that it is a response.
    if flags & 0x80 != 0 || query.len() < 12 {
        return Answered::Nothing;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Answered::Locally(encode(response, UDP_SIZES.0))
}
