//! The generic cell rate algorithm as arithmetic: no clock, no storage, no rounding.
//!
//! The state of a [`Cell`] is one instant, its *theoretical arrival time*: how far it is
//! paid for. Each unit moves it by the emission interval, the period divided by the count; it
//! may run ahead of the time by the tolerance, which is the burst times the interval. A cell
//! whose instant has passed is as good as new.
//!
//! Instants are nanoseconds and parts of one, in as many parts as the count, so that what is
//! computed is what is true: 7 a minute is 7 a minute, and not one every 8,571,428,571 ns.

use std::time::Duration;

use crate::clock::Timestamp;

/// How far something is paid for.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Cell {
    nanos: u64,
    /// Parts of a nanosecond, in as many parts as the count of the rate.
    part: u32,
}

impl Cell {
    /// Paid until now, and no further.
    pub(crate) const fn at(now: Timestamp) -> Self {
        Self {
            nanos: now.unix_nanos(),
            part: 0,
        }
    }

    /// Whether it is as good as one that was never used.
    pub(crate) fn is_new(self, now: Timestamp) -> bool {
        self <= Self::at(now)
    }

    /// For another encoding of it.
    pub(crate) const fn parts(self) -> (u64, u32) {
        (self.nanos, self.part)
    }

    #[cfg(any(feature = "redis", test))]
    pub(crate) const fn from_parts(nanos: u64, part: u32) -> Self {
        Self { nanos, part }
    }
}

/// A rate, and how far ahead of it one may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rate {
    /// In nanoseconds.
    period: u64,
    count: u32,
    burst: u32,
    /// What one unit costs.
    interval: Cell,
    /// The burst, as time.
    tolerance: Cell,
}

/// What became of a cell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Paid: this is the state now.
    Paid(Cell),
    /// Not paid. Waiting that long is enough. The state is what it was, or what a clock
    /// that has stepped back leaves of it: kept, or the refusals would last for as long as
    /// the step.
    Wait(Cell, Duration),
    /// More than the burst is never paid at once.
    Never,
}

impl Rate {
    /// `count` in `period`, `burst` at once. What is zero is taken for one.
    pub(crate) fn new(count: u32, period: Duration, burst: u32) -> Self {
        let (count, burst) = (count.max(1), burst.max(1));
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let rate = Self {
            period,
            count,
            burst,
            interval: Cell::default(),
            tolerance: Cell::default(),
        };
        Self {
            interval: rate.cost(1),
            tolerance: rate.cost(burst),
            ..rate
        }
    }

    /// Pays for `units`, which may be none.
    pub(crate) fn step(self, cell: Cell, now: Timestamp, units: u32) -> Step {
        if units > self.burst {
            return Step::Never;
        }
        let (held, latest) = (self.held(cell, now), self.latest(now));
        let cost = if units == 1 {
            self.interval
        } else {
            self.cost(units)
        };
        let paid = self.add(held, cost);
        if paid > latest {
            // Up, so that the wait is enough.
            let wait = paid.nanos - latest.nanos + u64::from(paid.part > latest.part);
            return Step::Wait(held, Duration::from_nanos(wait));
        }
        Step::Paid(paid)
    }

    /// Charges after the fact, whether it can be paid or not: then there is a debt, of one
    /// burst at the most.
    pub(crate) fn charge(self, cell: Cell, now: Timestamp, units: u32) -> Cell {
        let most = self.add(self.latest(now), self.tolerance);
        self.add(self.held(cell, now), self.cost(units)).min(most)
    }

    /// Takes a payment back.
    pub(crate) fn refund(self, cell: Cell, units: u32) -> Cell {
        let cost = self.cost(units);
        let part = cell.part.min(self.count - 1);
        let borrow = u64::from(part < cost.part);
        let nanos = cell.nanos.checked_sub(cost.nanos);
        let Some(nanos) = nanos.and_then(|nanos| nanos.checked_sub(borrow)) else {
            return Cell::default();
        };
        // Less than the count, as both parts are.
        let part = if borrow == 0 {
            part - cost.part
        } else {
            part + (self.count - cost.part)
        };
        Cell { nanos, part }
    }

    /// How many units can be paid for at once.
    pub(crate) fn remaining(self, cell: Cell, now: Timestamp) -> u32 {
        let (held, latest) = (self.held(cell, now), self.latest(now));
        if held >= latest {
            return 0;
        }
        // In parts, of which a unit has as many as the period has nanoseconds.
        let free = u128::from(latest.nanos - held.nanos) * u128::from(self.count);
        let parts = (free + u128::from(latest.part)).saturating_sub(held.part.into());
        let (units, _) = divide(parts, self.period.max(1));
        u32::try_from(units).unwrap_or(self.burst)
    }

    /// How long until everything is there again.
    pub(crate) fn until_full(self, cell: Cell, now: Timestamp) -> Duration {
        let held = self.held(cell, now);
        Duration::from_nanos(held.nanos - now.unix_nanos() + u64::from(held.part > 0))
    }

