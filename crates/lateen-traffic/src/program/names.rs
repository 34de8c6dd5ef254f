//! Values by name: hashed for the request path, ordered for everyone who lists them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Values by name. Cloning shares every value.
#[derive(Clone, Debug)]
pub struct ByName<T> {
    lookup: HashMap<Arc<str>, Arc<T>, FixedState>,
    ordered: BTreeMap<Arc<str>, Arc<T>>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            lookup: HashMap::default(),
            ordered: BTreeMap::new(),
        }
    }
}

impl<T> ByName<T> {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.lookup.get(name)
    }

    /// All of them, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.ordered.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }

    pub(super) fn insert(&mut self, name: Arc<str>, value: Arc<T>) {
        self.lookup.insert(name.clone(), value.clone());
        self.ordered.insert(name, value);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.lookup.remove(name);
        self.ordered.remove(name);
    }
}
