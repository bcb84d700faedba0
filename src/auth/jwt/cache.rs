//! [`TokenCache`]: tokens that were verified, so that it is done once.

use std::fmt;
use std::hash::{Hash, Hasher};

use equivalent::Equivalent;
use foldhash::fast::RandomState;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use zeroize::Zeroizing;

use crate::auth::jwt::claims::Times;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::tally::Tally;

/// Verified tokens, by their bytes. A token is found by a hash under a seed of this
/// cache, and then compared whole; nothing comes in whose signature was not good, so that
/// nobody can plant collisions.
pub(super) struct TokenCache {
    tokens: Cache<Token, Verified, UnitWeighter, RandomState>,
    hits: Tally,
    misses: Tally,
}

/// What is known of a token without verifying it anew.
#[derive(Clone)]
pub(super) struct Verified {
    pub(super) identity: Identity,
    /// Which of the issuers vouches for it.
    pub(super) issuer: usize,
    /// The epoch of the issuer's keys that it was verified in.
    pub(super) epoch: u64,
    pub(super) times: Times,
}

impl Verified {
    /// The same token, expired for ever.
    pub(super) fn ended(mut self) -> Self {
        self.times.expires = Some(Timestamp::EPOCH);
        self
    }
}

impl TokenCache {
    /// For so many tokens at the most.
    pub(super) fn new(capacity: usize) -> Self {
        let (weighter, hasher) = (UnitWeighter, RandomState::default());
        let tokens = Cache::with(
            capacity,
            capacity as u64,
            weighter,
            hasher,
            Default::default(),
        );
        Self {
            tokens,
            hits: Tally::default(),
            misses: Tally::default(),
        }
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<Verified> {
        let known = self.tokens.get(&Shown(token));
        match known {
            Some(_) => self.hits.add(),
            None => self.misses.add(),
        }
        known
    }

    pub(super) fn insert(&self, token: &[u8], verified: Verified) {
        if token.len() <= MOST_CACHED {
            self.tokens
                .insert(Token(Zeroizing::new(token.into())), verified);
        }
    }

    pub(super) fn remove(&self, token: &[u8]) {
        self.tokens.remove(&Shown(token));
    }

    /// How often a token was known, and how often it was not.
    pub(super) fn lookups(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The bytes of a token, wiped when they are dropped.
#[derive(Clone, Eq, PartialEq)]
struct Token(Zeroizing<Box<[u8]>>);

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// The bytes of a token that is looked for.
struct Shown<'t>(&'t [u8]);

impl Hash for Shown<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0);
    }
}

impl Equivalent<Token> for Shown<'_> {
    fn equivalent(&self, token: &Token) -> bool {
        *self.0 == **token.0
    }
}

/// Longer tokens are verified each time.
const MOST_CACHED: usize = 4 * 1024;
