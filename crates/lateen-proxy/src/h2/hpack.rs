//! Header compression (RFC 7541).
//!
//! Fields are kept in the form they are used in: what a peer repeats is parsed once, and handed out as a copy that shares its bytes. What
//! fields mean together is told by [`super::head`].

mod decode;
mod encode;
mod field;
mod huffman;

#[cfg(test)]
mod tests;

pub(crate) use self::decode::Decoder;
pub(crate) use self::encode::Encoder;
pub(crate) use self::field::Field;

/// Bytes of a table of fields: the protocol's default, and the most that either side keeps here.
pub(crate) const TABLE: usize = 4096;
/// What a field counts beside its bytes (RFC 7541 section 4.1).
const OVERHEAD: usize = 32;
/// Fields of the static table.
const STATIC: usize = 61;
