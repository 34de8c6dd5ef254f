//! Label values, kept once: twenty series of one workload share its name.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A set of shared strings.
#[derive(Debug, Default)]
pub(crate) struct Strings(Mutex<HashSet<Arc<str>, foldhash::fast::RandomState>>);

impl Strings {
    fn set(&self) -> MutexGuard<'_, HashSet<Arc<str>, foldhash::fast::RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn intern(&self, text: &str) -> Arc<str> {
        let mut set = self.set();
        if let Some(known) = set.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        set.insert(Arc::clone(&new));
        new
    }

    /// Forgets strings that only this set holds.
    pub(crate) fn sweep(&self) {
        self.set().retain(|text| Arc::strong_count(text) > 1);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.set().len()
    }
}
