//! Makes inputs out of a corpus: the same seed gives the same inputs. The one home of it, for manifests and for bytes of the network.

/// Inputs grow no larger than this, in bytes: small ones find more per second.
const MAX_INPUT: usize = 16 << 10;

/// What YAML, templates and limits are sensitive to.
const TOKENS: &[&str] = &[
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "---\n",
    "...\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!str ",
    "!!int ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "? ",
    "null",
    "~",
    "yes",
    "0755",
    "1e999",
    ".nan",
    "-0",
    "{{ .x }}",
    "%",
    "\u{feff}",
    "\u{202e}",
    "\r\n",
    "\\u0000",
    "99999999999999999999",
    "é",
    "spec:\n",
    "kind: List\nitems:\n",
    "*",
    "1h30m",
    "-5s",
    "(((",
    "x{1000}{1000}",
    "10.0.0.0/33",
    "unix://",
    "@",
    "`",
    "regex: \"(\"",
    "outbound_.80_._.a.b",
];

/// One input of `corpus`, changed in a few places: manifests.
pub(crate) fn manifest(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    bytes(corpus, TOKENS, random)
}

/// One input of `corpus`, changed in a few places byte by byte, with words that its parser knows.
pub(crate) fn bytes(corpus: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    for _ in 0..random.below(8) + 1 {
        let at = random.below(input.len() + 1);
        let end = at + random.below((input.len() - at).min(64) + 1);
        match random.below(10) {
            0 => {
                input.drain(at..end);
            }
            1 => {
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            2 => {
                input.splice(at..end, random.word(words).bytes());
            }
            3 => {
                input.splice(at..at, random.word(words).bytes());
            }
            4 if at < input.len() => input[at] = random.next() as u8,
            5 => {
                let other = random.pick(corpus);
                let from = random.below(other.len() + 1);
                let to = from + random.below((other.len() - from).min(256) + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            6 => input.truncate(at),
            7 if at < input.len() => input[at] ^= 1 << random.below(8),
            // Lengths and numbers at their edges.
            8 if at < input.len() => input[at] = *random.pick(&[0, 0x7f, 0x80, 0xff]),
            _ => {
                let times = random.below(40);
                let piece = random.word(words).repeat(times);
                input.splice(at..at, piece.bytes());
            }
        }
        input.truncate(MAX_INPUT);
    }
    input
}

/// One input of `corpus`, changed in a few places, line by line: most of what comes out still parses.
///
/// A line takes the value that some other line has under the same key, or a token; lines go, and come twice.
pub(crate) fn lines(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let text = String::from_utf8_lossy(random.pick::<Vec<u8>>(corpus)).into_owned();
    let donor = String::from_utf8_lossy(random.pick::<Vec<u8>>(corpus)).into_owned();
    let donors: Vec<&str> = donor.lines().collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..random.below(6) + 1 {
        if lines.is_empty() || donors.is_empty() {
            break;
        }
        let at = random.below(lines.len());
        match random.below(8) {
            0 => {
                lines.remove(at);
            }
            1 => {
                let line = lines[at].clone();
                lines.insert(at, line);
            }
            2 => {
                let token: &&str = random.pick(TOKENS);
                lines[at] = with_value(&lines[at], token);
            }
            3 => {
                let number: &&str = random.pick(NUMBERS);
                lines[at] = with_value(&lines[at], number);
            }
            _ => {
                let key = key(&lines[at]).to_owned();
                let same: Vec<&&str> = donors
                    .iter()
                    .filter(|line| self::key(line) == key)
                    .collect();
                if !same.is_empty() {
                    let value = value(same[random.below(same.len())]).to_owned();
                    lines[at] = with_value(&lines[at], &value);
                }
            }
        }
    }
    lines.join("\n").into_bytes()
}

fn key(line: &str) -> &str {
    line.split_once(':')
        .map_or(line, |(key, _)| key)
        .trim_start_matches([' ', '-'])
}

fn value(line: &str) -> &str {
    line.split_once(':').map_or("", |(_, value)| value).trim()
}

fn with_value(line: &str, value: &str) -> String {
    let head = line.split_once(':').map_or(line, |(head, _)| head);
    format!("{head}: {value}")
}

/// Numbers and durations at the edges of what fields take.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "80",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "0.0001",
    "100",
    "101",
    "0s",
    "1ms",
    "1ns",
    "8760h",
    "\"\"",
    "[]",
    "{}",
    "true",
    "\"*\"",
];

/// xorshift64*: repeatable, and good enough to choose with.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    /// One of some words; the empty one if there are none.
    fn word<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.get(self.below(words.len())).copied().unwrap_or("")
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
