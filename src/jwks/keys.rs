//! [`Keys`]: where the keys of an issuer come from.

use crate::jwks::algorithm::Algorithm;
use crate::jwks::remote::RemoteKeys;
use crate::jwks::set::KeySet;

/// Where the keys of an issuer come from: a [`KeySet`], or [`RemoteKeys`]. Unless said, they
/// are discovered from the issuer.
#[derive(Clone, Debug)]
pub struct Keys(pub(crate) Origin);

#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Set(KeySet),
    Remote(RemoteKeys),
}

impl Keys {
    /// Whether everybody can fetch them: then they are no secrets.
    pub(crate) const fn is_public(&self) -> bool {
        matches!(self.0, Origin::Remote(_))
    }

    /// The algorithms of secrets, if there are any; none if there are public keys beside
    /// them.
    pub(crate) fn secret_algorithms(&self) -> Option<Vec<Algorithm>> {
        match &self.0 {
            Origin::Set(set) => {
                let named = set.keys.iter().filter_map(|key| key.alg);
                let secrets: Vec<_> = named.filter(|alg| alg.least_secret().is_some()).collect();
                let is_pure = secrets.is_empty() || secrets.len() == set.keys.len();
                is_pure.then_some(secrets)
            }
            Origin::Remote(_) => Some(Vec::new()),
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        RemoteKeys::discover().into()
    }
}

impl From<KeySet> for Keys {
    fn from(set: KeySet) -> Self {
        Self(Origin::Set(set))
    }
}

impl From<RemoteKeys> for Keys {
    fn from(keys: RemoteKeys) -> Self {
        Self(Origin::Remote(keys))
    }
}