    /// How long so many units take to come back, rounded up.
    pub(crate) fn time_of(self, units: u32) -> Duration {
        let cost = self.cost(units);
        Duration::from_nanos(cost.nanos.saturating_add(u64::from(cost.part > 0)))
    }

    /// What the state of a cell means now. One that has passed is new. One that is further
    /// ahead than any debt is of a clock that has stepped back, or of a larger burst: it is
    /// taken for one that has used its burst.
    fn held(self, cell: Cell, now: Timestamp) -> Cell {
        let (part, latest) = (cell.part.min(self.count - 1), self.latest(now));
        let held = Cell { part, ..cell }.max(Cell::at(now));
        if held > self.add(latest, self.tolerance) {
            latest
        } else {
            held
        }
    }

    fn latest(self, now: Timestamp) -> Cell {
        self.add(Cell::at(now), self.tolerance)
    }

    fn cost(self, units: u32) -> Cell {
        let parts = u128::from(self.period) * u128::from(units);
        let (nanos, part) = divide(parts, self.count.into());
        // Less than the count, which is one of 32 bits.
        let part = u32::try_from(part).unwrap_or(0);
        Cell { nanos, part }
    }

    fn add(self, cell: Cell, cost: Cell) -> Cell {
        let part = u64::from(cell.part) + u64::from(cost.part);
        let carry = u64::from(part >= u64::from(self.count));
        let part = part - carry * u64::from(self.count);
        Cell {
            nanos: cell.nanos.saturating_add(cost.nanos).saturating_add(carry),
            part: u32::try_from(part).unwrap_or(0),
        }
    }
}

