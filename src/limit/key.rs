//! [`LimitKey`]: who shares a budget.

use std::fmt;
use std::hash::BuildHasher;

use ipnet::IpNet;
#[cfg(any(feature = "redis", test))]
use sha2::{Digest, Sha256};

use crate::config::{ConfigError, literal};
use crate::identity::Principal;

/// Who shares a budget: a caller, or a caller on a route, or whatever a limit counts by.
///
/// It is made of typed parts, and two are equal only if all parts are: neither `a:b` and
/// `c`, nor the tenant `42` and the header value `42`, can be taken for each other.
///
/// ```
/// use tollgate::Identity;
/// use tollgate::limit::LimitKey;
///
/// let identity = Identity::for_test().subject("acct_1").build();
/// let key = LimitKey::principal(identity.principal()).and(LimitKey::route("GET", "/orders/{id}"));
/// assert_ne!(key, LimitKey::principal(identity.principal()));
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LimitKey<'k> {
    /// The name of the layer whose budgets these are.
    layer: &'k str,
    parts: [Option<Part<'k>>; MOST_PARTS],
}

#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) enum Part<'k> {
    Principal(&'k Principal),
    Tenant(&'k str),
    Route {
        method: &'k str,
        template: &'k str,
    },
    Network(IpNet),
    Header(&'k [u8]),
    Custom(&'k str),
    /// Of each kind: nothing is known that it could be counted by.
    Missing(Missing),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub(crate) enum Missing {
    Tenant,
    Route,
    Network,
    Header,
    Custom,
}

impl<'k> LimitKey<'k> {
    /// A caller, whatever credential they show.
    #[must_use]
    pub fn principal(principal: &'k Principal) -> Self {
        Self::of(Part::Principal(principal))
    }

    /// All callers of a tenant together.
    #[must_use]
    pub fn tenant(tenant: &'k str) -> Self {
        Self::of(Part::Tenant(tenant))
    }

    /// All clients of a network together.
    #[must_use]
    pub fn network(network: IpNet) -> Self {
        Self::of(Part::Network(network.trunc()))
    }

    /// Whatever you count by.
    #[must_use]
    pub fn custom(text: &'k str) -> Self {
        Self::of(Part::Custom(text))
    }

    /// A route: the method, and the template of the path as axum has it, or the path of a gRPC
    /// call.
    #[must_use]
    pub const fn route(method: &'k str, template: &'k str) -> Self {
        Self::of(Part::Route { method, template })
    }

    /// The value of a request field.
    #[must_use]
    pub const fn header(value: &'k [u8]) -> Self {
        Self::of(Part::Header(value))
    }

    /// Both together, in this order.
    ///
    /// # Panics
    /// If they are more than four things.
    #[must_use]
    #[track_caller]
    pub fn and(mut self, other: Self) -> Self {
        for part in other.parts.into_iter().flatten() {
            let Some(place) = self.parts.iter_mut().find(|place| place.is_none()) else {
                literal(Err(too_many_parts("LimitKey::and")))
            };
            *place = Some(part);
        }
        self
    }

    pub(crate) const fn of_layer<'s>(&self, layer: &'s str) -> LimitKey<'s>
    where
        'k: 's,
    {
        LimitKey {
            layer,
            parts: self.parts,
        }
    }

    /// One for each thing that is counted by.
    pub(crate) const fn places(&mut self) -> &mut [Option<Part<'k>>; MOST_PARTS] {
        &mut self.parts
    }

    pub(crate) const fn of(part: Part<'k>) -> Self {
        Self {
            layer: "",
            parts: [Some(part), None, None, None],
        }
    }

    /// Under a seed of this process: callers cannot choose collisions. A principal has its
    /// own, made once.
    pub(crate) fn hash_with(&self, seed: &impl BuildHasher) -> u64 {
        let layer = match self.layer {
            "" => 0,
            layer => seed.hash_one(layer),
        };
        self.parts.iter().flatten().fold(layer, |all, part| {
            let own = match part {
                Part::Principal(principal) => principal.keyed_hash(),
                other => seed.hash_one(other),
            };
            // The order of parts counts.
            (all ^ own)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23)
        })
    }

    /// The same in every process that has the secret: what stores outside are told.
    #[cfg(any(feature = "redis", test))]
    pub(crate) fn digest(&self, secret: &[u8], name: &str) -> [u8; 16] {
        let mut hash = Sha256::new();
        let mut text = |tag: u8, text: &[u8]| {
            hash.update([tag]);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        // In front and not to be extended: the digest is a half of the hash.
        text(11, secret);
        text(0, name.as_bytes());
        if !self.layer.is_empty() {
            text(12, self.layer.as_bytes());
        }
        for part in self.parts.iter().flatten() {
            match part {
                Part::Principal(principal) => {
                    text(1, principal.source().as_bytes());
                    match principal.tenant() {
                        Some(tenant) => text(2, tenant.as_bytes()),
                        None => text(3, b""),
                    }
                    text(4, principal.subject().as_bytes());
                }
                Part::Tenant(tenant) => text(5, tenant.as_bytes()),
                Part::Route { method, template } => {
                    text(6, method.as_bytes());
                    text(6, template.as_bytes());
                }
                Part::Network(network) => text(7, network.to_string().as_bytes()),
                Part::Header(value) => text(8, value),
                Part::Custom(value) => text(9, value.as_bytes()),
                Part::Missing(missing) => text(10, &[*missing as u8]),
            }
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        digest
    }
}

/// A caller may be anybody: what they are is not printed.
impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Principal(_) => "principal",
            Self::Tenant(_) => "tenant",
            Self::Route { .. } => "route",
            Self::Network(_) => "network",
            Self::Header(_) => "header",
            Self::Custom(_) => "custom",
            Self::Missing(_) => "missing",
        })
    }
}

