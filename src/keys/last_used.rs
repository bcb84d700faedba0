//! When keys were last used: noted beside the record, told to the store in batches.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::keys::api_keys::Shared;
use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::keys::store::KeyStore;

/// How exact the times are, and how often the store hears of them.
pub(crate) const COARSENESS: Duration = Duration::from_secs(60);

/// How many keys may wait for the store. Only good keys get here, so this is bounded by
/// the keys that were issued too; past it, uses are counted as lost.
const CAPACITY: usize = 65_536;

/// The uses that the store has not heard of.
#[derive(Default)]
pub(crate) struct Uses {
    waiting: Mutex<HashMap<KeyId, Timestamp>>,
    lost: AtomicU64,
    /// A task tells the store.
    is_told: AtomicBool,
}

impl Uses {
    fn waiting(&self) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
        // Nothing in here panics halfway; what a panic elsewhere leaves is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many uses the store will never hear of.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl<S: KeyStore> Shared<S> {
    /// Notes that a good key was used. Says whether it is the first time in a while.
    pub(crate) fn note_use(self: &Arc<Self>, record: &KeyRecord, now: Timestamp) -> bool {
        // The first use beside a successor is news whenever the last one was.
        let alone = record
            .rotated
            .as_ref()
            .is_some_and(|rotated| record.last_used.get().is_none_or(|last| last < rotated.at));
        let coarseness = if alone { Duration::ZERO } else { COARSENESS };
        if !record.last_used.note(now, coarseness) {
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
        let teller = Teller(Arc::downgrade(self));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(COARSENESS).await;
                let Some(keys) = teller.0.upgrade() else {
                    break;
                };
                keys.tell_uses().await;
            }
        });
    }
}

/// The task that tells the store, however it ends.
struct Teller<S>(Weak<Shared<S>>);

impl<S> Drop for Teller<S> {
    fn drop(&mut self) {
        if let Some(keys) = self.0.upgrade() {
            keys.uses.is_told.store(false, Ordering::Relaxed);
        }
    }
}
