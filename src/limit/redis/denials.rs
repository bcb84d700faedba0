//! [`Denials`]: who need not be asked about, because the answer is known.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::limit::gcra::Cell;
use crate::limit::limiter::{Decision, Ticket, Verdict};
use crate::limit::quotas::Quotas;

/// The last refusals.
///
/// A budget comes back at its rate and not faster, so what was refused at one instant stays
/// refused for a time that is known. Only a refund, a reset or the end of a ban cut it short.
/// Those of this process are heard of at once, those of others after [`KEPT`].
pub(super) struct Denials {
    shards: Box<[Mutex<HashMap<u128, Denial>>]>,
}

struct Denial {
    quotas: Quotas,
    cells: [Cell; Quotas::MOST],
    banned_until: Option<Timestamp>,
    /// By the clock of the server, at some instant between the two that follow.
    now: Timestamp,
    asked: Instant,
    answered: Instant,
}

impl Denials {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn find(
        &self,
        ticket: Ticket,
        quotas: &Quotas,
        cost: u32,
        at: Instant,
    ) -> Option<Decision> {
        let mut shard = self.shard(ticket).lock();
        let denial = shard.get(&ticket.get())?;
        if denial.is_old(at) {
            shard.remove(&ticket.get());
            return None;
        }
        denial.decide(ticket, quotas, cost, at)
    }

    pub(super) fn keep(
        &self,
        decision: &Decision,
        quotas: &Quotas,
        asked: Instant,
        answered: Instant,
    ) {
        let banned_until = match decision.verdict {
            Verdict::Banned { wait } => Some(decision.now.saturating_add(wait)),
            Verdict::Refused { .. } => None,
            Verdict::Admitted => return,
        };
        let denial = Denial {
            quotas: quotas.clone(),
            cells: decision.cells,
            banned_until,
            now: decision.now,
            asked,
            answered,
        };
        let mut shard = self.shard(decision.ticket).lock();
        if shard.len() >= MOST {
            shard.retain(|_, denial| !denial.is_old(answered));
        }
        // Full of those who are refused at this moment: who is not kept is asked about.
        if shard.len() < MOST {
            shard.insert(decision.ticket.get(), denial);
        }
    }

    pub(super) fn forget(&self, ticket: Ticket) {
        self.shard(ticket).lock().remove(&ticket.get());
    }

    /// Tickets are digests.
    fn shard(&self, ticket: Ticket) -> &Mutex<HashMap<u128, Denial>> {
        &self.shards[ticket.get() as usize % SHARDS]
    }
}

impl Denial {
    fn is_old(&self, at: Instant) -> bool {
        at.saturating_duration_since(self.answered) >= KEPT
    }

    fn decide(&self, ticket: Ticket, quotas: &Quotas, cost: u32, at: Instant) -> Option<Decision> {
        let are_same =
            self.quotas.rates() == quotas.rates() && self.quotas.marks() == quotas.marks();
        if !are_same {
            return None;
        }
        // The server's time is not later than the one, and not earlier than the other: the
        // refusal ends by the one, and what clients are told is by the other.
        let latest = self.since(self.asked, at);
        let earliest = self.since(self.answered, at);
        if let Some(until) = self.banned_until {
            let verdict = Verdict::Banned {
                wait: until.since(earliest),
            };
            return (until > latest).then_some(Decision {
                verdict,
                ticket,
                now: earliest,
                cells: self.cells,
            });
        }
        let step = |now| Decision::step(quotas.rates(), self.cells, cost, ticket, now);
        (!step(latest).is_admitted()).then(|| step(earliest))
    }

    fn since(&self, then: Instant, at: Instant) -> Timestamp {
        self.now.saturating_add(at.saturating_duration_since(then))
    }
}

const SHARDS: usize = 16;
/// Of each shard.
const MOST: usize = 640;
/// For how long a refusal is remembered at the most.
pub(super) const KEPT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Quota;

    fn refusal(quotas: &Quotas, ticket: u128) -> Decision {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let ticket = Ticket::new(ticket);
        let full = Decision::step(quotas.rates(), Default::default(), 10, ticket, now);
        Decision::step(quotas.rates(), full.cells, 1, ticket, now)
    }

    #[test]
    fn a_refusal_holds_for_as_long_as_it_is_true_and_for_who_it_is_true() {
        let (denials, start) = (Denials::new(), Instant::now());
        let ms = Duration::from_millis;
        let quotas = Quotas::from(Quota::per_second(10));
        let refused = refusal(&quotas, 7);
        denials.keep(&refused, &quotas, start, start + ms(20));
        let find = |quotas: &Quotas, cost, at| {
            denials
                .find(Ticket::new(7), quotas, cost, start + at)
                .map(|found| found.wait())
        };
        assert_eq!(
            find(&quotas, 1, ms(20)),
            Some(Some(ms(100))),
            "the wait is enough"
        );
        assert_eq!(find(&quotas, 1, ms(99)), Some(Some(ms(21))));
        assert_eq!(
            find(&quotas, 1, ms(100)),
            None,
            "the server may have it by now"
        );
        assert_eq!(
            find(&quotas, 2, ms(100)),
            Some(Some(ms(120))),
            "but not two"
        );
        assert_eq!(
            find(&quotas, 0, ms(20)),
            None,
            "who looks is shown the truth"
        );
        assert_eq!(
            find(&quotas, 11, ms(20)),
            Some(None),
            "there is nothing to wait for"
        );
        assert_eq!(
            find(&Quota::per_second(11).into(), 1, ms(20)),
            None,
            "a larger quota"
        );
        assert!(denials.find(Ticket::new(8), &quotas, 1, start).is_none());
        denials.forget(Ticket::new(7));
        assert_eq!(find(&quotas, 1, ms(20)), None);
    }

    #[test]
    fn there_are_no_more_than_there_is_room_for_and_none_is_old() {
        let (denials, start) = (Denials::new(), Instant::now());
        let quotas = Quotas::from(Quota::per_day(10));
        for ticket in 0..20_000 {
            denials.keep(&refusal(&quotas, ticket), &quotas, start, start);
        }
        let kept = || {
            denials
                .shards
                .iter()
                .map(|shard| shard.lock().len())
                .sum::<usize>()
        };
        assert_eq!(kept(), SHARDS * MOST);
        let later = start + KEPT;
        assert!(denials.find(Ticket::new(3), &quotas, 1, later).is_none());
        denials.keep(&refusal(&quotas, 20_000), &quotas, later, later);
        assert!(
            denials
                .find(Ticket::new(20_000), &quotas, 1, later)
                .is_some()
        );
    }
}
