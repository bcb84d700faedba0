//! [`MemoryLimiter`]: budgets in this process.

use std::fmt;
use std::hash::RandomState;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;

use crate::clock::Timestamp;
use crate::limit::gcra::Cell;
use crate::limit::key::LimitKey;
use crate::limit::layer_names::LayerNames;
use crate::limit::limiter::{Decision, Limiter, LimiterUnavailable, Ticket, Verdict};
use crate::limit::quotas::Quotas;
use crate::pending::Pending;
use crate::sync::{Mutex, MutexGuard};

/// Budgets in this process: exact, and in bounded memory.
///
/// A budget that has come back is as good as one that was never used, so it is forgotten, a
/// few at a time, whenever another one is made. What is left are the budgets that are in use.
/// If there are more of them than [`MemoryLimiter::capacity`], a million unless set, the one
/// that is closest to being forgotten among a few makes room; that is counted, and admits one
/// burst too many.
///
/// # Cost
/// One look-up for each quota in a table of its own, behind one of 256 locks. Nothing is
/// allocated but for keys that are new. About 60 bytes for each quota of a caller, and up to
/// 105 where there is no room left and callers come and go.
///
/// # Time
/// Requests do not always arrive in the order in which they have looked at the clock. One that
/// comes up to five seconds late is decided by the latest time that is known. A clock that
/// steps back further has been set: budgets that are further ahead than any debt are taken for
/// used up then, so that one burst too many is admitted, and nobody is locked out for longer
/// than theirs takes to come back.
#[derive(Clone)]
pub struct MemoryLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Box<[Shard]>,
    seed: RandomState,
    /// Of each shard.
    capacity: usize,
    layers: LayerNames,
}

/// On a cache line of its own, so that neighbours do not wait for each other.
#[repr(align(64))]
#[derive(Default)]
struct Shard(Mutex<Slots>);

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Slots {
    table: HashTable<Slot>,
    /// Where to look next for what can be forgotten.
    hand: usize,
    evicted: u64,
    /// Whether anybody was ever banned: mostly nobody is.
    has_bans: bool,
    /// The latest time that a request came with.
    latest: Timestamp,
}

#[derive(Clone, Copy)]
struct Slot {
    /// The caller and the quota, under a seed that nobody knows.
    id: u64,
    cell: Cell,
}

impl MemoryLimiter {
    /// Room for a million budgets.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(1_000_000)
    }

    /// Room for so many budgets, one for each quota of a caller.
    #[must_use]
    pub fn with_capacity(budgets: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                shards: (0..SHARDS).map(|_| Shard::default()).collect(),
                seed: RandomState::new(),
                capacity: budgets
                    .div_ceil(SHARDS)
                    .clamp(LOOKED_AT, usize::MAX / SHARDS),
                layers: LayerNames::new(),
            }),
        }
    }

    /// How many budgets there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.inner.capacity * SHARDS
    }

    /// How many budgets are known at the moment, those included that have come back and
    /// were not forgotten yet.
    #[must_use]
    pub fn len(&self) -> usize {
        let shards = self.inner.shards.iter();
        shards.map(|shard| shard.lock().table.len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a budget that was in use had to make room for another.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        let shards = self.inner.shards.iter();
        shards.map(|shard| shard.lock().evicted).sum()
    }

    fn slots(&self, caller: u64) -> MutexGuard<'_, Slots> {
        // The upper bits: the table uses the others.
        let shard = (caller >> 56) as usize % SHARDS;
        self.inner.shards[shard].lock()
    }
}

impl Default for MemoryLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Limiter for MemoryLimiter {
    fn take(
        &self,
        key: &LimitKey<'_>,
        quotas: &Quotas,
        cost: u32,
        now: Timestamp,
    ) -> Pending<Result<Decision, LimiterUnavailable>> {
        let ticket = self.ticket(key);
        let caller = caller(ticket);
        let mut slots = self.slots(caller);
        let now = slots.in_order(now);
        if let Some(until) = slots.banned_until(caller, now) {
            let verdict = Verdict::Banned {
                wait: until.since(now),
            };
            let (cells, _) = slots.find_all(caller, quotas);
            return Ok(Decision {
                verdict,
                ticket,
                now,
                cells,
            })
            .into();
        }
        let (before, places) = slots.find_all(caller, quotas);
        let decision = Decision::step(quotas.rates(), before, cost, ticket, now);
        if cost > 0 {
            slots.put_all(
                caller,
                quotas,
                &decision.cells,
                places,
                now,
                self.inner.capacity,
            );
        }
        Ok(decision).into()
    }

