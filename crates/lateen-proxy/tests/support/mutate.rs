//! Bytes made from other bytes, for fuzzing: the same sequence for the same seed.

use std::path::Path;

/// The longest input that is made.
const MAX_LENGTH: usize = 8 * 1024;

/// The corpus of a target.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus")).join(name);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
        .iter()
        .map(|file| unhex(&std::fs::read_to_string(file).unwrap()))
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let digits: Vec<u32> = lines
        .flat_map(str::chars)
        .filter_map(|c| c.to_digit(16))
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// Makes inputs out of seeds.
pub(crate) struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
    current: Vec<u8>,
}

impl Mutator {
    /// One for some seeds.
    pub(crate) fn new(state: u64, seeds: Vec<Vec<u8>>) -> Self {
        Self {
            state: state | 1,
            seeds,
            current: Vec::new(),
        }
    }

    /// xorshift64*: no crate, and the same everywhere.
    fn next(&mut self) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        usize::try_from(self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap()
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }

    /// The next input.
    pub(crate) fn mutated(&mut self) -> &[u8] {
        let seed = self.below(self.seeds.len());
        self.current = self.seeds[seed].clone();
        for _ in 0..=self.below(6) {
            self.mutate();
        }
        self.current.truncate(MAX_LENGTH);
        &self.current
    }

    fn mutate(&mut self) {
        let at = self.below(self.current.len() + 1);
        let byte = u8::try_from(self.below(256)).unwrap();
        match self.below(8) {
            0 => self.current.truncate(at),
            1 => self.current.insert(at, byte),
            2 if at < self.current.len() => drop(self.current.remove(at)),
            3 if at < self.current.len() => self.current[at] = byte,
            4 if at < self.current.len() => self.current[at] ^= 1 << (byte % 8),
            // Lengths and numbers at their edges.
            5 if at < self.current.len() => {
                self.current[at] = [0, 0x7f, 0x80, 0xff][usize::from(byte % 4)]
            }
            6 => {
                let other = self.below(self.seeds.len());
                let from = self.below(self.seeds[other].len() + 1);
                let piece = self.seeds[other][from..].to_vec();
                self.current.truncate(at);
                self.current.extend(piece);
            }
            _ => {
                let end = (at + self.below(16)).min(self.current.len());
                let piece = self.current[at..end].to_vec();
                self.current.extend(piece);
            }
        }
    }
}
