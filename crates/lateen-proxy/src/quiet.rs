//! When a worker has become quiet enough to give memory back.
//!
//! An allocator keeps what a thread has freed for that thread's next use, and looks at what it keeps only while it is asked for more. A burst of
//! connections that is over leaves a worker with the memory of the burst. So it is told to give that back, once the connections
//! are at most half of what they were, or when a configuration has been replaced.

use std::cell::Cell;

/// Fewer connections than this hold too little to be worth it.
const FEW: usize = 16;

/// What a worker held at most since it last gave memory back.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    most: Cell<usize>,
    version: Cell<u64>,
}

impl Quiet {
    /// Whether memory is to be given back now, with so many connections and this version of the configuration. Asked once a second.
    pub(crate) fn has_come(&self, connections: usize, version: u64) -> bool {
        let most = self.most.get().max(connections);
        let fewer = most >= FEW && connections <= most / 2;
        let replaced = self.version.replace(version) != version;
        let comes = fewer || replaced;
        self.most.set(if comes { connections } else { most });
        comes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_once_after_a_burst_and_after_a_new_configuration() {
        let quiet = Quiet::default();
        assert!(quiet.has_come(0, 1), "the first configuration");
        for connections in [3, 100, 400, 390] {
            assert!(!quiet.has_come(connections, 1));
        }
        assert!(quiet.has_come(200, 1));
        assert!(!quiet.has_come(150, 1));
        assert!(quiet.has_come(100, 1));
        assert!(quiet.has_come(0, 1));
        assert!(!quiet.has_come(0, 1));
        assert!(quiet.has_come(0, 2));
        for connections in [10, 2, 9, 0] {
            assert!(!quiet.has_come(connections, 2), "a handful is not worth it");
        }
    }
}
