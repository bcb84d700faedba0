//! [`Control`]: budgets, looked at and changed from code.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::key::LimitKey;
use crate::limit::layer::Limit;
use crate::limit::limiter::{Decision, Limiter, LimiterUnavailable};
use crate::limit::memory::MemoryLimiter;
use crate::limit::quotas::Quotas;

/// A handle to the budgets of a [`RateLimitLayer`](crate::limit::RateLimitLayer). Keys must
/// be made of the same things that the layer counts by.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use tollgate::Identity;
/// use tollgate::limit::{LimitKey, Quota, Quotas, RateLimitLayer};
///
/// let quotas: Quotas = Quota::per_minute(60).into();
/// let layer = RateLimitLayer::new(quotas.clone());
/// let control = layer.control();
/// let identity = Identity::for_test().build();
/// let caller = LimitKey::principal(identity.principal());
///
/// let standing = control.peek(&caller, &quotas).await?;
/// assert_eq!(standing.remaining(&quotas).collect::<Vec<_>>(), [60]);
/// control.penalise(&caller, &quotas, 20).await; // it tried to be clever
/// let standing = control.peek(&caller, &quotas).await?;
/// assert_eq!(standing.remaining(&quotas).collect::<Vec<_>>(), [40]);
/// control.ban(&caller, Duration::from_secs(3600)).await;
/// assert!(!control.peek(&caller, &quotas).await?.is_admitted());
/// control.reset(&caller, &quotas).await;
/// assert!(control.peek(&caller, &quotas).await?.is_admitted());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Control<L = MemoryLimiter> {
    limit: Arc<Limit<L>>,
}

impl<L: Limiter> Control<L> {
    pub(super) const fn new(limit: Arc<Limit<L>>) -> Self {
        Self { limit }
    }

    /// How the budget of that key stands, without changing it.
    ///
    /// # Errors
    /// If the limiter cannot be asked.
    pub async fn peek(
        &self,
        key: &LimitKey<'_>,
        quotas: &Quotas,
    ) -> Result<Decision, LimiterUnavailable> {
        let now = self.limit.now();
        let taken = self
            .limit
            .limiter
            .take(&self.limit.key_of(key), quotas, 0, now);
        taken.wait().await
    }

    /// Charges so many units, whether they are there or not.
    pub async fn penalise(&self, key: &LimitKey<'_>, quotas: &Quotas, units: u32) {
        let limit = &*self.limit;
        let ticket = limit.limiter.ticket(&limit.key_of(key));
        let settled = limit
            .limiter
            .settle(ticket, quotas, units.into(), limit.now());
        settled.wait().await;
    }

    /// Refuses everything for that long, whatever the quotas.
    pub async fn ban(&self, key: &LimitKey<'_>, time: Duration) {
        let limit = &*self.limit;
        let (ticket, now) = (limit.limiter.ticket(&limit.key_of(key)), limit.now());
        let banned = limit.limiter.ban(ticket, now.saturating_add(time), now);
        banned.wait().await;
    }

    /// Gives the whole budget back, and ends a ban.
    pub async fn reset(&self, key: &LimitKey<'_>, quotas: &Quotas) {
        let limit = &*self.limit;
        let ticket = limit.limiter.ticket(&limit.key_of(key));
        limit.limiter.reset(ticket, quotas).wait().await;
    }

    /// The limiter that keeps the budgets.
    #[must_use]
    pub fn limiter(&self) -> &L {
        &self.limit.limiter
    }
}

impl<L> Clone for Control<L> {
    fn clone(&self) -> Self {
        Self {
            limit: Arc::clone(&self.limit),
        }
    }
}

impl<L> fmt::Debug for Control<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}
