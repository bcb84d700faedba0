//! [`Verifying`]: how many credentials of each network are being verified, and which ones wait.

use std::collections::hash_map::{Entry, OccupiedEntry};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot::{self, Receiver, Sender};

/// Counts and queues per network, for as long as something of the network is under way: there are
/// never more networks here than requests. Those who wait get a `G` in the order in which they came.
pub(super) struct Verifying<G> {
    shards: [Mutex<HashMap<IpNet, Queue<G>>>; SHARDS],
    seed: RandomState,
}

const SHARDS: usize = 16;

/// The maximum number of requests of one network that wait.
pub(super) const MAX_WAITING: usize = 1_024;

struct Queue<G> {
    under_way: u32,
    waiting: VecDeque<Sender<G>>,
}

/// The decision on those who wait.
pub(super) enum Next<G> {
    /// These may start. They are counted as under way.
    Start(Vec<Sender<G>>),
    /// The network is over its budget for this long, so that nobody may.
    Refuse(VecDeque<Sender<G>>, Duration),
}

impl<G> Default for Verifying<G> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            seed: RandomState::new(),
        }
    }
}

impl<G> Verifying<G> {
    /// Starts a verification if fewer are under way than `allowance` says, and nobody waits. Returns
    /// whether it was started. `allowance` is called while the network is locked.
    ///
    /// # Errors
    /// Returns the error of `allowance`: the time for which the network is over its budget.
    pub(super) fn start(
        &self,
        network: IpNet,
        allowance: impl FnOnce() -> Result<u32, Duration>,
    ) -> Result<bool, Duration> {
        let mut shard = self.lock(network);
        let allowed = allowance()?;
        let queue = shard.entry(network).or_default();
        let starts = queue.under_way < allowed && queue.waiting.iter().all(Sender::is_closed);
        queue.under_way += u32::from(starts);
        Ok(starts)
    }

    /// Ends a verification. Returns whether others wait.
    pub(super) fn end(&self, network: IpNet) -> bool {
        let mut shard = self.lock(network);
        let Entry::Occupied(mut entry) = shard.entry(network) else {
            return false;
        };
        let queue = entry.get_mut();
        queue.under_way = queue.under_way.saturating_sub(1);
        let others_wait = !queue.waiting.is_empty();
        remove_if_idle(entry);
        others_wait
    }

    /// Joins the queue. Returns `None` if it is full.
    pub(super) fn join(&self, network: IpNet) -> Option<Receiver<G>> {
        let mut shard = self.lock(network);
        let waiting = &mut shard.entry(network).or_default().waiting;
        if waiting.len() >= MAX_WAITING {
            waiting.retain(|each| !each.is_closed());
        }
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.push_back(sender);
        Some(receiver)
    }

    /// Takes those out of the queue that need not wait any more. `allowance` is called while the
    /// network is locked.
    pub(super) fn next(
        &self,
        network: IpNet,
        allowance: impl FnOnce() -> Result<u32, Duration>,
    ) -> Next<G> {
        let mut shard = self.lock(network);
        let Entry::Occupied(mut entry) = shard.entry(network) else {
            return Next::Start(Vec::new());
        };
        let queue = entry.get_mut();
        let next = match allowance() {
            Err(wait) => Next::Refuse(std::mem::take(&mut queue.waiting), wait),
            Ok(allowed) => {
                let mut starting = Vec::new();
                while queue.under_way < allowed
                    && let Some(sender) = queue.waiting.pop_front()
                {
                    if !sender.is_closed() {
                        queue.under_way += 1;
                        starting.push(sender);
                    }
                }
                Next::Start(starting)
            }
        };
        remove_if_idle(entry);
        next
    }

