//! [`Keys`]: where the keys of an issuer come from.

use crate::jwks::algorithm::Algorithm;
use crate::jwks::set::KeySet;

/// Where the keys of an issuer come from: a [`KeySet`].
#[derive(Clone, Debug)]
pub struct Keys(pub(crate) Origin);

#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Set(KeySet),
}

impl Keys {
    /// The algorithms of those that are secrets.
    pub(crate) fn secret_algorithms(&self) -> Vec<Algorithm> {
        match &self.0 {
            Origin::Set(set) => {
                let named = set.keys.iter().filter_map(|key| key.alg);
                named.filter(|alg| alg.least_secret().is_some()).collect()
            }
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self(Origin::Set(KeySet::default()))
    }
}

impl From<KeySet> for Keys {
    fn from(set: KeySet) -> Self {
        Self(Origin::Set(set))
    }
}
