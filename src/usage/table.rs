//! The totals of callers: a table with room for so many.

use std::sync::Arc;

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::identity::Principal;
use crate::usage::record::Record;
use crate::usage::total::{Caller, Snapshot, Sums, Total};

/// Who is least recently seen makes room, shard by shard, and is added to the others, so that
/// nothing that was counted is lost.
pub(super) struct Table {
    names: Arc<[Box<str>]>,
    shards: Box<[Shard]>,
}

/// On lines of its own, so that threads do not slow each other down.
#[repr(align(128))]
struct Shard(Mutex<Rows>);

struct Rows {
    room: usize,
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
        // Where there is little room, all of it is in one place, or a few would have it.
        let count = if room < 1_024 { 1 } else { 64 };
        let shard = |_| {
            Shard(Mutex::new(Rows {
                room: room.div_ceil(count).clamp(1, NONE as usize),
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
        }
    }

    /// Counts a request; an anonymous one where `anywhere` leads.
    pub(super) fn count(&self, record: &Record, anywhere: usize) {
        match record.principal() {
            Some(principal) => self.shard(principal).lock().caller(principal).count(record),
            // The lowest bits of an address say nothing.
            None => {
                let shard = &self.shards[(anywhere >> 6) % self.shards.len()];
                shard.0.lock().anonymous.count(record);
            }
        }
    }

    pub(super) fn of(&self, principal: &Principal) -> Option<Total> {
        let rows = self.shard(principal).lock();
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

    fn shard(&self, principal: &Principal) -> &Mutex<Rows> {
        // The table inside looks at the lowest and the highest bits.
        let index = (principal.keyed_hash() >> 32) as usize % self.shards.len();
        &self.shards[index].0
    }
}

impl Rows {
    fn place(&self, principal: &Principal) -> Option<u32> {
        let is_theirs = |place: &u32| self.rows[*place as usize].principal == *principal;
        let found = self.places.find(principal.keyed_hash(), is_theirs);
        found.copied()
    }

    /// The sums of a caller, who is seen now.
    fn caller(&mut self, principal: &Principal) -> &mut Sums {
        let place = match self.place(principal) {
            Some(place) => {
                if place != self.newest {
                    self.unlink(place);
                    self.link(place);
                }
                place
            }
            None => {
                let place = self.make_room(principal);
                let rows = &self.rows;
                self.places
                    .insert_unique(principal.keyed_hash(), place, |place| {
                        rows[*place as usize].principal.keyed_hash()
                    });
                self.link(place);
                place
            }
        };
        &mut self.rows[place as usize].sums
    }

    fn make_room(&mut self, principal: &Principal) -> u32 {
        if self.rows.len() < self.room {
            self.rows.push(Row {
                principal: principal.clone(),
                sums: Sums::default(),
                newer: NONE,
                older: NONE,
            });
            return self.rows.len() as u32 - 1;
        }
        let place = self.oldest;
        self.unlink(place);
        let row = &mut self.rows[place as usize];
        let gone = self
            .places
            .find_entry(row.principal.keyed_hash(), |known| *known == place);
        if let Ok(entry) = gone {
            entry.remove();
        }
        self.other.add(&row.sums);
        row.sums = Sums::default();
        row.principal = principal.clone();
        place
    }

    fn unlink(&mut self, place: u32) {
        let Row { newer, older, .. } = self.rows[place as usize];
        match self.rows.get_mut(newer as usize) {
            Some(row) => row.older = older,
            None => self.newest = older,
        }
        match self.rows.get_mut(older as usize) {
            Some(row) => row.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, place: u32) {
        let before = self.newest;
        let row = &mut self.rows[place as usize];
        (row.newer, row.older) = (NONE, before);
        match self.rows.get_mut(before as usize) {
            Some(row) => row.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
    }
}
