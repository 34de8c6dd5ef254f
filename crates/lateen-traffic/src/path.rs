//! Path canonicalisation: what stands between a peer's bytes and every matcher.
//!
//! Source: Envoy's `PathUtil` (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`) and Istio's
//! `meshConfig.pathNormalization`.

use std::borrow::Cow;

/// What is done to a path before anything looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathOptions {
    /// RFC 3986 normalisation: dot segments, needless percent-encoding, backslashes.
    pub normalize: bool,
    /// Adjacent slashes become one.
    pub merge_slashes: bool,
    /// What happens to `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is answered with 400.
    Reject,
    /// The client is redirected to the path with slashes (307).
    UnescapeAndRedirect,
    /// They become slashes.
    UnescapeAndForward,
}

/// Istio's levels, each a set of [`PathOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormPath {
    /// Nothing is done.
    None,
    /// RFC 3986 normalisation.
    #[default]
    Base,
    /// And slashes are merged.
    MergeSlashes,
    /// And escaped slashes are decoded first.
    DecodeAndMergeSlashes,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalized {
    /// It is canonical as it stands. No allocation was made.
    Unchanged,
    /// Use this path instead.
    Changed(String),
    /// Answer 307 with this location.
    Redirect(String),
    /// Answer 400.
    Rejected,
}

impl From<NormPath> for PathOptions {
    fn from(level: NormPath) -> Self {
        Self {
            normalize: level != NormPath::None,
            merge_slashes: matches!(
                level,
                NormPath::MergeSlashes | NormPath::DecodeAndMergeSlashes
            ),
            escaped_slashes: match level {
                NormPath::DecodeAndMergeSlashes => EscapedSlashes::UnescapeAndForward,
                _ => EscapedSlashes::Keep,
            },
        }
    }
}

/// The path without its query and fragment.
pub fn without_query(path: &str) -> &str {
    let end = path.bytes().position(|byte| matches!(byte, b'?' | b'#'));
    &path[..end.unwrap_or(path.len())]
}

/// The query without the question mark and without a fragment; empty if there is none.
pub fn query(path: &str) -> &str {
    let path = path.split_once('#').map_or(path, |(before, _)| before);
    path.split_once('?').map_or("", |(_, query)| query)
}

impl PathOptions {
    /// Canonicalises a path with its query; the query stays as it is.
    ///
    /// A path with a fragment is refused, as it is no path of a request (Envoy: `http_reject_path_with_fragment`), and one that
    /// holds `%00` when normalising.
    pub fn normalize(self, path: &str) -> Normalized {
        if path.contains('#') {
            return Normalized::Rejected;
        }
        let (bare, query) = path.split_at(without_query(path).len());
        let Some((unescaped, had_escapes)) = self.unescape(bare) else {
            return Normalized::Rejected;
        };
        let Some(canonical) = self.canonical(unescaped) else {
            return Normalized::Rejected;
        };
        let merged = if self.merge_slashes {
            merge_slashes(canonical)
        } else {
            canonical
        };
        let redirect = had_escapes && self.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
        match merged {
            Cow::Borrowed(same) if same.len() == bare.len() => Normalized::Unchanged,
            changed if redirect => Normalized::Redirect(changed.into_owned() + query),
            changed if *changed == *bare => Normalized::Unchanged,
            changed => Normalized::Changed(changed.into_owned() + query),
        }
    }

    /// The path after the action on escaped slashes, and whether there were any; `None` refuses it.
    fn unescape(self, path: &str) -> Option<(Cow<'_, str>, bool)> {
        if self.escaped_slashes == EscapedSlashes::Keep || !has_escaped_slash(path) {
            return Some((path.into(), false));
        }
        match self.escaped_slashes {
            EscapedSlashes::Reject => None,
            _ => Some((unescape_slashes(path).into(), true)),
        }
    }

    fn canonical(self, path: Cow<'_, str>) -> Option<Cow<'_, str>> {
        if !self.normalize || is_canonical(&path) {
            return Some(path);
        }
        let mut escaped = Vec::with_capacity(path.len() + 8);
        canonical_escapes(path.as_bytes(), &mut escaped)?;
        Some(
            String::from_utf8(remove_dot_segments(&escaped))
                .ok()?
                .into(),
        )
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|window| {
        window[0] == b'%'
            && matches!(
                (window[1], window[2]),
                (b'2', b'f' | b'F') | (b'5', b'c' | b'C')
            )
    })
}

fn unescape_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (decoded, length) = match rest.as_bytes().get(at + 1..at + 3) {
            Some([b'2', b'f' | b'F']) => ('/', 3),
            Some([b'5', b'c' | b'C']) => ('\\', 3),
            _ => ('%', 1),
        };
        out.push(decoded);
        rest = &rest[at + length..];
    }
    out + rest
}

/// Whether normalisation has nothing to do, told without a second look at any byte.
fn is_canonical(path: &str) -> bool {
    let mut previous = 0;
    path.starts_with('/')
        && path.bytes().all(|byte| {
            let dot_segment = previous == b'/' && byte == b'.';
            previous = byte;
            !dot_segment && byte != b'%' && byte != b'\\' && !must_escape(byte)
        })
}

/// Bytes that never stand in a path as they are. Source: the WHATWG URL standard's path percent-encode set, which Envoy's
/// canonicaliser (Chromium's) follows.
fn must_escape(byte: u8) -> bool {
    byte <= b' ' || byte >= 0x7f || matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}')
}

/// RFC 3986's unreserved characters: their escapes mean the same as they do.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes needless escapes, escapes what must be, and turns backslashes around. `None` if the path holds `%00`.
fn canonical_escapes(path: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => match tail
                .split_first_chunk::<2>()
                .and_then(|(digits, tail)| Some((hex(*digits)?, tail)))
            {
                Some((0, _)) => return None,
                Some((decoded, tail)) if is_unreserved(decoded) => {
                    out.push(decoded);
                    rest = tail;
                }
                _ => out.push(b'%'),
            },
            _ if must_escape(byte) => out.extend_from_slice(&escape(byte)),
            _ => out.push(byte),
        }
    }
    Some(())
}

fn hex(digits: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some(digit(digits[0])? << 4 | digit(digits[1])?)
}

fn escape(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [
        b'%',
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]
}

/// RFC 3986, section 5.2.4. A path never climbs above its root.
///
/// Servers that have parameters in segments take `..;x` for `..`, so it is that here (Envoy since CVE-2026-73551, which leaves
/// alone those that were escaped, as `%2e%2e;x`).
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment.split(|byte| *byte == b';').next() {
            Some(dots @ (b"." | b"..")) => {
                if dots == b".." {
                    kept.pop();
                }
                // A dot segment at the end leaves its slash.
                if last {
                    kept.push(b"");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    for segment in kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    out
}

fn merge_slashes(path: Cow<'_, str>) -> Cow<'_, str> {
    if !path.contains("//") {
        return path;
    }
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests;
