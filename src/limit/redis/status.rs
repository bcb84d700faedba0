//! [`RedisStatus`]: how things stand with Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limit::redis::failure::Failure;
use crate::limit::redis::fault::RedisFault;
use crate::limit::redis::share::WhenDown;

/// How things stand with Redis, and what has happened so far: for a gauge and some counters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RedisStatus {
    /// Whether Redis is not asked at the moment, but for a probe now and then.
    pub is_partitioned: bool,
    /// How many requests were decided without Redis, because it could not be asked.
    pub fallbacks: Fallbacks,
    /// How many were refused without asking, because Redis would have refused them.
    pub denied_locally: u64,
    /// How many commands were sent.
    pub round_trips: u64,
    /// How often the script had to be told again.
    pub reloads: u64,
    /// How many charges, refunds, bans and resets may not have arrived.
    pub lost: u64,
    /// Why Redis could not be asked the last time that it could not.
    pub last_fault: Option<RedisFault>,
}

/// How requests were decided that Redis could not be asked about: see [`WhenDown`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Fallbacks {
    /// By the share of this process.
    pub local_share: u64,
    /// They were admitted.
    pub open: u64,
    /// They were refused with a 503.
    pub closed: u64,
}

impl Fallbacks {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.local_share + self.open + self.closed
    }
}

/// Counts, and says what an operator has to hear, once.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) denied_locally: Counter,
    pub(super) round_trips: Counter,
    pub(super) reloads: Counter,
    pub(super) lost: Counter,
    local_share: Counter,
    open: Counter,
    closed: Counter,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

#[derive(Debug, Default)]
struct Trouble {
    last: Option<RedisFault>,
    /// The failures of the last minute that were reported, or are like one that was.
    reported: Vec<Reported>,
}

#[derive(Debug)]
struct Reported {
    fault: RedisFault,
    detail: Option<Arc<str>>,
    is_outage: bool,
    seen_at: Instant,
}

impl Trouble {
    /// Returns whether a failure is to be reported: it was not, or is back after a minute.
    fn is_news(&mut self, failure: &Failure, is_outage: bool, now: Instant) -> bool {
        let Failure { fault, detail, .. } = failure;
        self.reported
            .retain(|known| now.saturating_duration_since(known.seen_at) < REPORTED_AGAIN);
        let mut same_fault = self.reported.iter_mut().filter(|it| it.fault == *fault);
        if let Some(known) = same_fault.find(|known| known.detail == *detail) {
            known.seen_at = now;
            known.is_outage |= is_outage;
            return false;
        }
        let new = Reported {
            fault: *fault,
            detail: detail.clone(),
            is_outage,
            seen_at: now,
        };
        if self.reported.len() < MOST_REPORTED {
            self.reported.push(new);
            return true;
        }
        // With that many causes at once, one report of each fault has to do.
        let is_known = self.reported.iter().any(|known| known.fault == *fault);
        if let Some(oldest) = self.reported.iter_mut().min_by_key(|known| known.seen_at) {
            *oldest = new;
        }
        !is_known
    }
}

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Watch {
    pub(super) fn status(&self, is_partitioned: bool) -> RedisStatus {
        RedisStatus {
            is_partitioned,
            fallbacks: Fallbacks {
                local_share: self.local_share.get(),
                open: self.open.get(),
                closed: self.closed.get(),
            },
            denied_locally: self.denied_locally.get(),
            round_trips: self.round_trips.get(),
            reloads: self.reloads.get(),
            lost: self.lost.get(),
            last_fault: self.trouble.lock().last,
        }
    }

    pub(super) fn fell_back(&self, when_down: WhenDown) {
        match when_down {
            WhenDown::LocalShare { .. } => self.local_share.add(),
            WhenDown::Open => self.open.add(),
            WhenDown::Closed => self.closed.add(),
        }
    }

    /// Records a failure. Logs it if `is_outage`, or if an operator has to act: once, and again
    /// if it comes back after a minute without it.
    pub(super) fn failed(&self, failure: &Failure, is_outage: bool, now: Instant) {
        let Failure { fault, detail, .. } = failure;
        let (fault, cause) = (*fault, detail.as_deref());
        let mut trouble = self.trouble.lock();
        trouble.last = Some(fault);
        if !is_outage && !fault.is_misconfiguration() {
            tracing::debug!(target: TARGET, %fault, cause, "Redis call failed");
            return;
        }
        let is_news = trouble.is_news(failure, is_outage, now);
        drop(trouble);
        if !is_news {
            return;
        }
        let fix = fault.fix();
        if fault.is_misconfiguration() {
            tracing::error!(target: TARGET, %fault, cause, fix, "Redis cannot be used for limits");
        } else {
            tracing::warn!(target: TARGET, %fault, cause, fix, "Redis is unavailable for limits");
        }
    }

    pub(super) fn recovered(&self) {
        // Mistakes that affect one budget may last.
        self.trouble
            .lock()
            .reported
            .retain(|known| !known.is_outage);
        tracing::info!(target: TARGET, "Redis decides again");
    }
}

const TARGET: &str = "tollgate::limit";
/// What is still the same is said again if it had been gone for so long.
const REPORTED_AGAIN: Duration = Duration::from_secs(60);
const MOST_REPORTED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(fault: RedisFault, detail: &str) -> Failure {
        Failure {
            detail: Some(detail.into()),
            ..Failure::new(fault)
        }
    }

    #[test]
    fn alternating_failures_are_reported_once_each() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let failures = [
            failure(RedisFault::Moved, ""),
            failure(RedisFault::ClusterDown, ""),
            failure(RedisFault::Forbidden, "+get"),
            failure(RedisFault::Forbidden, "+set"),
        ];
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for failure in &failures {
                assert_eq!(trouble.is_news(failure, false, now), second == 0);
            }
        }
        let back = start + Duration::from_secs(599) + REPORTED_AGAIN;
        for failure in &failures {
            assert!(trouble.is_news(failure, false, back));
        }
    }

    #[test]
    fn reports_are_bounded_whatever_the_details_are() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let mut reports = 0;
        for n in 0..1_000 {
            for fault in [RedisFault::Forbidden, RedisFault::Unreachable] {
                let failure = failure(fault, &n.to_string());
                reports += usize::from(trouble.is_news(&failure, true, now));
            }
        }
        assert_eq!(reports, MOST_REPORTED);
        assert_eq!(trouble.reported.len(), MOST_REPORTED);
        assert!(trouble.is_news(&failure(RedisFault::Tls, ""), true, now));
    }
}
