//! Budgets in a real Redis, which the tests start, through a network that they break.

mod cluster;
mod faults;
mod outages;
mod proxy;
mod rights;
mod server;
mod tls;
mod verdicts;

use std::time::Duration;

use tollgate::clock::{Clock, SystemClock};
use tollgate::limit::{Decision, LimitKey, Limiter, LimiterUnavailable, Quotas, RedisLimiter};

/// Takes one unit for a caller.
async fn take(
    limiter: &impl Limiter,
    caller: &str,
    quotas: &Quotas,
) -> Result<Decision, LimiterUnavailable> {
    let key = LimitKey::custom(caller);
    let taken = limiter.take(&key, quotas, 1, SystemClock.now());
    taken.wait().await
}

/// Tries so many times, one after the other. How many were admitted?
async fn admitted(limiter: &impl Limiter, caller: &str, quotas: &Quotas, tries: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..tries {
        let taken = take(limiter, caller, quotas).await;
        admitted += usize::from(taken.is_ok_and(|taken| taken.is_admitted()));
    }
    admitted
}

/// Waits until it holds, for two seconds at the most.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} has not happened");
}

/// Waits until Redis decides again.
async fn recovers(limiter: &RedisLimiter, quotas: &Quotas) {
    eventually("a recovery", async || {
        let before = limiter.status().fallbacks;
        let taken = take(limiter, "somebody else", quotas).await;
        taken.is_ok() && limiter.status().fallbacks == before
    })
    .await;
    assert!(!limiter.status().is_partitioned);
}
