//! [`Principal`]: the name under which a caller is counted.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

/// The name under which a caller is counted: (source, tenant, subject).
///
/// Two principals are equal only if all three parts are equal: the owner `42` of a key and the subject
/// `42` of a token differ. The hash is computed once, under a random key of this process.
#[derive(Clone, Eq, PartialEq)]
pub struct Principal {
    hash: u64,
    pub(super) source: Arc<str>,
    pub(super) tenant: Option<Box<str>>,
    pub(super) subject: Box<str>,
}

impl Principal {
    pub(super) fn new(source: Arc<str>, tenant: Option<Box<str>>, subject: Box<str>) -> Self {
        // A seed, not a setting: equal principals must hash alike wherever they
        // were resolved, and callers must not be able to choose collisions.
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = SEED.hash_one((&source, &tenant, &subject));
        Self {
            hash,
            source,
            tenant,
            subject,
        }
    }

    /// Returns the hash under a random key of this process.
    pub(crate) const fn keyed_hash(&self) -> u64 {
        self.hash
    }

    /// Returns the party that vouches for the subject: the keyspace of a key, the issuer of a token.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The tenant that the subject belongs to.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The owner of the key, or the `sub` of the token.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("source", &self.source)
            .field("tenant", &self.tenant)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}
