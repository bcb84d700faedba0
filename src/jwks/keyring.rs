//! [`Keyring`]: the ring that an issuer's tokens are verified with now, and since when.
//!
//! What was verified with a ring is remembered with its *epoch*. The epoch counts up
//! whenever a key leaves, in the same step in which the new ring appears: so nothing that
//! an old key vouched for is taken for good after that.

use std::sync::{Arc, PoisonError};

use crate::clock::Timestamp;
use crate::jwks::ring::Ring;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

#[derive(Debug)]
pub(crate) struct Keyring {
    state: Mutex<State>,
    /// Beside the state, so that it can be compared without a lock.
    epoch: AtomicU64,
    /// In nanoseconds since the Unix epoch.
    good_until: AtomicU64,
}

#[derive(Debug)]
struct State {
    ring: Option<Arc<Ring>>,
    /// The ticket of the question that brought the ring.
    ticket: u64,
    last_ticket: u64,
}

/// A ring, and the epoch that it was read in.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) ring: Arc<Ring>,
    pub(crate) epoch: u64,
}

/// The right to publish what a question brings. Questions are ordered by when they were
/// asked, whenever they are answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u64);

impl Keyring {
    /// A ring that stays.
    pub(crate) fn fixed(ring: Ring) -> Self {
        let keyring = Self::empty();
        let ticket = keyring.ticket();
        keyring.publish(ticket, ring, Timestamp::MAX);
        keyring
    }

    /// None yet.
    pub(crate) fn empty() -> Self {
        let state = State {
            ring: None,
            ticket: 0,
            last_ticket: 0,
        };
        Self {
            state: Mutex::new(state),
            epoch: AtomicU64::new(0),
            good_until: AtomicU64::new(0),
        }
    }

    /// To be drawn before the question is asked.
    pub(crate) fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        state.last_ticket += 1;
        Ticket(state.last_ticket)
    }

    /// Verifies with this ring from now on, for so long; unless a later question was
    /// answered before. Says whether it does.
    pub(crate) fn publish(&self, ticket: Ticket, ring: Ring, good_until: Timestamp) -> bool {
        let mut state = self.lock();
        if ticket.0 <= state.ticket {
            return false;
        }
        state.ticket = ticket.0;
        let leaves = state
            .ring
            .as_ref()
            .is_some_and(|last| !ring.has_all_of(last));
        state.ring = Some(Arc::new(ring));
        if leaves {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        self.good_until
            .store(good_until.unix_nanos(), Ordering::Release);
        true
    }

    /// The ring is what the issuer says still: it is good for longer.
    pub(crate) fn confirm(&self, ticket: Ticket, good_until: Timestamp) {
        let mut state = self.lock();
        if ticket.0 > state.ticket {
            state.ticket = ticket.0;
            self.good_until
                .store(good_until.unix_nanos(), Ordering::Release);
        }
    }

    /// The ring, if there is one that is good.
    pub(crate) fn current(&self, now: Timestamp) -> Option<Current> {
        let state = self.lock();
        let ring = state.ring.as_ref().filter(|_| self.is_good(now))?;
        let epoch = self.epoch.load(Ordering::Acquire);
        Some(Current {
            ring: Arc::clone(ring),
            epoch,
        })
    }

    /// The ring, however old it is.
    pub(crate) fn last(&self) -> Option<Arc<Ring>> {
        self.lock().ring.clone()
    }

    /// Whether what was verified in that epoch is good still.
    pub(crate) fn holds(&self, epoch: u64, now: Timestamp) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch && self.is_good(now)
    }

    /// Keys that are good until [`Timestamp::MAX`] are good at that instant too.
    fn is_good(&self, now: Timestamp) -> bool {
        let good_until = self.good_until.load(Ordering::Acquire);
        now.unix_nanos() < good_until || good_until == Timestamp::MAX.unix_nanos()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every order of a verification that is remembered, and of a key that leaves.
#[cfg(all(test, tollgate_loom))]
mod models {
    use loom::thread;

    use super::*;
    use crate::jwks::ring::tests::ring;

    const NOW: Timestamp = Timestamp::EPOCH;

    #[test]
    fn nothing_that_a_key_vouched_for_holds_after_it_left() {
        loom::model(|| {
            let keyring = Arc::new(Keyring::fixed(ring(&["old"])));
            let remembered = Arc::new(Mutex::new(None));
            let verifier = {
                let (keyring, remembered) = (Arc::clone(&keyring), Arc::clone(&remembered));
                thread::spawn(move || {
                    let current = keyring.current(NOW).unwrap();
                    if current.ring.knows("old") {
                        *remembered.lock().unwrap() = Some(current.epoch);
                    }
                })
            };
            let ticket = keyring.ticket();
            assert!(keyring.publish(ticket, ring(&["new"]), Timestamp::MAX));
            let holds = |remembered: &Mutex<Option<u64>>| {
                let epoch = *remembered.lock().unwrap();
                epoch.is_some_and(|epoch| keyring.holds(epoch, NOW))
            };
            assert!(!holds(&remembered));
            verifier.join().unwrap();
            assert!(!holds(&remembered));
        });
    }

    #[test]
    fn of_two_answers_the_one_that_was_asked_for_later_stays() {
        loom::model(|| {
            let keyring = Arc::new(Keyring::empty());
            let (first, second) = (keyring.ticket(), keyring.ticket());
            let other = Arc::clone(&keyring);
            let late = thread::spawn(move || other.publish(first, ring(&["old"]), Timestamp::MAX));
            assert!(keyring.publish(second, ring(&["new"]), Timestamp::MAX));
            late.join().unwrap();
            assert!(keyring.current(NOW).unwrap().ring.knows("new"));
        });
    }
}