    fn lock(&self, network: IpNet) -> MutexGuard<'_, HashMap<IpNet, Queue<G>>> {
        let shard = self.seed.hash_one(network) as usize % SHARDS;
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<G> Default for Queue<G> {
    fn default() -> Self {
        Self {
            under_way: 0,
            waiting: VecDeque::new(),
        }
    }
}

fn remove_if_idle<G>(entry: OccupiedEntry<'_, IpNet, Queue<G>>) {
    let queue = entry.get();
    if queue.under_way == 0 && queue.waiting.iter().all(Sender::is_closed) {
        entry.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> IpNet {
        "192.0.2.7/32".parse().unwrap()
    }

    fn start(verifying: &Verifying<u8>, allowed: u32) -> bool {
        verifying.start(network(), || Ok(allowed)).unwrap()
    }

    fn networks(verifying: &Verifying<u8>) -> usize {
        let len = |shard: &Mutex<HashMap<IpNet, Queue<u8>>>| shard.lock().unwrap().len();
        verifying.shards.iter().map(len).sum()
    }

    fn next(verifying: &Verifying<u8>, allowed: u32) -> usize {
        match verifying.next(network(), || Ok(allowed)) {
            Next::Start(senders) => senders
                .into_iter()
                .map(|sender| sender.send(1))
                .filter(Result::is_ok)
                .count(),
            Next::Refuse(..) => panic!("it is within its budget"),
        }
    }

    #[test]
    fn as_many_are_under_way_as_are_allowed() {
        let verifying = Verifying::default();
        assert!(start(&verifying, 2) && start(&verifying, 2));
        assert!(!start(&verifying, 2));
        assert!(start(&verifying, 3), "the allowance is that of the moment");
        assert!(!verifying.end(network()));
        assert!(!start(&verifying, 2));
        let wait = Duration::from_secs(7);
        assert_eq!(verifying.start(network(), || Err(wait)), Err(wait));
    }

    #[test]
    fn queue_is_served_in_order_and_nobody_overtakes() {
        let verifying = Verifying::default();
        assert!(start(&verifying, 1));
        let mut first = verifying.join(network()).unwrap();
        let mut second = verifying.join(network()).unwrap();
        assert_eq!(next(&verifying, 1), 0, "one is under way");
        assert!(!start(&verifying, 9), "the others came before");
        assert!(verifying.end(network()));
        assert_eq!(next(&verifying, 1), 1);
        assert!(first.try_recv().is_ok() && second.try_recv().is_err());
        // More failures are allowed again.
        assert_eq!(next(&verifying, 2), 1);
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn waiting_request_that_is_given_up_takes_no_place() {
        let verifying = Verifying::default();
        assert!(start(&verifying, 1));
        drop(verifying.join(network()).unwrap());
        let mut second = verifying.join(network()).unwrap();
        verifying.end(network());
        assert_eq!(next(&verifying, 1), 1);
        assert!(second.try_recv().is_ok());
        verifying.end(network());
        assert!(start(&verifying, 1));
    }

    #[test]
    fn all_who_wait_are_refused_over_the_budget() {
        let verifying: Verifying<u8> = Verifying::default();
        start(&verifying, 1);
        let _waiting = [verifying.join(network()), verifying.join(network())];
        let wait = Duration::from_secs(7);
        match verifying.next(network(), || Err(wait)) {
            Next::Refuse(senders, told) => assert_eq!((senders.len(), told), (2, wait)),
            Next::Start(_) => panic!("it is over its budget"),
        }
    }

    #[test]
    fn nothing_is_kept_of_networks_that_are_idle() {
        let verifying = Verifying::default();
        start(&verifying, 1);
        let waiting = verifying.join(network()).unwrap();
        assert!(verifying.end(network()));
        assert_eq!(networks(&verifying), 1);
        drop(waiting);
        assert_eq!(next(&verifying, 1), 0);
        assert_eq!(networks(&verifying), 0);
        assert!(
            !verifying.end(network()),
            "an end without a start is nothing"
        );
    }

    #[test]
    fn queue_of_a_network_is_bounded() {
        let verifying: Verifying<u8> = Verifying::default();
        let queue: Vec<_> = (0..MAX_WAITING)
            .map(|_| verifying.join(network()).unwrap())
            .collect();
        assert!(verifying.join(network()).is_none());
        assert!(verifying.join("192.0.2.8/32".parse().unwrap()).is_some());
        drop(queue);
        assert!(verifying.join(network()).is_some());
    }
}
