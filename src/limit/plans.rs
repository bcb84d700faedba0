//! [`Plans`]: quotas by the plan that a caller is on.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::config::Quoted;
use crate::limit::quotas::Quotas;

/// Quotas by the name of the plan that a caller is on; see
/// [`Identity::plan`](crate::Identity::plan). They can be changed while the server runs:
/// clones are the same plans, and a change holds for every request that comes after it.
///
/// A caller on a plan that is not known gets the quotas of [`Plans::new`]. The first 32 names of such
/// plans are logged as warnings, each once.
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
    /// Names that were logged as unknown.
    unknown: Arc<Mutex<HashSet<Box<str>>>>,
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
            unknown: Arc::default(),
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
        let Some(plan) = plan else {
            return named.others.clone();
        };
        if let Some(quotas) = named.plans.get(plan) {
            return quotas.clone();
        }
        let quotas = named.others.clone();
        drop(named);
        self.log_unknown(plan);
        quotas
    }

    /// Logs an unknown plan once, and no more than a few of them.
    fn log_unknown(&self, plan: &str) {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() >= MOST_UNKNOWN || unknown.contains(plan) {
            return;
        }
        unknown.insert(plan.into());
        drop(unknown);
        tracing::warn!(
            target: "tollgate",
            plan = %Quoted(plan),
            "Plans: a caller is on a plan that is not known, and gets the quotas of `Plans::new`; \
             add it with `Plans::plan`, or correct the plan of the key or token",
        );
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

/// The maximum number of unknown plans that are logged and remembered.
const MOST_UNKNOWN: usize = 32;
