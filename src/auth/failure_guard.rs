//! [`FailureGuard`]: the budget of failures that a request is held to, as an
//! [`AuthFailureLimitLayer`](crate::auth::AuthFailureLimitLayer) outside has found it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use quick_cache::sync::Cache;

use crate::auth::failures::Failures;
use crate::auth::verifying::Verifying;
use crate::clock::{Clock, SystemClock};
use crate::identity::Identity;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::timeout::Timer;

/// The state of a layer.
pub(super) struct FailureLimit {
    pub(super) failures: Failures,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_wait: Duration,
    verifying: Verifying,
    /// Keyed hashes of credentials that were good when they were verified last.
    good: Cache<u64, ()>,
    seed: RandomState,
    timer: Timer,
}

/// The number of good credentials that are remembered.
const REMEMBERED: usize = 65_536;

impl FailureLimit {
    pub(super) fn new(failures: Failures) -> Self {
        Self {
            failures,
            clock: Arc::new(SystemClock),
            max_wait: Duration::from_secs(1),
            verifying: Verifying::default(),
            good: Cache::new(REMEMBERED),
            seed: RandomState::new(),
            timer: Timer::default(),
        }
    }

    /// Returns whether the network may start a verification now.
    ///
    /// # Errors
    /// Returns the rejection if the network is over its budget.
    fn start(&self, network: IpNet) -> Result<bool, Rejection> {
        let now = self.clock.now();
        let started = self
            .verifying
            .start(network, || self.failures.allowance(network, now));
        started.map_err(over_budget)
    }

    async fn wait(&self, network: IpNet) -> Result<(), Rejection> {
        let started = async {
            let waiting = self.verifying.wait(network)?;
            loop {
                let mut freed = pin!(waiting.freed.notified());
                // From here on no end of a verification is missed.
                freed.as_mut().enable();
                match self.start(network) {
                    Ok(true) => return Some(Ok(())),
                    Ok(false) => freed.await,
                    Err(rejection) => return Some(Err(rejection)),
                }
            }
        };
        let started = self.timer.within(self.max_wait, started).await.flatten();
        started.unwrap_or_else(|| {
            let now = self.clock.now();
            Err(Rejection::unavailable(Cause::TooManyVerifications, now))
        })
    }
}

fn over_budget(wait: Duration) -> Rejection {
    Rejection::new(Reason::TooManyFailures, Cause::NetworkThrottled).with_retry_after(wait)
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
    pub(super) fn new(limit: Arc<FailureLimit>, network: IpNet, outer: Option<Self>) -> Self {
        let outer = outer.map(Box::new);
        Self {
            limit,
            network,
            outer,
        }
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
        let mut verification = Verification {
            budgets: Vec::new(),
        };
        let mut must_wait = false;
        for Self { limit, network, .. } in self.budgets() {
            let hash = limit.seed.hash_one(credential);
            let is_known = limit.good.get(&hash).is_some();
            let mut budget = Budget {
                limit: Arc::clone(limit),
                network: *network,
                hash,
                stage: Stage::Known,
            };
            if !is_known {
                budget.stage = match limit.start(*network) {
                    Ok(true) => Stage::Started,
                    Ok(false) => Stage::Waits,
                    Err(rejection) => return Err(rejection).into(),
                };
                must_wait |= budget.stage == Stage::Waits;
            }
            verification.budgets.push(budget);
        }
        if !must_wait {
            return Ok(verification).into();
        }
        Pending::later(async move {
            for budget in &mut verification.budgets {
                if budget.stage == Stage::Waits {
                    budget.limit.wait(budget.network).await?;
                    budget.stage = Stage::Started;
                }
            }
            Ok(verification)
        })
    }
}

impl fmt::Debug for FailureGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureGuard").finish_non_exhaustive()
    }
}

/// A verification under way. Dropping it without a verdict charges nothing.
pub(crate) struct Verification {
    budgets: Vec<Budget>,
}

struct Budget {
    limit: Arc<FailureLimit>,
    network: IpNet,
    /// The keyed hash of the credential.
    hash: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    /// The credential was good before: the verification is not counted.
    Known,
    Waits,
    Started,
}

impl Verification {
    /// Charges the network if the secret or the signature was wrong, and remembers a credential that
    /// is good.
    pub(crate) fn end(mut self, verdict: &Result<Identity, Rejection>) {
        let is_failure = match verdict {
            Ok(_) => false,
            Err(rejection) => rejection.cause().is_failed_proof(),
        };
        for budget in &mut self.budgets {
            match (verdict, budget.stage) {
                (Ok(_), Stage::Started) => budget.limit.good.insert(budget.hash, ()),
                (Err(_), Stage::Known) => drop(budget.limit.good.remove(&budget.hash)),
                _ => {}
            }
            budget.end(is_failure);
        }
    }
}

impl Budget {
    fn end(&mut self, is_failure: bool) {
        let Self { limit, network, .. } = self;
        let charge = || {
            let now = limit.clock.now();
            is_failure && {
                // The allowance was kept for it.
                limit.failures.charge(*network, now).ok();
                let is_over = limit.failures.allowance(*network, now).is_err();
                if is_over {
                    tracing::info!(
                        target: "tollgate::auth",
                        %network,
                        "too many failed authentications: credentials of this network are limited"
                    );
                }
                is_over
            }
        };
        match self.stage {
            Stage::Started => limit.verifying.end(*network, charge),
            // A credential that is not good any more.
            Stage::Known => drop(charge()),
            Stage::Waits => {}
        }
        self.stage = Stage::Waits;
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if self.stage == Stage::Started {
            self.end(false);
        }
    }
}
