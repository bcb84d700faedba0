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
    /// Pays for one unit: the new state, or how long until it can be paid.
    pub(crate) fn pay(self, paid_until: Timestamp, now: Timestamp) -> Result<Timestamp, Duration> {
        // A clock that stepped back must not lock anybody out for longer than a burst.
        let latest = now.saturating_add(self.tolerance);
        let paid = paid_until
            .max(now)
            .min(latest)
            .saturating_add(self.interval);
        if paid > latest {
            Err(paid.since(latest))
        } else {
            Ok(paid)
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

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut state = Timestamp::EPOCH;
        for _ in 0..5 {
            state = RATE.pay(state, at(0)).unwrap();
        }
        assert_eq!(RATE.pay(state, at(0)), Err(Duration::from_secs(6)));
        assert_eq!(RATE.pay(state, at(5)), Err(Duration::from_secs(1)));
        state = RATE.pay(state, at(6)).unwrap();
        assert!(RATE.pay(state, at(6)).is_err());
        assert!(RATE.pay(RATE.refund(state), at(6)).is_ok());
    }

    #[test]
    fn a_clock_that_steps_back_locks_nobody_out() {
        let state = RATE.pay(at(3_600), at(3_600)).unwrap();
        assert!(RATE.pay(state, at(0)).unwrap_err() <= RATE.interval);
    }

    proptest! {
        /// Burst + rate · Δ is what is admitted, whatever the times between.
        #[test]
        fn no_more_is_admitted_than_the_rate_allows(gaps in prop::collection::vec(0_u64..20, 1..200)) {
            let (mut state, mut now, mut admitted) = (Timestamp::EPOCH, 0, 0_u64);
            for gap in gaps {
                now += gap;
                if let Ok(paid) = RATE.pay(state, at(now)) {
                    state = paid;
                    admitted += 1;
                }
                prop_assert!(admitted <= 5 + now / 6);
            }
        }
    }
}
