//! [`Plans`]: quotas by the plan that a caller is on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::limit::quotas::Quotas;

/// Quotas by the name of the plan that a caller is on; see
/// [`Identity::plan`](crate::Identity::plan). They can be changed while the server runs:
/// clones are the same plans, and a change holds for every request that comes after it.
///
/// When a plan changes, or a caller changes plans, the share that they have used of a quota
/// stays used, if both have one of that name; it comes back at the new rate.
///
/// ```
/// use tollgate::limit::{Plans, Quota, RateLimitLayer};
///
/// let plans = Plans::new(Quota::per_minute(60)) // for those on none of them
///     .plan("pro", [Quota::per_minute(600).burst(100), Quota::per_day(100_000)])
///     .unlimited("internal");
/// let layer = RateLimitLayer::by_plan(plans.clone());
/// plans.set("pro", Quota::per_minute(1_200)); // a minute later
///
/// let pro = plans.of(Some("pro")).expect("a limit");
/// assert!(pro.iter().eq([&Quota::per_minute(1_200)]));
/// assert!(plans.of(Some("internal")).is_none());
/// ```
#[derive(Clone)]
pub struct Plans {
    plans: Arc<RwLock<Named>>,
}

#[derive(Clone)]
struct Named {
    /// Without quotas, a plan is unlimited.
    plans: HashMap<Box<str>, Option<Quotas>>,
    others: Option<Quotas>,
}

impl Plans {
    /// These quotas for callers who are on no plan, or on one that is not known, anonymous
    /// ones among them.
    pub fn new(others: impl Into<Quotas>) -> Self {
        let named = Named {
            plans: HashMap::new(),
            others: Some(others.into()),
        };
        Self {
            plans: Arc::new(RwLock::new(named)),
        }
    }

    /// Adds a plan.
    #[must_use]
    pub fn plan(self, name: &str, quotas: impl Into<Quotas>) -> Self {
        self.set(name, quotas);
        self
    }

    /// Adds a plan without quotas.
    #[must_use]
    pub fn unlimited(self, name: &str) -> Self {
        self.write(|named| named.plans.insert(name.into(), None));
        self
    }

    /// Changes a plan, or adds it, from the next request on.
    pub fn set(&self, name: &str, quotas: impl Into<Quotas>) {
        let quotas = quotas.into();
        self.write(|named| named.plans.insert(name.into(), Some(quotas)));
    }

    /// Removes a plan: its callers are as those on none, from the next request on.
    pub fn remove(&self, name: &str) {
        self.write(|named| named.plans.remove(name));
    }

    /// Changes all plans at once to those of another.
    pub fn replace(&self, plans: &Self) {
        let new = plans
            .plans
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.write(|named| *named = new);
    }

    /// The quotas of a caller on this plan, as
    /// [`Identity::plan`](crate::Identity::plan) has it, or on none. `None` where nothing limits
    /// them.
    pub fn of(&self, plan: Option<&str>) -> Option<Quotas> {
        let named = self.plans.read().unwrap_or_else(PoisonError::into_inner);
        match plan.and_then(|plan| named.plans.get(plan)) {
            Some(quotas) => quotas.clone(),
            None => named.others.clone(),
        }
    }

    fn write<T>(&self, change: impl FnOnce(&mut Named) -> T) {
        change(&mut self.plans.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.plans.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_map().entries(&named.plans).finish()
    }
}
