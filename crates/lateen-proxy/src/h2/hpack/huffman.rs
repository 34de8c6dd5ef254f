//! Strings in Huffman code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so the lengths say it all. It is read, never
//! written: what it saves on the wire costs more than it is worth between a proxy and its neighbours.

/// Bits of each symbol's code; the last is the end of a string, which no string holds.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The symbol that is none.
const END: u16 = 256;
/// The longest code.
const LONGEST: usize = 30;
/// Bits that are looked up at once: most text has no longer codes.
const AT_ONCE: u32 = 8;

/// The codes of each length: the first one, how many there are, and where their symbols begin.
struct Codes {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    from: [usize; LONGEST + 1],
    symbols: [u16; 257],
}

const CODES: Codes = codes();
/// The symbol and its length for what begins with these bits; a length of 0 if the code is longer.
static SHORT: [(u8, u8); 1 << AT_ONCE] = short();

const fn codes() -> Codes {
    let mut codes = Codes {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        from: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut code, mut at) = (1, 0, 0);
    while length <= LONGEST {
        code <<= 1;
        codes.first[length] = code;
        codes.from[length] = at;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                codes.symbols[at] = symbol as u16;
                codes.count[length] += 1;
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    codes
}

const fn short() -> [(u8, u8); 1 << AT_ONCE] {
    let mut table = [(0, 0); 1 << AT_ONCE];
    let mut length = 1;
    while length <= AT_ONCE as usize {
        let mut nth = 0;
        while nth < CODES.count[length] {
            let symbol = CODES.symbols[CODES.from[length] + nth as usize] as u8;
            let free = AT_ONCE - length as u32;
            let start = (CODES.first[length] + nth) << free;
            let mut rest = 0;
            while rest < 1 << free {
                table[(start + rest) as usize] = (symbol, length as u8);
                rest += 1;
            }
            nth += 1;
        }
        length += 1;
    }
    table
}

/// Appends the text of a string; `None` if it is none: its padding is wrong, or it holds its own end.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut coded = coded.iter();
    let (mut bits, mut have) = (0_u64, 0_u32);
    loop {
        while have <= 56 {
            let Some(byte) = coded.next() else { break };
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        let (symbol, length) = SHORT[(bits >> (64 - AT_ONCE)) as usize];
        let length = u32::from(length);
        if length > 0 && length <= have {
            out.push(symbol);
            bits <<= length;
            have -= length;
            continue;
        }
        let Some((symbol, length)) = long(bits, have) else {
            break;
        };
        out.push(u8::try_from(symbol).ok().filter(|_| symbol != END)?);
        bits <<= length;
        have -= length;
    }
    // What is left is the beginning of the end: less than a byte of ones.
    let ones = have < 8 && bits == !(u64::MAX >> have);
    ones.then_some(())
}

/// The symbol whose code the bits begin with, and its length, where it is longer than what is looked up.
fn long(bits: u64, have: u32) -> Option<(u16, u32)> {
    (AT_ONCE + 1..=have.min(LONGEST as u32)).find_map(|length| {
        let at = length as usize;
        let nth = ((bits >> (64 - length)) as u32).checked_sub(CODES.first[at])?;
        (nth < CODES.count[at]).then(|| (CODES.symbols[CODES.from[at] + nth as usize], length))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Encodes a text, for tests.
    pub(crate) fn encode(text: &[u8]) -> Vec<u8> {
        let (mut out, mut bits, mut have) = (Vec::new(), 0_u64, 0);
        for byte in text {
            let length = LENGTHS[usize::from(*byte)] as usize;
            let symbols = &CODES.symbols[CODES.from[length]..];
            let nth = symbols.iter().position(|s| *s == u16::from(*byte)).unwrap();
            bits = bits << length | u64::from(CODES.first[length] + nth as u32);
            have += length;
            while have >= 8 {
                have -= 8;
                out.push((bits >> have) as u8);
            }
        }
        if have > 0 {
            out.push((bits << (8 - have)) as u8 | 0xff >> have);
        }
        out
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn strings_of_the_standard_are_read() {
        let cases: [(&[u8], &[u8]); 5] = [
            (
                b"www.example.com",
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
            ),
            (b"no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            (b"302", &[0x64, 0x02]),
            (b"private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
            (b"", &[]),
        ];
        for (text, coded) in cases {
            assert_eq!(decoded(coded).as_deref(), Some(text));
            assert_eq!(encode(text), coded);
        }
    }

    #[test]
    fn wrong_padding_and_an_end_within_are_refused() {
        assert_eq!(decoded(&[0x64, 0x02, 0xff]), None, "a byte of padding");
        assert_eq!(decoded(&[0x18]), None, "padding of zeros");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end");
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xfc, 0x18]),
            None,
            "the end, then more"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_comes_back(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            proptest::prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }

        #[test]
        fn nothing_makes_it_panic(coded in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = decoded(&coded);
        }
    }
}
