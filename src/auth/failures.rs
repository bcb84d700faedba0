//! [`Failures`]: how often networks have failed, in memory of a fixed size.

use std::array;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::Timestamp;
use crate::limit::gcra::{Cell, Rate, Step};

/// How many networks share a lock, and compete for room when there is none.
const WAYS: usize = 4;

/// A table of rates by network. Its memory is allocated when it is made.
///
/// A network that has no room gets that of the one closest to a clean slate: under a
/// flood from more networks than there is room for, the least guilty are forgotten
/// first, and forgetting is counted.
pub(crate) struct Failures {
    rate: Rate,
    sets: Box<[Mutex<[Slot; WAYS]>]>,
    seed: RandomState,
    forgotten: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// The hash of the network, under a seed that nobody knows.
    network: u64,
    paid: Cell,
}

impl Failures {
    pub(crate) fn new(rate: Rate, networks: usize) -> Self {
        let sets = networks.div_ceil(WAYS).next_power_of_two();
        Self {
            rate,
            sets: (0..sets)
                .map(|_| Mutex::new(array::from_fn(|_| Slot::default())))
                .collect(),
            seed: RandomState::new(),
            forgotten: AtomicU64::new(0),
        }
    }

    /// Charges a network for one failure, or says how long until it can be charged.
    pub(crate) fn charge(&self, network: IpNet, now: Timestamp) -> Result<(), Duration> {
        self.with_slot(network, |slots, hash| {
            let held = slots.iter().position(|slot| slot.network == hash);
            let index = held.unwrap_or_else(|| closest_to_clean(slots));
            if held.is_none() {
                if !slots[index].paid.is_new(now) {
                    self.forgotten.fetch_add(1, Ordering::Relaxed);
                }
                slots[index] = Slot {
                    network: hash,
                    paid: Cell::at(now),
                };
            }
            let (paid, charged) = match self.rate.step(slots[index].paid, now, 1) {
                Step::Paid(paid) => (paid, Ok(())),
                Step::Wait(held, wait) => (held, Err(wait)),
                // One unit is never more than the burst.
                Step::Never => return Ok(()),
            };
            slots[index].paid = paid;
            charged
        })
    }

    /// Returns how many failures can be charged to a network now, at least 1.
    ///
    /// # Errors
    /// Returns the time until the next one can be charged.
    pub(crate) fn allowance(&self, network: IpNet, now: Timestamp) -> Result<u32, Duration> {
        self.with_slot(network, |slots, hash| {
            let Some(slot) = slots.iter_mut().find(|slot| slot.network == hash) else {
                return Ok(self.rate.remaining(Cell::at(now), now));
            };
            match self.rate.step(slot.paid, now, 1) {
                Step::Wait(held, wait) => {
                    // Kept, so that a clock that was set back holds nobody back for longer.
                    slot.paid = held;
                    Err(wait)
                }
                Step::Paid(_) | Step::Never => Ok(self.rate.remaining(slot.paid, now).max(1)),
            }
        })
    }

    /// How often a network that had failed was forgotten for lack of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    fn with_slot<T>(&self, network: IpNet, run: impl FnOnce(&mut [Slot; WAYS], u64) -> T) -> T {
        // Zero is an empty slot's.
        let hash = self.seed.hash_one(network).max(1);
        let set = &self.sets[hash as usize & (self.sets.len() - 1)];
        let mut slots = set.lock().unwrap_or_else(PoisonError::into_inner);
        run(&mut slots, hash)
    }
}

fn closest_to_clean(slots: &[Slot; WAYS]) -> usize {
    let mut best = 0;
    for (index, slot) in slots.iter().enumerate() {
        if slot.paid < slots[best].paid {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn table(networks: usize) -> Failures {
        let rate = Rate::new(10, Duration::from_secs(60), 2);
        Failures::new(rate, networks)
    }

    fn network(i: u32) -> IpNet {
        IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(i)))
    }

    #[test]
    fn networks_are_charged_apart() {
        let table = table(1_024);
        assert!(table.charge(network(1), NOW).is_ok());
        assert!(table.charge(network(1), NOW).is_ok());
        assert_eq!(table.charge(network(1), NOW), Err(Duration::from_secs(6)));
        assert!(table.charge(network(2), NOW).is_ok());
        assert_eq!(
            table.allowance(network(1), NOW),
            Err(Duration::from_secs(6))
        );
        assert_eq!(table.allowance(network(2), NOW), Ok(1));
        assert_eq!(table.allowance(network(3), NOW), Ok(2));
        let later = NOW.saturating_add(Duration::from_secs(6));
        assert_eq!(table.allowance(network(1), later), Ok(1));
        assert!(table.charge(network(1), later).is_ok());
    }

    #[test]
    fn a_flood_forgets_the_least_guilty_first_and_says_how_many() {
        let table = table(4);
        // All fall into the one set of four.
        assert!(table.charge(network(1), NOW).is_ok());
        assert!(table.charge(network(1), NOW).is_ok());
        for i in 10..110 {
            assert!(table.charge(network(i), NOW).is_ok());
        }
        assert!(
            table.charge(network(1), NOW).is_err(),
            "the guiltiest is remembered"
        );
        assert_eq!(table.forgotten(), 100 - 3);
    }
}
