//! When keys were last used: noted beside the record, told to the store in batches.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::clock::Timestamp;
use crate::keys::api_keys::Shared;
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::keys::store::KeyStore;

/// How exact the times are, and how often the store hears of them.
pub(crate) const COARSENESS: Duration = Duration::from_secs(60);

/// How many keys may wait for the store, and of how many this process knows. Only good
/// keys get here, so this is bounded by the keys that were issued too; past it, uses are
/// counted as lost, and what is known is learnt anew.
const CAPACITY: usize = 65_536;

/// The uses that this process knows of, and those that the store has not heard of.
#[derive(Default)]
pub(crate) struct Uses {
    /// In nanoseconds since the Unix epoch. A store that makes a record for each question
    /// forgets with it what was noted in it.
    known: papaya::HashMap<KeyId, AtomicU64, RandomState>,
    waiting: Mutex<HashMap<KeyId, Timestamp>>,
    lost: AtomicU64,
    /// A task tells the store.
    is_told: AtomicBool,
}

impl Uses {
    /// When a key was last used in this process, to about a minute.
    pub(crate) fn last(&self, id: KeyId) -> Option<Timestamp> {
        let known = self.known.pin();
        known
            .get(&id)
            .map(|nanos| Timestamp::from_unix_nanos(nanos.load(Ordering::Relaxed)))
    }

    /// How many uses the store will never hear of.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Notes a use. Says whether it is news for this process.
    fn note(&self, record: &KeyRecord, now: Timestamp) -> bool {
        let known = self.known.pin();
        if let Some(last) = known.get(&record.id) {
            let noted = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |nanos| {
                let last = Timestamp::from_unix_nanos(nanos);
                let due = last.saturating_add(coarseness(record, Some(last)));
                (now > last && now >= due).then_some(now.unix_nanos())
            });
            return noted.is_ok();
        }
        if known.len() >= CAPACITY {
            known.clear();
        }
        known
            .try_insert(record.id, AtomicU64::new(now.unix_nanos()))
            .is_ok()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
        // Nothing in here panics halfway; what a panic elsewhere leaves is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after that use another one is news. The first one beside a successor always
/// is.
fn coarseness(record: &KeyRecord, last: Option<Timestamp>) -> Duration {
    match &record.rotated {
        Some(rotated) if last.is_none_or(|last| last < rotated.at) => Duration::ZERO,
        _ => COARSENESS,
    }
}

impl<S: KeyStore> Shared<S> {
    /// Notes that a good key was used. Says whether it is the first time in a while.
    pub(crate) fn note_use(self: &Arc<Self>, record: &KeyRecord, now: Timestamp) -> bool {
        // What is shared knows best, and costs least.
        let coarseness = coarseness(record, record.last_used.get());
        if !record.last_used.note(now, coarseness) || !self.uses.note(record, now) {
            return false;
        }
        if !self.store.keeps_uses() {
            return true;
        }
        let mut waiting = self.uses.waiting();
        let full = waiting.len() >= CAPACITY;
        match waiting.entry(record.id) {
            Entry::Occupied(mut known) => {
                known.insert(now.max(*known.get()));
            }
            Entry::Vacant(place) if !full => {
                place.insert(now);
            }
            Entry::Vacant(_) => {
                self.uses.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(waiting);
        self.start_telling();
        true
    }

    /// Tells the store what waits. What it does not take is lost, and counted.
    pub(crate) async fn tell_uses(&self) {
        let uses: Vec<_> = mem::take(&mut *self.uses.waiting()).into_iter().collect();
        if uses.is_empty() {
            return;
        }
        let count = uses.len() as u64;
        if self.store.note_uses(uses).await.is_err() {
            self.uses.lost.fetch_add(count, Ordering::Relaxed);
            tracing::warn!(target: "tollgate::keys", count, "the store missed when keys were used");
        }
    }

    /// Starts the task that tells the store, at the first use. It ends with the keys, or
    /// with its runtime; then the next use starts another.
    fn start_telling(self: &Arc<Self>) {
        // Without a timer, or a runtime, somebody may come by with one later.
        if self.uses.is_told.load(Ordering::Relaxed) || self.timer.sleep(COARSENESS).is_none() {
            return;
        }
        if self.uses.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let teller = Teller {
            keys: Arc::downgrade(self),
            uses: Arc::clone(&self.uses),
        };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(COARSENESS).await;
                let Some(keys) = teller.keys.upgrade() else {
                    break;
                };
                keys.tell_uses().await;
            }
        });
    }
}

/// The task that tells the store, however it ends.
struct Teller<S> {
    keys: Weak<Shared<S>>,
    uses: Arc<Uses>,
}

impl<S> Drop for Teller<S> {
    fn drop(&mut self) {
        self.uses.is_told.store(false, Ordering::Relaxed);
    }
}
