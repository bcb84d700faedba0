//! The totals of callers: a table with room for so many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::identity::Principal;
use crate::usage::total::{Caller, Counted, Snapshot, Sums, Total};

/// Who is least recently seen makes room, and is added to the others, so that nothing that was
/// counted is lost. There are never more rows than there is room for; who was not seen for
/// longest is known shard by shard.
pub(super) struct Table {
    names: Arc<[Box<str>]>,
    shards: Box<[Apart<Mutex<Rows>>]>,
    room: usize,
    /// How many rows there are, or are about to be.
    taken: Apart<AtomicUsize>,
}

/// On lines of its own, so that threads do not slow each other down.
#[repr(align(128))]
struct Apart<T>(T);

struct Rows {
    places: HashTable<u32>,
    rows: Vec<Row>,
    /// The one seen last, and the one not seen for longest.
    newest: u32,
    oldest: u32,
    anonymous: Sums,
    other: Sums,
}

struct Row {
    principal: Principal,
    sums: Sums,
    newer: u32,
    older: u32,
}

/// No row.
const NONE: u32 = u32::MAX;

impl Table {
    pub(super) fn new(room: usize, names: Arc<[Box<str>]>) -> Self {
        // Where there is little room, who was not seen for longest is known of all.
        let count = if room < 1_024 { 1 } else { 64 };
        let shard = |_| {
            Apart(Mutex::new(Rows {
                places: HashTable::new(),
                rows: Vec::new(),
                newest: NONE,
                oldest: NONE,
                anonymous: Sums::default(),
                other: Sums::default(),
            }))
        };
        Self {
            names,
            shards: (0..count).map(shard).collect(),
            room: room.clamp(1, NONE as usize),
            taken: Apart(AtomicUsize::new(0)),
        }
    }

    /// Counts a request; an anonymous one where `anywhere` leads.
    pub(super) fn count(&self, request: &Counted<'_>, anywhere: usize) {
        let Some(principal) = request.principal else {
            // The lowest bits of an address say nothing.
            let shard = &self.shards[(anywhere >> 6) % self.shards.len()];
            return shard.0.lock().anonymous.count(request);
        };
        let index = self.index(principal);
        let mut rows = self.shards[index].0.lock();
        if let Some(sums) = rows.seen(principal) {
            return sums.count(request);
        }
        let has_room = self.take_room() || rows.has(self.share()) && rows.evict();
        if !has_room {
            // A shard with less than its share takes room from one with more. No two are locked
            // at once, so that others may come between.
            drop(rows);
            let has_room = self.take_from_others(index);
            rows = self.shards[index].0.lock();
            if let Some(sums) = rows.seen(principal) {
                sums.count(request);
                if has_room {
                    self.taken.0.fetch_sub(1, Ordering::Relaxed);
                }
                return;
            }
            if !has_room && !rows.evict() {
                return rows.other.count(request);
            }
        }
        rows.insert(principal).count(request);
    }

    /// Takes room for a row, if there is some left.
    fn take_room(&self) -> bool {
        let more = |taken| (taken < self.room).then_some(taken + 1);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        self.taken.0.fetch_update(set, get, more).is_ok()
    }

    /// Takes the room of a row in a shard that has more than its share.
    fn take_from_others(&self, index: usize) -> bool {
        let (before, after) = self.shards.split_at(index);
        let mut others = after.iter().skip(1).chain(before);
        others.any(|shard| {
            let mut rows = shard.0.lock();
            rows.has(self.share() + 1) && rows.evict()
        })
    }

    fn share(&self) -> usize {
        self.room / self.shards.len()
    }

    pub(super) fn of(&self, principal: &Principal) -> Option<Total> {
        let rows = self.shards[self.index(principal)].0.lock();
        let place = rows.place(principal)?;
        let sums = rows.rows[place as usize].sums.clone();
        Some(Total::new(&self.names, sums))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let (mut anonymous, mut other) = (Sums::default(), Sums::default());
        let mut callers = Vec::new();
        for shard in &self.shards {
            let rows = shard.0.lock();
            anonymous.add(&rows.anonymous);
            other.add(&rows.other);
            callers.extend(rows.rows.iter().map(|row| Caller {
                principal: row.principal.clone(),
                total: Total::new(&self.names, row.sums.clone()),
            }));
        }
        callers.sort_by_key(|caller| std::cmp::Reverse(caller.total.requests()));
        Snapshot {
            callers,
            anonymous: Total::new(&self.names, anonymous),
            other: Total::new(&self.names, other),
        }
    }

    fn index(&self, principal: &Principal) -> usize {
        // The table inside looks at the lowest and the highest bits.
        (principal.keyed_hash() >> 32) as usize % self.shards.len()
    }
}

impl Rows {
    fn place(&self, principal: &Principal) -> Option<u32> {
        let is_theirs = |place: &u32| self.rows[*place as usize].principal == *principal;
        let found = self.places.find(principal.keyed_hash(), is_theirs);
        found.copied()
    }

    fn has(&self, count: usize) -> bool {
        self.rows.len() >= count
    }

    /// The sums of a caller who has a row, and is seen now.
    fn seen(&mut self, principal: &Principal) -> Option<&mut Sums> {
        let place = self.place(principal)?;
        if place != self.newest {
            self.unlink(place);
            self.link(place);
        }
        Some(&mut self.rows[place as usize].sums)
    }

    /// The sums of a caller who has no row yet.
    fn insert(&mut self, principal: &Principal) -> &mut Sums {
        let place = self.rows.len() as u32;
        self.rows.push(Row {
            principal: principal.clone(),
            sums: Sums::default(),
            newer: NONE,
            older: NONE,
        });
        let rows = &self.rows;
        let rehash = |place: &u32| rows[*place as usize].principal.keyed_hash();
        self.places
            .insert_unique(principal.keyed_hash(), place, rehash);
        self.link(place);
        &mut self.rows[place as usize].sums
    }

    /// Adds the row not seen for longest to the others. Says whether there was one.
    fn evict(&mut self) -> bool {
        let place = self.oldest;
        if place == NONE {
            return false;
        }
        self.unlink(place);
        let gone = self.rows.swap_remove(place as usize);
        self.other.add(&gone.sums);
        let hash = gone.principal.keyed_hash();
        if let Ok(entry) = self.places.find_entry(hash, |known| *known == place) {
            entry.remove();
        }
        // The last row stands in its place.
        let last = self.rows.len() as u32;
        let Some(moved) = self.rows.get(place as usize) else {
            return true;
        };
        let Row { newer, older, .. } = *moved;
        let hash = moved.principal.keyed_hash();
        if let Some(known) = self.places.find_mut(hash, |known| *known == last) {
            *known = place;
        }
        self.join(newer, place);
        self.join(place, older);
        true
    }

    /// Makes two that are next to each other know it; each may be the end.
    fn join(&mut self, newer: u32, older: u32) {
        match self.rows.get_mut(newer as usize) {
            Some(row) => row.older = older,
            None => self.newest = older,
        }
        match self.rows.get_mut(older as usize) {
            Some(row) => row.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Row { newer, older, .. } = self.rows[place as usize];
        self.join(newer, older);
    }

    fn link(&mut self, place: u32) {
        let before = self.newest;
        self.join(NONE, place);
        self.join(place, before);
    }
}
