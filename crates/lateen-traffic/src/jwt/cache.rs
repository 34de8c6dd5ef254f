//! Tokens whose signature has been verified before, so that a client's every request does not cost a verification.
//!
//! Only good tokens are kept, under a digest of token and key set: other keys mean another entry. Everything that depends on the
//! time or on the rule is checked again each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::token::Token;

/// The digest of a key set and a token.
pub(super) type Fingerprint = [u8; 32];

/// Bytes of the largest token that is kept. Source: Envoy, `jwt_max_token_size`.
pub(super) const MAX_CACHED_BYTES: usize = 4096;

/// A bounded map of verified tokens, of which those not used lately are forgotten first.
///
/// It has two generations: a token that is used moves to the younger one, and when that is full the older one is dropped whole.
#[derive(Debug)]
pub struct TokenCache {
    young: BTreeMap<Fingerprint, Arc<Token>>,
    old: BTreeMap<Fingerprint, Arc<Token>>,
    /// Tokens of one generation.
    half: usize,
    hits: u64,
    misses: u64,
}

impl Default for TokenCache {
    /// 1024 tokens: about 8 MiB if all of them are as large as they may be.
    fn default() -> Self {
        Self::new(1024)
    }
}

impl TokenCache {
    /// A cache of so many tokens; with 0 nothing is kept.
    pub fn new(tokens: usize) -> Self {
        Self {
            young: BTreeMap::new(),
            old: BTreeMap::new(),
            half: tokens / 2,
            hits: 0,
            misses: 0,
        }
    }

    /// How often a token was found, and how often not.
    pub const fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    pub(super) fn get(&mut self, fingerprint: &Fingerprint) -> Option<Arc<Token>> {
        if let Some(token) = self.young.get(fingerprint) {
            self.hits += 1;
            return Some(Arc::clone(token));
        }
        if let Some(token) = self.old.remove(fingerprint) {
            self.hits += 1;
            self.insert(*fingerprint, Arc::clone(&token));
            return Some(token);
        }
        self.misses += 1;
        None
    }

    pub(super) fn insert(&mut self, fingerprint: Fingerprint, token: Arc<Token>) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(fingerprint, token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::token;

    fn some_token() -> Arc<Token> {
        let (token, _) = token::parse(b"eyJhbGciOiJSUzI1NiJ9.e30.AA").unwrap();
        Arc::new(token)
    }

    #[test]
    fn it_never_grows_beyond_its_size_and_forgets_what_is_not_used() {
        let mut cache = TokenCache::new(8);
        let used = [255; 32];
        cache.insert(used, some_token());
        for n in 0..100_u8 {
            cache.insert([n; 32], some_token());
            assert!(cache.get(&used).is_some(), "{n}");
            assert!(cache.len() <= 8, "{}", cache.len());
        }
        assert!(cache.get(&[0; 32]).is_none());
        assert!(cache.get(&[99; 32]).is_some());
    }

    #[test]
    fn a_cache_of_nothing_keeps_nothing() {
        let mut cache = TokenCache::new(0);
        cache.insert([1; 32], some_token());
        assert!(cache.is_empty());
        assert_eq!(cache.get(&[1; 32]).map(|_| ()), None);
        assert_eq!(cache.hits_and_misses(), (0, 1));
    }
}
