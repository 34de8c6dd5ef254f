//! A list in blocks that its versions share: a file each, so that an edit makes one of them anew and not the list.

use std::sync::Arc;

/// A list in blocks. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Blocks<T>(Vec<Arc<[T]>>);

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Blocks<T> {
    /// All of it, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.0.iter().flat_map(|block| block.iter())
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.0.iter().map(|block| block.len()).sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blocks, of which some may be empty.
    pub fn blocks(&self) -> &[Arc<[T]>] {
        &self.0
    }
}

impl<T: Clone> Blocks<T> {
    /// The list in one piece, for who looks at all of it anyway.
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().cloned().collect()
    }
}

impl<T> From<Vec<T>> for Blocks<T> {
    fn from(list: Vec<T>) -> Self {
        Self(vec![list.into()])
    }
}

impl<T> FromIterator<Arc<[T]>> for Blocks<T> {
    fn from_iter<I: IntoIterator<Item = Arc<[T]>>>(blocks: I) -> Self {
        Self(blocks.into_iter().collect())
    }
}
