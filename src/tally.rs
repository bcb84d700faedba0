//! [`Tally`]: a count on the path of requests.

use std::array;
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that threads add to without waiting for each other, since each has a place of its
/// own, as long as there are no more threads than places.
pub(crate) struct Tally([Place; PLACES]);

/// On lines of its own.
#[repr(align(128))]
struct Place(AtomicU64);

impl Tally {
    pub(crate) fn add(&self) {
        self.0[place()].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        let places = self.0.iter();
        places.fold(0, |sum, place| {
            sum.wrapping_add(place.0.load(Ordering::Relaxed))
        })
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self(array::from_fn(|_| Place(AtomicU64::new(0))))
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A place that is this thread's: where its own memory lies tells threads apart.
fn place() -> usize {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    let here = HERE.with(ptr::from_ref).addr() as u64;
    // The upper bits of the product depend on all bits of the address.
    (here.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PLACES.ilog2())) as usize
}

const PLACES: usize = 16;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::Tally;

    #[test]
    fn what_many_threads_add_is_all_there() {
        let tally = Tally::default();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1_000).for_each(|_| tally.add()));
            }
        });
        assert_eq!(tally.get(), 8_000);
    }
}