/// How many things a limit can count by at once.
pub(crate) const MOST_PARTS: usize = 4;

/// For the settings that name them.
pub(crate) fn too_many_parts(setting: &str) -> ConfigError {
    ConfigError::new(format!(
        "`{setting}`: the key has more than {MOST_PARTS} parts; combine at most {MOST_PARTS}, or \
         make one part of several with a custom key"
    ))
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::identity::Identity;

    #[test]
    fn keys_that_read_alike_are_strangers() {
        let identity =
            |tenant: &str, subject: &str| Identity::builder("s", subject).tenant(tenant).build();
        let (a, b) = (identity("a", "b:c"), identity("a:b", "c"));
        let network = "10.0.0.0/8".parse().unwrap();
        let all = [
            LimitKey::principal(a.principal()),
            LimitKey::principal(b.principal()),
            LimitKey::principal(a.principal()).and(LimitKey::route("GET", "b")),
            LimitKey::principal(a.principal()).and(LimitKey::custom("b")),
            LimitKey::tenant("42"),
            LimitKey::custom("42"),
            LimitKey::custom("4").and(LimitKey::custom("2")),
            LimitKey::custom("{}\0:"),
            LimitKey::header(b"42"),
            LimitKey::of(Part::Missing(Missing::Tenant)),
            LimitKey::network(network),
            LimitKey::custom("10.0.0.0/8"),
            LimitKey::custom("42").of_layer("a"),
            LimitKey::custom("42").of_layer("b"),
        ];
        let seed = RandomState::new();
        let digest = |key: &LimitKey<'_>, name| key.digest(b"", name);
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a == b, i == j);
                assert_eq!(a.hash_with(&seed) == b.hash_with(&seed), i == j);
                assert_eq!(digest(a, "l") == digest(b, "l"), i == j);
            }
            let of_other_names = digest(a, "l") != digest(a, "m");
            assert!(of_other_names && a.digest(b"s", "l") != digest(a, "l"));
        }
    }
}