/// The quotient, which saturates, and the remainder. Mostly there is no need for 128 bits, which
/// no processor divides at once.
fn divide(dividend: u128, divisor: u64) -> (u64, u64) {
    if let Ok(dividend) = u64::try_from(dividend) {
        return (dividend / divisor, dividend % divisor);
    }
    let divisor = u128::from(divisor);
    let quotient = u64::try_from(dividend / divisor).unwrap_or(u64::MAX);
    // Less than the divisor, which is one of 64 bits.
    let remainder = u64::try_from(dividend % divisor).unwrap_or(0);
    (quotient, remainder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::EPOCH.saturating_add(Duration::from_nanos(nanos))
    }

    /// What it should do, in whole parts of nanoseconds and with all the room there is.
    struct Model {
        count: i128,
        period: i128,
        burst: i128,
        /// In parts.
        paid_until: i128,
    }

    impl Model {
        fn step(&mut self, now: u64, units: u32) -> Result<(), Option<i128>> {
            let (now, units) = (i128::from(now) * self.count, i128::from(units));
            if units > self.burst {
                return Err(None);
            }
            let latest = now + self.burst * self.period;
            self.paid_until = self.paid_until.max(now);
            if self.paid_until > latest + self.burst * self.period {
                self.paid_until = latest;
            }
            let paid = self.paid_until + units * self.period;
            if paid > latest {
                let wait = paid - latest;
                return Err(Some((wait + self.count - 1) / self.count));
            }
            self.paid_until = paid;
            Ok(())
        }

        fn remaining(&self, now: u64) -> i128 {
            let now = i128::from(now) * self.count;
            let free = now + self.burst * self.period - self.paid_until.max(now);
            free.max(0) / self.period
        }
    }

    proptest! {
        /// The code against the model, whatever the clock does.
        #[test]
        fn what_is_computed_is_what_is_true(
            count in 1_u32..100_000,
            period in 1_000_000_u64..4_000_000_000_000,
            burst in 1_u32..1_000,
            steps in prop::collection::vec((0_u64..10_000_000_000_000, 0_u32..20), 1..100),
        ) {
            let rate = Rate::new(count, Duration::from_nanos(period), burst);
            let mut model = Model {
                count: count.into(), period: period.into(), burst: burst.into(), paid_until: 0,
            };
            let mut cell = Cell::default();
            for (now, units) in steps {
                let expected = model.step(now, units);
                match rate.step(cell, at(now), units) {
                    Step::Paid(paid) => {
                        prop_assert_eq!(expected, Ok(()));
                        cell = paid;
                    }
                    Step::Wait(held, wait) => {
                        prop_assert_eq!(expected, Err(Some(i128::try_from(wait.as_nanos()).unwrap())));
                        cell = held;
                        let later = at(now).saturating_add(wait);
                        prop_assert!(matches!(rate.step(cell, later, units), Step::Paid(_)));
                    }
                    Step::Never => prop_assert_eq!(expected, Err(None)),
                }
                if units <= burst {
                    let remaining = i128::from(rate.remaining(cell, at(now)));
                    prop_assert_eq!(remaining, model.remaining(now));
                }
            }
        }

        /// What was charged and is taken back has not been.
        #[test]
        fn a_refund_undoes_a_payment(units in 1_u32..50, count in 1_u32..1_000, ahead in 0_u32..50) {
            let rate = Rate::new(count, Duration::from_secs(60), 100);
            let now = at(1 << 60);
            let Step::Paid(before) = rate.step(Cell::default(), now, ahead) else { unreachable!() };
            prop_assert_eq!(rate.refund(rate.charge(before, now, units), units), before);
        }
    }

    #[test]
    fn no_clock_and_no_cost_makes_it_overflow() {
        let rate = Rate::new(1, Duration::from_secs(366 * 86_400), 10);
        for now in [Timestamp::EPOCH, Timestamp::MAX] {
            for cell in [Cell::default(), Cell::from_parts(u64::MAX, u32::MAX)] {
                for units in [0, 1, 10, u32::MAX] {
                    let _ = rate.step(cell, now, units);
                }
                let _ = rate.remaining(cell, now);
                let _ = rate.until_full(cell, now);
                for units in [0, 1, u32::MAX] {
                    let _ = rate.charge(cell, now, units);
                    let _ = rate.refund(cell, units);
                }
            }
        }
    }

    /// A debt is of one burst at the most: nobody is locked out for longer.
    #[test]
    fn a_debt_is_bounded() {
        let rate = Rate::new(10, Duration::from_secs(1), 10);
        let now = at(1 << 60);
        let cell = rate.charge(Cell::default(), now, u32::MAX);
        let later = now.saturating_add(Duration::from_millis(1_100));
        assert!(matches!(
            rate.step(cell, later, 1),
            Step::Wait(..) | Step::Paid(_)
        ));
        let later = now.saturating_add(Duration::from_millis(2_000));
        assert!(matches!(rate.step(cell, later, 1), Step::Paid(_)));
    }

    #[test]
    fn the_sequences_of_the_project_hold() {
        let file = include_str!("../../tests/vectors/gcra-sequences.json");
        let file: Value = serde_json::from_str(file).unwrap();
        for (n, sequence) in file["sequences"].as_array().unwrap().iter().enumerate() {
            let interval = sequence["emission_interval_ns"].as_u64().unwrap();
            let burst = u32::try_from(sequence["burst"].as_u64().unwrap()).unwrap();
            let rate = Rate::new(1, Duration::from_nanos(interval), burst);
            let mut cell = Cell::default();
            for (i, step) in sequence["steps"].as_array().unwrap().iter().enumerate() {
                let now = at(step["t_ns"].as_u64().unwrap());
                let cost = u32::try_from(step["cost"].as_u64().unwrap()).unwrap();
                let verdict = rate.step(cell, now, cost);
                let retry_after = match verdict {
                    // Who pays nothing has only looked.
                    Step::Paid(_) if cost == 0 => None,
                    Step::Paid(paid) => {
                        cell = paid;
                        None
                    }
                    Step::Wait(held, wait) => {
                        cell = held;
                        Some(wait)
                    }
                    Step::Never => None,
                };
                let what = format!("sequence {n}, step {i}: {verdict:?}");
                let allowed = matches!(verdict, Step::Paid(_));
                assert_eq!(allowed, step["allowed"].as_bool().unwrap(), "{what}");
                let remaining = u64::from(rate.remaining(cell, now));
                assert_eq!(remaining, step["remaining"].as_u64().unwrap(), "{what}");
                let reset = rate.until_full(cell, now).as_nanos();
                assert_eq!(
                    reset,
                    u128::from(step["reset_after_ns"].as_u64().unwrap()),
                    "{what}"
                );
                let expected = step["retry_after_ns"].as_u64().map(Duration::from_nanos);
                assert_eq!(retry_after, expected, "{what}");
            }
        }
    }

    /// The table of `throttled`, which other limiters are tested with too.
    #[test]
    fn the_table_of_throttled_holds() {
        let Some(table) = crate::vectors::json("gcra/throttled_rate_test.json") else {
            return;
        };
        let seconds = |value: &Value| Duration::from_secs_f64(value.as_f64().unwrap());
        let interval = seconds(&table["quota"]["emission_interval_s"]);
        let burst = u32::try_from(table["quota"]["limit"].as_u64().unwrap()).unwrap();
        let rate = Rate::new(1, interval, burst);
        let start = at(1 << 60);
        let mut cell = Cell::default();
        for (n, row) in table["steps"].as_array().unwrap().iter().enumerate() {
            let now = start.saturating_add(seconds(&row["at_s"]));
            let cost = u32::try_from(row["cost"].as_u64().unwrap()).unwrap();
            let verdict = rate.step(cell, now, cost);
            let mut retry_after = -1.0;
            match verdict {
                Step::Paid(paid) if cost > 0 => cell = paid,
                Step::Wait(_, wait) => retry_after = wait.as_secs_f64(),
                Step::Paid(_) | Step::Never => {}
            }
            let limited = !matches!(verdict, Step::Paid(_));
            assert_eq!(limited, row["limited"].as_bool().unwrap(), "row {n}");
            assert_eq!(
                u64::from(rate.remaining(cell, now)),
                row["remaining"].as_u64().unwrap()
            );
            let reset = rate.until_full(cell, now);
            assert_eq!(reset, seconds(&row["reset_after_s"]), "row {n}");
            assert_eq!(
                retry_after,
                row["retry_after_s"].as_f64().unwrap(),
                "row {n}"
            );
        }
    }
}
