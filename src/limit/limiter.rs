//! [`Limiter`]: where budgets are kept.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::limit::gcra::{Cell, Rate, Step};
use crate::limit::key::LimitKey;
use crate::limit::layer_names::LayerNames;
use crate::limit::quotas::Quotas;
use crate::pending::Pending;

/// Keeps budgets, and decides about them: in this process
/// ([`MemoryLimiter`](crate::limit::MemoryLimiter)), or for many.
///
/// # What a wrong answer costs
/// A budget that is forgotten admits one burst too many. One that is charged twice refuses a
/// caller early, for as long as the charge takes to come back.
pub trait Limiter: Send + Sync + 'static {
    /// Pays for `cost` units of each quota, or of none if one of them has not enough. A cost
    /// of 0 changes nothing, and says how things stand.
    fn take(
        &self,
        key: &LimitKey<'_>,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Pending<Result<Decision, LimiterUnavailable>>;

    /// Charges more for what was paid, or gives some of it back: when it is known what a
    /// request has cost. Whoever is charged more than there is is in debt, of one burst at
    /// the most.
    fn settle(&self, ticket: Ticket, quotas: &Quotas, units: i64, now: Timestamp) -> Pending<()>;

    /// Refuses everything until then; or, if that has passed, no longer.
    fn ban(&self, ticket: Ticket, until: Timestamp, now: Timestamp) -> Pending<()>;

    /// Gives the whole budget back, and ends a ban.
    fn reset(&self, ticket: Ticket, quotas: &Quotas) -> Pending<()>;

    /// What names a key to this limiter.
    fn ticket(&self, key: &LimitKey<'_>) -> Ticket;

    /// Returns the names of the layers that keep their budgets in this limiter. Clones that
    /// share budgets must return the same [`LayerNames`]. A limiter that wraps another one
    /// returns those of the other.
    ///
    /// Defaults to `None`: two layers with the same name are not detected then.
    fn layer_names(&self) -> Option<&LayerNames> {
        None
    }
}

/// A key, as its limiter knows it, and where it was paid for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket {
    key: u128,
    #[cfg(feature = "redis")]
    pub(crate) paid: Paid,
}

/// Where a request was paid for, if a budget is kept in two places: what is made up for later
/// is made up for there.
#[cfg(feature = "redis")]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Paid {
    #[default]
    InBoth,
    /// The budget that all share, and not what is kept of it here.
    InStore,
    /// What is kept here, as the store could not be asked.
    Here,
}

impl Ticket {
    /// A ticket that a limiter of your own hands out.
    #[must_use]
    pub const fn new(key: u128) -> Self {
        Self {
            key,
            #[cfg(feature = "redis")]
            paid: Paid::InBoth,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) const fn paid(self, paid: Paid) -> Self {
        Self { paid, ..self }
    }

    /// What it was made of.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.key
    }
}

/// What a limiter has decided.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) ticket: Ticket,
    /// By whose clock.
    pub(crate) now: Timestamp,
    /// How the quotas stand now, in their order.
    pub(crate) cells: [Cell; Quotas::MOST],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Admitted,
    /// By a bit for each quota that had not enough. Without a wait, it will never be
    /// enough.
    Refused {
        violated: u8,
        wait: Option<Duration>,
    },
    Banned {
        wait: Duration,
    },
}

impl Decision {
    /// Steps all cells, or none.
    pub(crate) fn step(
        rates: &[Rate],
        mut cells: [Cell; Quotas::MOST],
        cost: u32,
        ticket: Ticket,
        now: Timestamp,
    ) -> Self {
        let mut paid = cells;
        let (mut violated, mut wait) = (0_u8, Some(Duration::ZERO));
        for (at, rate) in rates.iter().enumerate() {
            match rate.step(cells[at], now, cost) {
                Step::Paid(cell) => paid[at] = cell,
                Step::Wait(held, time) => {
                    cells[at] = held;
                    violated |= 1 << at;
                    wait = wait.map(|wait| wait.max(time));
                }
                Step::Never => {
                    violated |= 1 << at;
                    wait = None;
                }
            }
        }
        let (verdict, cells) = if violated == 0 {
            (Verdict::Admitted, paid)
        } else {
            (Verdict::Refused { violated, wait }, cells)
        };
        Self {
            verdict,
            ticket,
            now,
            cells,
        }
    }

    /// Whether it was paid for.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.verdict == Verdict::Admitted
    }

    /// What to [settle](Limiter::settle) with.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// When it was decided, by the clock of the limiter.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// How long to wait before it makes sense to try again. None if it was paid for, or
    /// never will be.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        match self.verdict {
            Verdict::Admitted => None,
            Verdict::Refused { wait, .. } => wait,
            Verdict::Banned { wait } => Some(wait),
        }
    }

    /// Returns the units that a client may still use of a quota: 0 while it is banned.
    pub(crate) fn left(&self, rate: &Rate, cell: Cell) -> u32 {
        match self.verdict {
            Verdict::Banned { .. } => 0,
            _ => rate.remaining(cell, self.now),
        }
    }

    /// How many units each quota has left, in their order.
    pub fn remaining(&self, quotas: &Quotas) -> impl Iterator<Item = u32> {
        let cells = quotas.rates().iter().zip(self.cells);
        cells.map(|(rate, cell)| rate.remaining(cell, self.now))
    }
}

/// The limiter could not be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct LimiterUnavailable;

impl fmt::Display for LimiterUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the limiter could not be asked")
    }
}

impl std::error::Error for LimiterUnavailable {}
