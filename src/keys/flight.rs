//! [`Flights`]: one question at a time to the store about a key, whoever asks.
//!
//! A flight is a future that all who ask share, and that any of them drives: the one who
//! started it may go away. When the last one goes away, the flight is dropped, and its
//! place is free. What it brings is kept only if nobody changed the key meanwhile.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use crate::keys::format::KeyId;
use crate::keys::record::KeyRecord;
use crate::keys::store::StoreError;
use crate::sync::{Mutex, MutexGuard};

/// What a store says of a key.
pub(crate) type Found = Result<Option<Arc<KeyRecord>>, StoreError>;
/// The answer of a flight, for each who asks.
pub(crate) type Flight = Shared<BoxFuture<'static, Found>>;

/// The questions that are under way.
#[derive(Default)]
pub(crate) struct Flights {
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    flights: HashMap<KeyId, Place>,
    /// Counts up, so that no two flights have the same ticket.
    last_ticket: u64,
}

struct Place {
    ticket: u64,
    flight: WeakShared<BoxFuture<'static, Found>>,
}

impl Flights {
    /// Joins the flight of a key, or starts one; none if `most` are under way.
    ///
    /// `ask` makes the question, given what lands the answer. If it panics, all who wait
    /// get an error, and none of them the panic.
    pub(crate) fn join<F>(
        self: &Arc<Self>,
        id: KeyId,
        most: usize,
        ask: impl FnOnce(Landing) -> F,
    ) -> Option<Flight>
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(flight) = under_way
            .flights
            .get(&id)
            .and_then(|place| place.flight.upgrade())
        {
            return Some(flight);
        }
        if under_way.flights.len() >= most {
            return None;
        }
        under_way.last_ticket += 1;
        let ticket = under_way.last_ticket;
        let landing = Landing {
            flights: Arc::clone(self),
            id,
            ticket,
        };
        let answer = AssertUnwindSafe(ask(landing)).catch_unwind();
        let flight = answer
            .map(|answer| answer.unwrap_or_else(|_| Err(StoreError::unavailable(PANICKED))))
            .boxed()
            .shared();
        let place = Place {
            ticket,
            flight: flight.downgrade()?,
        };
        under_way.flights.insert(id, place);
        Some(flight)
    }

    /// Forgets the flight of a key: what it brings is out of date. Runs `then` before
    /// anything else can land.
    pub(crate) fn forget(&self, id: KeyId, then: impl FnOnce()) {
        let mut under_way = self.lock();
        under_way.flights.remove(&id);
        then();
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

const PANICKED: &str = "the store panicked";

/// The right to keep what a flight brings. Dropped with the flight, it frees its place.
pub(crate) struct Landing {
    flights: Arc<Flights>,
    id: KeyId,
    ticket: u64,
}

impl Landing {
    /// Runs `keep`, unless the flight was forgotten; nothing is forgotten meanwhile.
    pub(crate) fn keep(&self, keep: impl FnOnce()) {
        let under_way = self.flights.lock();
        if self.is_ours(&under_way) {
            keep();
        }
    }

    fn is_ours(&self, under_way: &UnderWay) -> bool {
        under_way
            .flights
            .get(&self.id)
            .is_some_and(|place| place.ticket == self.ticket)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        if self.is_ours(&under_way) {
            under_way.flights.remove(&self.id);
        }
    }
}

/// Every order of a look-up, a second one that joins it, and a revocation between them.
#[cfg(all(test, tollgate_loom))]
mod models {
    use loom::thread;

    use super::*;
    use crate::sync::Mutex;

    fn id() -> KeyId {
        "7Hq2mZxR0aKd".parse().unwrap()
    }

    /// A store of one bit and a cache of it.
    #[derive(Default)]
    struct World {
        revoked: Mutex<bool>,
        cached: Mutex<Option<bool>>,
        asked: Mutex<usize>,
    }

    fn look_up(flights: &Arc<Flights>, world: &Arc<World>) -> bool {
        if let Some(cached) = *world.cached.lock().unwrap() {
            return cached;
        }
        let asked = Arc::clone(world);
        let flight = flights.join(id(), 4, move |landing| async move {
            *asked.asked.lock().unwrap() += 1;
            let revoked = *asked.revoked.lock().unwrap();
            landing.keep(|| *asked.cached.lock().unwrap() = Some(!revoked));
            drop(landing);
            if revoked {
                Ok(None)
            } else {
                Err(StoreError::unavailable("good"))
            }
        });
        loom::future::block_on(flight.unwrap()).is_err()
    }

    #[test]
    fn nothing_that_was_read_before_a_revocation_is_kept_after_it() {
        loom::model(|| {
            let (flights, world) = (Arc::<Flights>::default(), Arc::<World>::default());
            let looker = {
                let (flights, world) = (Arc::clone(&flights), Arc::clone(&world));
                thread::spawn(move || look_up(&flights, &world))
            };
            *world.revoked.lock().unwrap() = true;
            flights.forget(id(), || *world.cached.lock().unwrap() = None);
            // From here on, it is refused.
            assert!(!look_up(&flights, &world));
            looker.join().unwrap();
            assert!(!look_up(&flights, &world));
        });
    }

    #[test]
    fn a_flight_that_is_dropped_frees_its_place() {
        loom::model(|| {
            let flights = Arc::<Flights>::default();
            let other = Arc::clone(&flights);
            let dropped = thread::spawn(move || {
                drop(other.join(id(), 1, async move |landing| {
                    std::future::pending::<()>().await;
                    drop(landing);
                    Ok(None)
                }));
            });
            flights.forget(id(), || {});
            dropped.join().unwrap();
            assert!(flights.lock().flights.is_empty());
        });
    }
}
