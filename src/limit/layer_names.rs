//! [`LayerNames`]: keeps the budgets of layers that share a limiter apart.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::config::ConfigError;

/// The names of the layers that keep their budgets in a limiter: see
/// [`Limiter::layer_names`](crate::limit::Limiter::layer_names). Clones share the same names.
#[derive(Clone, Default)]
pub struct LayerNames {
    names: Arc<Mutex<Claims>>,
    space: Space,
}

type Claims = HashMap<(Space, Box<str>), Vec<Claim>>;

/// The digest of the settings that keep the budgets of clones of a limiter apart.
type Space = [u8; 16];

/// The identity of the settings of a layer.
#[derive(Debug, Default)]
pub(crate) struct LayerId;

struct Claim {
    layer: Weak<LayerId>,
    shares: bool,
}

impl LayerNames {
    /// Creates an empty list, for a limiter that no layer uses yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the same list, for a clone of the limiter with budgets of its own: names in
    /// different spaces do not collide.
    #[cfg(feature = "redis")]
    pub(crate) fn in_space(&self, space: Space) -> Self {
        Self {
            names: Arc::clone(&self.names),
            space,
        }
    }

    /// Claims a name for a layer, until the layer and its services are dropped.
    pub(crate) fn claim(
        &self,
        name: &str,
        layer: &Arc<LayerId>,
        shares: bool,
    ) -> Result<(), ConfigError> {
        let mut names = self.names.lock();
        names.retain(|_, claims| {
            claims.retain(|claim| claim.layer.strong_count() > 0);
            !claims.is_empty()
        });
        let claims = names.entry((self.space, name.into())).or_default();
        let is_own = |claim: &Claim| std::ptr::eq(claim.layer.as_ptr(), Arc::as_ptr(layer));
        let is_known = claims.iter().any(is_own);
        let mut others = claims.iter().filter(|claim| !is_own(claim));
        if others.any(|claim| !(shares && claim.shares)) {
            return Err(ConfigError::new(format!(
                "`RateLimitLayer::name({name:?})`: another layer with this limiter has the same \
                 name, so both would use the same budgets; give each layer a name of its own \
                 with `.name(\"…\")`, or call `.share_budgets()` on both"
            )));
        }
        if !is_known {
            claims.push(Claim {
                layer: Arc::downgrade(layer),
                shares,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for LayerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.lock();
        let own = names.keys().filter(|(space, _)| *space == self.space);
        f.debug_set().entries(own.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_that_is_applied_again_has_one_claim() {
        let names = LayerNames::new();
        let layers = [LayerId, LayerId].map(Arc::new);
        for _ in 0..100 {
            for layer in &layers {
                names.claim("api", layer, true).unwrap();
            }
        }
        let claims = names.names.lock().values().map(Vec::len).sum::<usize>();
        assert_eq!(claims, 2);
    }
}
