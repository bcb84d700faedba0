//! [`Verifying`]: how many credentials of each network are being verified at the moment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::Notify;

/// Counts per network, for as long as something of the network is under way: there are never more
/// networks here than requests.
#[derive(Default)]
pub(super) struct Verifying {
    shards: [Mutex<HashMap<IpNet, Queue>>; SHARDS],
    seed: RandomState,
}

const SHARDS: usize = 16;

/// The maximum number of requests of one network that wait.
pub(super) const MAX_WAITING: u32 = 1_024;

#[derive(Default)]
struct Queue {
    under_way: u32,
    waiting: u32,
    freed: Arc<Notify>,
}

impl Verifying {
    /// Starts a verification if fewer are under way than `allowance` says, which is called while the
    /// network is locked. Returns whether it was started.
    ///
    /// # Errors
    /// Returns the error of `allowance`.
    pub(super) fn start<E>(
        &self,
        network: IpNet,
        allowance: impl FnOnce() -> Result<u32, E>,
    ) -> Result<bool, E> {
        let mut shard = self.lock(network);
        let allowed = allowance()?;
        match shard.entry(network) {
            Entry::Occupied(mut queue) => {
                let queue = queue.get_mut();
                let starts = queue.under_way < allowed;
                queue.under_way += u32::from(starts);
                Ok(starts)
            }
            Entry::Vacant(place) if allowed > 0 => {
                place.insert(Queue::default()).under_way = 1;
                Ok(true)
            }
            Entry::Vacant(_) => Ok(false),
        }
    }

    /// Ends a verification. `charge` is called while the network is locked, and returns whether all
    /// who wait should look again, instead of one.
    pub(super) fn end(&self, network: IpNet, charge: impl FnOnce() -> bool) {
        let mut shard = self.lock(network);
        let wakes_all = charge();
        let Entry::Occupied(mut entry) = shard.entry(network) else {
            return;
        };
        let queue = entry.get_mut();
        queue.under_way = queue.under_way.saturating_sub(1);
        if wakes_all {
            queue.freed.notify_waiters();
        } else {
            queue.freed.notify_one();
        }
        remove_if_idle(entry);
    }

    /// Joins those who wait. Returns `None` if too many do.
    pub(super) fn wait(&self, network: IpNet) -> Option<Waiting<'_>> {
        let mut shard = self.lock(network);
        let queue = shard.entry(network).or_default();
        if queue.waiting >= MAX_WAITING {
            return None;
        }
        queue.waiting += 1;
        let freed = Arc::clone(&queue.freed);
        Some(Waiting {
            verifying: self,
            network,
            freed,
        })
    }

    fn lock(&self, network: IpNet) -> MutexGuard<'_, HashMap<IpNet, Queue>> {
        let shard = self.seed.hash_one(network) as usize % SHARDS;
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn networks(&self) -> usize {
        let len = |shard: &Mutex<HashMap<IpNet, Queue>>| shard.lock().unwrap().len();
        self.shards.iter().map(len).sum()
    }
}

/// A request that waits until a verification of its network ends.
pub(super) struct Waiting<'v> {
    verifying: &'v Verifying,
    network: IpNet,
    /// Notified when one ends.
    pub(super) freed: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut shard = self.verifying.lock(self.network);
        if let Entry::Occupied(mut entry) = shard.entry(self.network) {
            let queue = entry.get_mut();
            queue.waiting = queue.waiting.saturating_sub(1);
            remove_if_idle(entry);
        }
    }
}

fn remove_if_idle(entry: std::collections::hash_map::OccupiedEntry<'_, IpNet, Queue>) {
    if entry.get().under_way == 0 && entry.get().waiting == 0 {
        entry.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> IpNet {
        "192.0.2.7/32".parse().unwrap()
    }

    fn start(verifying: &Verifying, allowed: u32) -> bool {
        verifying.start(network(), || Ok::<_, ()>(allowed)).unwrap()
    }

    #[test]
    fn as_many_are_under_way_as_are_allowed() {
        let verifying = Verifying::default();
        assert!(!start(&verifying, 0));
        assert!(start(&verifying, 2) && start(&verifying, 2));
        assert!(!start(&verifying, 2));
        assert!(start(&verifying, 3), "the allowance is that of the moment");
        verifying.end(network(), || false);
        assert!(!start(&verifying, 2));
        assert_eq!(verifying.start(network(), || Err(7)), Err(7));
    }

    #[test]
    fn nothing_is_kept_of_networks_that_are_idle() {
        let verifying = Verifying::default();
        assert!(!start(&verifying, 0));
        assert_eq!(verifying.networks(), 0);
        start(&verifying, 1);
        let waiting = verifying.wait(network()).unwrap();
        verifying.end(network(), || true);
        assert_eq!(verifying.networks(), 1);
        drop(waiting);
        assert_eq!(verifying.networks(), 0);
        verifying.end(network(), || false);
        assert_eq!(verifying.networks(), 0, "an end without a start is nothing");
    }

    #[test]
    fn queue_of_a_network_is_bounded() {
        let verifying = Verifying::default();
        let queue: Vec<_> = (0..MAX_WAITING)
            .map(|_| verifying.wait(network()).unwrap())
            .collect();
        assert!(verifying.wait(network()).is_none());
        assert!(verifying.wait("192.0.2.8/32".parse().unwrap()).is_some());
        drop(queue);
        assert!(verifying.wait(network()).is_some());
    }
}
