//! [`FailureGuard`]: the budget of failures that a request is held to, as an
//! [`AuthFailureLimitLayer`](crate::auth::AuthFailureLimitLayer) outside has found it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;
use quick_cache::sync::Cache;

use crate::auth::failures::Failures;
use crate::auth::verifying::{Next, Verifying};
use crate::clock::Clock;
use crate::gate::caught;
use crate::identity::Identity;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::timeout::Timer;

/// The state of a layer.
pub(super) struct FailureLimit {
    failures: Failures,
    clock: Arc<dyn Clock>,
    max_wait: Duration,
    verifying: Verifying<Result<Permit, Rejection>>,
    /// Keyed hashes of credentials that were good when they were verified last.
    good: Cache<u64, ()>,
    seed: RandomState,
    timer: Timer,
}

/// The number of good credentials that are remembered.
const REMEMBERED: usize = 65_536;

/// The time after which a request that waits looks whether failures are allowed again.
const TICK: Duration = Duration::from_millis(500);

impl FailureLimit {
    pub(super) fn new(failures: Failures, clock: Arc<dyn Clock>, max_wait: Duration) -> Self {
        Self {
            failures,
            clock,
            max_wait,
            verifying: Verifying::default(),
            good: Cache::new(REMEMBERED),
            seed: RandomState::new(),
            timer: Timer::default(),
        }
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.failures.forgotten()
    }

    /// Returns a permit if the network may start a verification now, or `None` if it has to wait.
    ///
    /// # Errors
    /// Returns the rejection if the network is over its budget.
    fn start(self: &Arc<Self>, network: IpNet) -> Result<Option<Permit>, Rejection> {
        let now = self.clock.now();
        let started = self
            .verifying
            .start(network, || self.failures.allowance(network, now));
        let started = started.map_err(over_budget)?;
        Ok(started.then(|| self.permit(network)))
    }

    fn permit(self: &Arc<Self>, network: IpNet) -> Permit {
        Permit {
            limit: Arc::clone(self),
            network,
        }
    }

    /// Lets those start who need not wait any more, and refuses all if the budget is spent.
    fn serve_queue(self: &Arc<Self>, network: IpNet) {
        // The clock may be a user's, and a permit may be dropped in a panic.
        let Ok(now) = caught(|| self.clock.now()) else {
            // Those who wait see that nobody serves them.
            drop(self.verifying.next(network, || Err(Duration::ZERO)));
            return;
        };
        let next = self
            .verifying
            .next(network, || self.failures.allowance(network, now));
        // A request that was given up meanwhile drops its permit, which serves the queue again.
        match next {
            Next::Start(senders) => {
                let starting = senders
                    .into_iter()
                    .map(|sender| (sender, self.permit(network)));
                // Each has its permit before the first one is woken.
                let starting: Vec<_> = starting.collect();
                for (sender, permit) in starting {
                    drop(sender.send(Ok(permit)));
                }
            }
            Next::Refuse(senders, wait) => senders.into_iter().for_each(|sender| {
                drop(sender.send(Err(over_budget(wait))));
            }),
        }
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    async fn wait(self: &Arc<Self>, network: IpNet) -> Result<Permit, Rejection> {
        let Some(mut granted) = self.verifying.join(network) else {
            return Err(self.busy());
        };
        loop {
            // Also if a place became free before it joined.
            self.serve_queue(network);
            match self.timer.within(TICK, &mut granted).await {
                Some(Ok(granted)) => return granted,
                Some(Err(_)) => return Err(self.busy()),
                None => {}
            }
        }
    }

    fn knows(&self, hash: u64) -> bool {
        self.good.get(&hash).is_some()
    }

    fn busy(&self) -> Rejection {
        Rejection::unavailable(Cause::TooManyVerifications, self.clock.now())
    }

    fn charge(&self, network: IpNet) {
        let now = self.clock.now();
        // A permit was given for it, so that it can be charged.
        self.failures.charge(network, now).ok();
        if self.failures.allowance(network, now).is_err() {
            tracing::info!(
                target: "tollgate::auth",
                %network,
                "too many failed authentications: credentials of this network are limited"
            );
        }
    }
}

fn over_budget(wait: Duration) -> Rejection {
    Rejection::new(Reason::TooManyFailures, Cause::NetworkThrottled).with_retry_after(wait)
}

/// The right to verify a credential of a network. Dropping it lets the next one start.
struct Permit {
    limit: Arc<FailureLimit>,
    network: IpNet,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.limit.verifying.end(self.network) {
            self.limit.serve_queue(self.network);
        }
    }
}

/// The budgets that a request is held to: that of its network, and those of layers outside. It is in
/// the extensions of the request, for each `AuthLayer` inside.
#[derive(Clone)]
pub(crate) struct FailureGuard {
    limit: Arc<FailureLimit>,
    network: IpNet,
    outer: Option<Box<Self>>,
}

impl FailureGuard {
    /// Adds a budget to those of the layers outside. A layer that is applied twice has one.
    pub(super) fn new(limit: Arc<FailureLimit>, network: IpNet, outer: Option<Self>) -> Self {
        match outer {
            Some(outer) if outer.has(&limit, network) => outer,
            outer => Self {
                limit,
                network,
                outer: outer.map(Box::new),
            },
        }
    }

    fn has(&self, limit: &Arc<FailureLimit>, network: IpNet) -> bool {
        self.budgets()
            .any(|guard| Arc::ptr_eq(&guard.limit, limit) && guard.network == network)
    }