    fn settle(&self, ticket: Ticket, quotas: &Quotas, units: i64, now: Timestamp) -> Pending<()> {
        let caller = caller(ticket);
        let magnitude = u32::try_from(units.unsigned_abs()).unwrap_or(u32::MAX);
        let mut slots = self.slots(caller);
        let now = slots.in_order(now);
        let (mut cells, places) = slots.find_all(caller, quotas);
        for (cell, rate) in cells.iter_mut().zip(quotas.rates()) {
            *cell = if units >= 0 {
                rate.charge(*cell, now, magnitude)
            } else {
                rate.refund(*cell, magnitude)
            };
        }
        slots.put_all(caller, quotas, &cells, places, now, self.inner.capacity);
        Pending::Ready(())
    }

    fn ban(&self, ticket: Ticket, until: Timestamp, now: Timestamp) -> Pending<()> {
        let caller = caller(ticket);
        let mut slots = self.slots(caller);
        slots.has_bans = true;
        slots.put(id(caller, BAN), Cell::at(until), now, self.inner.capacity);
        Pending::Ready(())
    }

    fn reset(&self, ticket: Ticket, quotas: &Quotas) -> Pending<()> {
        let caller = caller(ticket);
        let mut slots = self.slots(caller);
        for mark in quotas.marks().iter().chain([&BAN]) {
            slots.remove(id(caller, *mark));
        }
        Pending::Ready(())
    }

    fn ticket(&self, key: &LimitKey<'_>) -> Ticket {
        Ticket::new(key.hash_with(&self.inner.seed).into())
    }

    fn layer_names(&self) -> Option<&LayerNames> {
        Some(&self.inner.layers)
    }
}

/// Where the budgets of a caller are in the table.
type Places = [Option<usize>; Quotas::MOST];

impl Slots {
    /// The time of a request that may be late.
    fn in_order(&mut self, now: Timestamp) -> Timestamp {
        if now > self.latest || self.latest.since(now) > LATE {
            self.latest = now;
        }
        self.latest
    }

    fn find_all(&self, caller: u64, quotas: &Quotas) -> ([Cell; Quotas::MOST], Places) {
        let (mut cells, mut places) = ([Cell::default(); Quotas::MOST], [None; Quotas::MOST]);
        for (at, mark) in quotas.marks().iter().enumerate() {
            let id = id(caller, *mark);
            places[at] = self.table.find_bucket_index(id, |slot| slot.id == id);
            let slot = places[at].and_then(|place| self.table.get_bucket(place));
            cells[at] = slot.map_or_else(Cell::default, |slot| slot.cell);
        }
        (cells, places)
    }

    fn put_all(
        &mut self,
        caller: u64,
        quotas: &Quotas,
        cells: &[Cell; Quotas::MOST],
        places: Places,
        now: Timestamp,
        capacity: usize,
    ) {
        // What is new may move the others, so it comes last.
        for (place, cell) in places.iter().zip(cells) {
            if let Some(slot) = place.and_then(|place| self.table.get_bucket_mut(place)) {
                slot.cell = *cell;
            }
        }
        for (at, mark) in quotas.marks().iter().enumerate() {
            if places[at].is_none() && cells[at] != Cell::default() {
                self.put(id(caller, *mark), cells[at], now, capacity);
            }
        }
    }

    fn banned_until(&self, caller: u64, now: Timestamp) -> Option<Timestamp> {
        if !self.has_bans {
            return None;
        }
        let id = id(caller, BAN);
        let slot = self.table.find(id, |slot| slot.id == id)?;
        let (nanos, _) = slot.cell.parts();
        let is_over = slot.cell.is_new(now);
        (!is_over).then(|| Timestamp::EPOCH.saturating_add(Duration::from_nanos(nanos)))
    }

    fn put(&mut self, id: u64, cell: Cell, now: Timestamp, capacity: usize) {
        if let Some(slot) = self.table.find_mut(id, |slot| slot.id == id) {
            slot.cell = cell;
            return;
        }
        self.make_room(now, capacity);
        self.table
            .insert_unique(id, Slot { id, cell }, |slot| slot.id);
    }

