//! [`Sums`]: what there was no room for, added up.

use std::mem;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::usage::record::RecordId;
use crate::usage::sink::Item;

/// Sums of items that are alike, a bounded number of them.
pub(super) struct Sums<T> {
    table: HashTable<T>,
    seed: RandomState,
    room: usize,
    /// There were too many, and they have given up the addresses of clients.
    are_coarse: bool,
}

impl<T> Sums<T> {
    pub(super) fn new(room: usize) -> Self {
        Self {
            table: HashTable::new(),
            seed: RandomState::default(),
            room,
            are_coarse: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.are_coarse = false;
    }
}

impl<T: Item> Sums<T> {
    /// Adds an item. Says whether there was room.
    ///
    /// Before there is none, all give up the addresses of clients, once: a caller may come from
    /// anywhere, and must not take the room of the others.
    pub(super) fn add(&mut self, item: &T, id: RecordId) -> bool {
        if !self.are_coarse {
            if self.add_as_it_is(item, id) {
                return true;
            }
            self.coarsen();
        }
        self.add_as_it_is(&coarse(item), id)
    }

    fn add_as_it_is(&mut self, item: &T, id: RecordId) -> bool {
        let hash = item.likeness(&self.seed);
        if let Some(sum) = self.table.find_mut(hash, |sum| sum.is_like(item)) {
            sum.merge(item);
            return true;
        }
        let has_room = self.table.len() < self.room;
        if has_room {
            let mut item = item.clone();
            item.set_id(id);
            self.insert(hash, item);
        }
        has_room
    }

    fn coarsen(&mut self) {
        self.are_coarse = true;
        for sum in mem::take(&mut self.table) {
            let sum = coarse(&sum);
            let hash = sum.likeness(&self.seed);
            match self.table.find_mut(hash, |other| other.is_like(&sum)) {
                Some(other) => other.merge(&sum),
                None => self.insert(hash, sum),
            }
        }
    }

    fn insert(&mut self, hash: u64, item: T) {
        let rehash = |sum: &T| sum.likeness(&self.seed);
        self.table.insert_unique(hash, item, rehash);
    }

    /// Takes so many at most.
    pub(super) fn take(&mut self, count: usize) -> Vec<T> {
        if self.table.len() > count {
            return self.table.extract_if(|_| true).take(count).collect();
        }
        self.are_coarse = false;
        self.table.drain().collect()
    }
}

fn coarse<T: Item>(item: &T) -> T {
    let mut item = item.clone();
    item.forget_client();
    item
}