    fn budgets(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |guard| guard.outer.as_deref())
    }

    /// Checks a request that shows no credential.
    ///
    /// # Errors
    /// Returns the rejection if the network is over its budget.
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        self.budgets().try_for_each(|Self { limit, network, .. }| {
            let allowance = limit.failures.allowance(*network, limit.clock.now());
            allowance.map(drop).map_err(over_budget)
        })
    }

    /// Waits until the credential may be verified. Dropping the future gives up its turn.
    ///
    /// # Errors
    /// The answer is the rejection if the network is over its budget and the credential is not known
    /// as good, or if it was not the credential's turn in time.
    pub(crate) fn admit(&self, credential: &[u8]) -> Pending<Result<Verification, Rejection>> {
        let Some(outer) = &self.outer else {
            let mut budget = Budget::of(self, credential);
            return match budget.start() {
                Err(rejection) => Err(rejection).into(),
                Ok(true) => Ok(Verification::One(budget)).into(),
                Ok(false) => self.wait_for(vec![budget], 0),
            };
        };
        let budgets = std::iter::once(self).chain(outer.budgets());
        let mut budgets: Vec<_> = budgets.map(|guard| Budget::of(guard, credential)).collect();
        match start_all(&mut budgets) {
            Err(rejection) => Err(rejection).into(),
            Ok(None) => Ok(Verification::Several(budgets)).into(),
            Ok(Some(at)) => self.wait_for(budgets, at),
        }
    }

    /// Waits for a place in each budget, for no longer than the shortest of the maximum waits. A request
    /// that waits for one place holds no other.
    fn wait_for(
        &self,
        mut budgets: Vec<Budget>,
        mut at: usize,
    ) -> Pending<Result<Verification, Rejection>> {
        let limit = Arc::clone(&self.limit);
        let max_wait = self.budgets().map(|guard| guard.limit.max_wait).min();
        let max_wait = max_wait.unwrap_or_default();
        Pending::later(async move {
            let started = async {
                loop {
                    budgets.iter_mut().for_each(|budget| budget.permit = None);
                    budgets[at].wait().await?;
                    match start_all(&mut budgets)? {
                        None => return Ok(()),
                        Some(busy) => at = busy,
                    }
                }
            };
            let started = limit.timer.within(max_wait, started).await;
            let started = started.unwrap_or_else(|| Err(limit.busy()));
            // The same credential may have been found good by another request meanwhile.
            if started.is_err() && !budgets.iter_mut().all(Budget::is_ready) {
                return started.map(|()| Verification::Several(budgets));
            }
            Ok(Verification::Several(budgets))
        })
    }
}

/// Takes a place in each budget. Returns the first one that has none at the moment.
fn start_all(budgets: &mut [Budget]) -> Result<Option<usize>, Rejection> {
    for (at, budget) in budgets.iter_mut().enumerate() {
        if !budget.start()? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

impl fmt::Debug for FailureGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureGuard").finish_non_exhaustive()
    }
}

/// A verification under way. Dropping it without a verdict charges nothing.
pub(crate) enum Verification {
    One(Budget),
    Several(Vec<Budget>),
}

/// The place of a verification in one budget.
pub(crate) struct Budget {
    limit: Arc<FailureLimit>,
    network: IpNet,
    /// The keyed hash of the credential.
    hash: u64,
    /// Set if the credential was good before: its verification takes no place.
    is_known: bool,
    /// The place that the verification takes.
    permit: Option<Permit>,
}

impl Verification {
    /// Charges the network if the secret or the signature was wrong, and remembers a credential that
    /// is good.
    pub(crate) fn end(self, verdict: &Result<Identity, Rejection>) {
        match self {
            Self::One(budget) => budget.end(verdict),
            Self::Several(budgets) => budgets.into_iter().for_each(|budget| budget.end(verdict)),
        }
    }
}

impl Budget {
    fn of(FailureGuard { limit, network, .. }: &FailureGuard, credential: &[u8]) -> Self {
        let hash = limit.seed.hash_one(credential);
        Self {
            limit: Arc::clone(limit),
            network: *network,
            hash,
            is_known: limit.knows(hash),
            permit: None,
        }
    }

    /// Returns whether the verification may start as far as this budget is concerned.
    fn start(&mut self) -> Result<bool, Rejection> {
        if !self.is_known && self.permit.is_none() {
            self.permit = self.limit.start(self.network)?;
        }
        Ok(self.is_known || self.permit.is_some())
    }

    /// Waits for a place, unless the credential turns out to be good meanwhile.
    async fn wait(&mut self) -> Result<(), Rejection> {
        let granted = self.limit.wait(self.network).await;
        self.is_known = self.limit.knows(self.hash);
        if !self.is_known {
            self.permit = Some(granted?);
        }
        Ok(())
    }

    /// Returns whether the verification needs no place any more, or has one.
    fn is_ready(&mut self) -> bool {
        self.is_known = self.is_known || self.limit.knows(self.hash);
        self.is_known || self.permit.is_some()
    }

    fn end(self, verdict: &Result<Identity, Rejection>) {
        match verdict {
            Ok(_) if self.is_known => {}
            Ok(_) => self.limit.good.insert(self.hash, ()),
            Err(rejection) => {
                // A verdict on the credential. A store that is down says nothing about it.
                if rejection.reason().status() == StatusCode::UNAUTHORIZED {
                    self.limit.good.remove(&self.hash);
                }
                // One that was good before is forgotten, and charged the next time. A charge comes
                // before the place becomes free.
                if rejection.cause().is_failed_proof() && !self.is_known {
                    self.limit.charge(self.network);
                }
            }
        }
        drop(self.permit);
    }
}
