//! What is done while Redis cannot be asked.

use std::collections::HashMap;
use std::hash::RandomState;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::limit::gcra::{Cell, Step};
use crate::limit::key::LimitKey;
use crate::limit::limiter::{Decision, Limiter, LimiterUnavailable, Paid, Ticket};
use crate::limit::memory::MemoryLimiter;
use crate::limit::quotas::Quotas;
use crate::pending::Pending;

/// What a [`RedisLimiter`](crate::limit::RedisLimiter) does while Redis cannot be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum WhenDown {
    /// Decides in this process, by a share of each quota: `share` parts of `of`, as 1 of 4
    /// where there are four nodes. It knows what this process has admitted so far, so nobody
    /// gets a second burst because Redis went away.
    ///
    /// All nodes together admit `nodes · share / of` times the quota then: the quota itself
    /// if the shares add up to it.
    LocalShare {
        /// How many parts this process has.
        share: u32,
        /// Of how many.
        of: u32,
    },
    /// Admits everything. Whoever can make Redis fail has no limit then.
    Open,
    /// Refuses everything, with a 503.
    Closed,
}

impl Default for WhenDown {
    /// The whole of each quota, in this process: right for one node, and for some of them
    /// generous by their number.
    fn default() -> Self {
        Self::LocalShare { share: 1, of: 1 }
    }
}

/// Budgets in this process, kept warm beside those in Redis.
pub(super) struct Local {
    limiter: MemoryLimiter,
    when_down: WhenDown,
    /// By the address of the quotas that they are a share of, which are kept with them.
    shares: Mutex<HashMap<usize, (Quotas, Quotas), RandomState>>,
}

impl Local {
    pub(super) fn new(when_down: WhenDown) -> Self {
        Self {
            limiter: MemoryLimiter::new(),
            when_down,
            shares: Mutex::default(),
        }
    }