    fn remove(&mut self, id: u64) {
        if let Ok(entry) = self.table.find_entry(id, |slot| slot.id == id) {
            entry.remove();
        }
    }

    /// Forgets what has come back, among a few. If nothing has and there is no room, that
    /// which comes back first.
    fn make_room(&mut self, now: Timestamp, capacity: usize) {
        let buckets = self.table.num_buckets().max(1);
        let is_full = self.table.len() >= capacity;
        let mut closest: Option<(usize, Cell)> = None;
        let mut looked_at = 0;
        // A full table is dense, so this ends soon.
        for _ in 0..buckets.min(16 * LOOKED_AT) {
            self.hand = (self.hand + 1) % buckets;
            let Some(cell) = self.table.get_bucket(self.hand).map(|slot| slot.cell) else {
                continue;
            };
            looked_at += 1;
            if cell.is_new(now) {
                self.forget(self.hand);
            } else if closest.is_none_or(|(_, other)| cell < other) {
                closest = Some((self.hand, cell));
            }
            if looked_at == LOOKED_AT {
                break;
            }
        }
        if is_full
            && self.table.len() >= capacity
            && let Some((bucket, _)) = closest
        {
            self.forget(bucket);
            self.evicted += 1;
        }
    }

    fn forget(&mut self, bucket: usize) {
        if let Ok(entry) = self.table.get_bucket_entry(bucket) {
            entry.remove();
        }
    }
}

impl fmt::Debug for MemoryLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLimiter")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The ticket of this limiter is its hash.
fn caller(ticket: Ticket) -> u64 {
    ticket.get() as u64
}

/// The id of one budget of a caller. Marks are not secret, callers are.
fn id(caller: u64, mark: u64) -> u64 {
    (caller ^ mark)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        ^ caller
}

/// How late a request can be. More than a task waits for its turn, and less than anybody would
/// set a clock back by.
const LATE: Duration = Duration::from_secs(5);

/// A model of all interleavings has one key, and no room for more shards.
const SHARDS: usize = if cfg!(tollgate_loom) { 1 } else { 256 };
/// How many slots are looked at when one is made.
const LOOKED_AT: usize = 4;
/// The mark of a ban.
const BAN: u64 = 0;

/// Every order in which two callers with one key, and one who settles, can meet.
#[cfg(all(test, tollgate_loom))]
mod models {
    use loom::thread;

    use super::*;
    use crate::limit::quota::Quota;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn take(limiter: &MemoryLimiter, quotas: &Quotas) -> bool {
        let taken = limiter.take(&LimitKey::custom("ann"), quotas, 1, NOW);
        matches!(taken, Pending::Ready(Ok(decision)) if decision.is_admitted())
    }

    #[test]
    fn what_there_is_one_of_is_given_to_one() {
        loom::model(|| {
            let limiter = MemoryLimiter::with_capacity(4);
            let quotas = Quotas::new([Quota::per_day(1), Quota::per_hour(9)]);
            let (other, theirs) = (limiter.clone(), quotas.clone());
            let thread = thread::spawn(move || take(&other, &theirs));
            let ours = take(&limiter, &quotas);
            assert!(ours ^ thread.join().unwrap());
            assert!(!take(&limiter, &quotas));
        });
    }

    #[test]
    fn what_is_given_back_is_there_again_and_only_once() {
        loom::model(|| {
            let limiter = MemoryLimiter::with_capacity(4);
            let quotas = Quotas::from(Quota::per_day(1));
            assert!(take(&limiter, &quotas));
            let (other, theirs) = (limiter.clone(), quotas.clone());
            let thread = thread::spawn(move || take(&other, &theirs));
            let ticket = limiter.ticket(&LimitKey::custom("ann"));
            let _ = limiter.settle(ticket, &quotas, -1, NOW);
            let ours = take(&limiter, &quotas);
            let others = thread.join().unwrap();
            // One of the three is let in: after the refund there is one unit.
            let late = take(&limiter, &quotas);
            assert_eq!(
                [ours, others, late]
                    .into_iter()
                    .filter(|taken| *taken)
                    .count(),
                1
            );
        });
    }
}
