//! The generic cell rate algorithm as arithmetic: no clock, no storage.
//!
//! The state of a cell is one instant, its *theoretical arrival time*: how far it is
//! paid for. Each unit moves it by the emission interval; it may run ahead of the time
//! by the tolerance, which is the burst times the interval. A cell whose instant has
//! passed is as good as new.

use std::time::Duration;

use crate::clock::Timestamp;

/// A rate and how far ahead of it one may run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// The emission interval: what one unit costs.
    pub(crate) interval: Duration,
    /// The burst, as time.
    pub(crate) tolerance: Duration,
}

impl Rate {
    /// Pays for one unit: the new state, and how long until it can be paid if it cannot.
    pub(crate) fn pay(
        self,
        paid_until: Timestamp,
        now: Timestamp,
    ) -> (Timestamp, Result<(), Duration>) {
        // A state beyond this is of a clock that has stepped back since. It is not kept, or
        // the refusals would last for as long as the step.
        let latest = now.saturating_add(self.tolerance);
        let held = paid_until.max(now).min(latest);
        let paid = held.saturating_add(self.interval);
        if paid > latest {
            (held, Err(paid.since(latest)))
        } else {
            (paid, Ok(()))
        }
    }

    /// Takes a payment back.
    pub(crate) fn refund(self, paid_until: Timestamp) -> Timestamp {
        paid_until.saturating_sub(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        interval: Duration::from_secs(6),
        tolerance: Duration::from_secs(30),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    fn pay(state: &mut Timestamp, now: Timestamp) -> Result<(), Duration> {
        let paid;
        (*state, paid) = RATE.pay(*state, now);
        paid
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut state = Timestamp::EPOCH;
        for _ in 0..5 {
            pay(&mut state, at(0)).unwrap();
        }
        assert_eq!(pay(&mut state, at(0)), Err(Duration::from_secs(6)));
        assert_eq!(pay(&mut state, at(5)), Err(Duration::from_secs(1)));
        pay(&mut state, at(6)).unwrap();
        assert!(pay(&mut state, at(6)).is_err());
        state = RATE.refund(state);
        assert!(pay(&mut state, at(6)).is_ok());
    }

    #[test]
    fn after_a_clock_has_stepped_back_waiting_as_told_is_enough() {
        let mut state = Timestamp::EPOCH;
        pay(&mut state, at(3_600)).unwrap();
        let wait = pay(&mut state, at(0)).unwrap_err();
        assert!(wait <= RATE.interval);
        assert!(pay(&mut state, at(0).saturating_add(wait)).is_ok());
    }

    proptest! {
        /// Burst + rate · Δ is what is admitted, whatever the times between.
        #[test]
        fn no_more_is_admitted_than_the_rate_allows(gaps in prop::collection::vec(0_u64..20, 1..200)) {
            let (mut state, mut now, mut admitted) = (Timestamp::EPOCH, 0, 0_u64);
            for gap in gaps {
                now += gap;
                admitted += u64::from(pay(&mut state, at(now)).is_ok());
                prop_assert!(admitted <= 5 + now / 6);
            }
        }

        /// Whatever the clock does, who waits as told, by that clock, is let in.
        #[test]
        fn waiting_as_told_is_enough(times in prop::collection::vec(0_u64..10_000, 1..100)) {
            let mut state = Timestamp::EPOCH;
            for now in times {
                if let Err(wait) = pay(&mut state, at(now)) {
                    let later = at(now).saturating_add(wait);
                    prop_assert!(RATE.pay(state, later).1.is_ok());
                }
            }
        }
    }
}