    /// Decides without Redis.
    pub(super) fn decide(
        &self,
        ticket: Ticket,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Result<Decision, LimiterUnavailable> {
        match self.when_down {
            WhenDown::LocalShare { .. } => self.take(ticket, quotas, cost, now),
            WhenDown::Open => {
                let new = [Cell::default(); Quotas::MOST];
                let ticket = ticket.paid(Paid::Here);
                Ok(Decision::step(quotas.rates(), new, 0, ticket, now))
            }
            WhenDown::Closed => Err(LimiterUnavailable),
        }
    }

    /// Steps along with what Redis has admitted. Where the share is used up there is nothing
    /// more to take from.
    pub(super) fn follow(
        &self,
        ticket: Ticket,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Paid {
        let taken = match cost {
            0 => return Paid::InBoth,
            _ if !self.is_kept() => return Paid::InStore,
            _ => self.take(ticket, quotas, cost, now),
        };
        if taken.is_ok_and(|decision| decision.is_admitted()) {
            Paid::InBoth
        } else {
            Paid::InStore
        }
    }

    /// Gives back nothing that was not taken.
    pub(super) fn settle(&self, ticket: Ticket, quotas: &Quotas, units: i64, now: Timestamp) {
        if self.is_kept() && (units > 0 || ticket.paid != Paid::InStore) {
            let quotas = self.share_of(quotas);
            let _ = self
                .limiter
                .settle(self.ticket(ticket), &quotas, units, now);
        }
    }

    pub(super) fn ban(&self, ticket: Ticket, until: Timestamp, now: Timestamp) {
        if self.is_kept() {
            let _ = self.limiter.ban(self.ticket(ticket), until, now);
        }
    }

    pub(super) fn reset(&self, ticket: Ticket, quotas: &Quotas) {
        if self.is_kept() {
            let _ = self.limiter.reset(self.ticket(ticket), quotas);
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self.when_down, WhenDown::LocalShare { .. })
    }

    fn take(
        &self,
        ticket: Ticket,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Result<Decision, LimiterUnavailable> {
        let share = self.share_of(quotas);
        let key = ticket.get().to_be_bytes();
        let Pending::Ready(taken) = self.limiter.take(&key_of(&key), &share, cost, now) else {
            return Err(LimiterUnavailable);
        };
        let mut decision = taken?;
        decision.ticket = ticket.paid(Paid::Here);
        if !is_same(&share, quotas) {
            decision.cells = in_terms_of(quotas, &share, &decision);
        }
        Ok(decision)
    }

    fn ticket(&self, ticket: Ticket) -> Ticket {
        self.limiter.ticket(&key_of(&ticket.get().to_be_bytes()))
    }

    fn share_of(&self, quotas: &Quotas) -> Quotas {
        let WhenDown::LocalShare { share, of } = self.when_down else {
            return quotas.clone();
        };
        if share == of {
            return quotas.clone();
        }
        let mut shares = self.shares.lock();
        if shares.len() >= MOST_SHARES {
            shares.clear();
        }
        let made = shares
            .entry(address(quotas))
            .or_insert_with(|| (quotas.clone(), quotas.share(share, of)));
        made.1.clone()
    }
}

/// What clients are told about is the quota that they know, of which they have as many units
/// left as of the share.
fn in_terms_of(quotas: &Quotas, share: &Quotas, decision: &Decision) -> [Cell; Quotas::MOST] {
    let mut cells = [Cell::default(); Quotas::MOST];
    let left = decision.remaining(share);
    for ((cell, left), quota) in cells.iter_mut().zip(left).zip(quotas.iter()) {
        let used = quota.burst_size().saturating_sub(left);
        if let Step::Paid(paid) = quota.rate().step(Cell::default(), decision.now, used) {
            *cell = paid;
        }
    }
    cells
}

fn is_same(a: &Quotas, b: &Quotas) -> bool {
    address(a) == address(b)
}

fn address(quotas: &Quotas) -> usize {
    quotas.rates().as_ptr().addr()
}

fn key_of(ticket: &[u8; 16]) -> LimitKey<'_> {
    LimitKey::header(ticket)
}

/// How many sets of quotas there are shares of at hand.
const MOST_SHARES: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::Quota;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn admitted(local: &Local, quotas: &Quotas, asked: u32, now: Timestamp) -> usize {
        let take = |_| {
            local
                .decide(Ticket::new(7), quotas, 1, now)
                .unwrap()
                .is_admitted()
        };
        (0..asked)
            .map(take)
            .filter(|is_admitted| *is_admitted)
            .count()
    }

    #[test]
    fn a_share_is_of_the_burst_and_of_the_rate_and_never_nothing() {
        let local = Local::new(WhenDown::LocalShare { share: 1, of: 4 });
        let quotas = Quotas::from([Quota::per_second(40).burst(20), Quota::per_minute(1_200)]);
        assert_eq!(admitted(&local, &quotas, 100, NOW), 5);
        let decision = local.decide(Ticket::new(7), &quotas, 1, NOW).unwrap();
        assert_eq!(decision.wait(), Some(Duration::from_millis(100)));
        assert_eq!(decision.remaining(&quotas).collect::<Vec<_>>(), [0, 295]);
        let later = NOW.saturating_add(Duration::from_secs(1));
        assert_eq!(admitted(&local, &quotas, 100, later), 5);
        let one = Quotas::from(Quota::per_second(1));
        assert_eq!(admitted(&Local::new(local.when_down), &one, 9, NOW), 1);
    }

    #[test]
    fn what_redis_has_admitted_is_not_admitted_again() {
        let local = Local::new(WhenDown::default());
        let quotas = Quotas::from(Quota::per_minute(10));
        for _ in 0..7 {
            assert_eq!(local.follow(Ticket::new(7), &quotas, 1, NOW), Paid::InBoth);
        }
        assert_eq!(admitted(&local, &quotas, 100, NOW), 3);
        local.settle(Ticket::new(7), &quotas, -2, NOW);
        assert_eq!(admitted(&local, &quotas, 100, NOW), 2);
        // What the share had no room for is not given back to it.
        let paid = local.follow(Ticket::new(7), &quotas, 1, NOW);
        local.settle(Ticket::new(7).paid(paid), &quotas, -1, NOW);
        assert_eq!(admitted(&local, &quotas, 100, NOW), 0);
        local.reset(Ticket::new(7), &quotas);
        assert_eq!(admitted(&local, &quotas, 100, NOW), 10);
    }
}
