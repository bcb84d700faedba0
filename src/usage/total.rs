//! [`Total`]: what one caller has used, and [`Snapshot`]: what all have.

use std::fmt;
use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::rejection::Reason;
use crate::usage::record::{Amounts, Record};
use crate::usage::slot::UNITS;

/// What a caller has used since the process began. Sums saturate.
#[derive(Clone)]
pub struct Total {
    names: Arc<[Box<str>]>,
    pub(super) sums: Sums,
}

/// The numbers of a [`Total`].
#[derive(Clone)]
pub(super) struct Sums {
    requests: u64,
    refusals: [u64; Reason::ALL.len()],
    bytes_in: u64,
    bytes_out: u64,
    units: [u64; UNITS],
    last_seen: Timestamp,
}

/// The part of a request's record that totals have.
pub(super) struct Counted<'a> {
    pub(super) principal: Option<&'a Principal>,
    pub(super) refusal: Option<Reason>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) units: Option<&'a [u64; UNITS]>,
    pub(super) at: Timestamp,
}

impl<'a> From<&'a Record> for Counted<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            principal: record.principal(),
            refusal: record.refusal(),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            units: record.units.as_deref(),
            at: record.at,
        }
    }
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            requests: 0,
            refusals: [0; Reason::ALL.len()],
            bytes_in: 0,
            bytes_out: 0,
            units: [0; UNITS],
            last_seen: Timestamp::EPOCH,
        }
    }
}

impl Sums {
    pub(super) fn count(&mut self, request: &Counted<'_>) {
        add(&mut self.requests, 1);
        if let Some(reason) = request.refusal {
            add(&mut self.refusals[reason.index()], 1);
        }
        add(&mut self.bytes_in, request.bytes_in);
        add(&mut self.bytes_out, request.bytes_out);
        if let Some(units) = request.units {
            for (own, more) in self.units.iter_mut().zip(*units) {
                add(own, more);
            }
        }
        self.last_seen = self.last_seen.max(request.at);
    }

    pub(super) fn add(&mut self, other: &Self) {
        add(&mut self.requests, other.requests);
        let refusals = self.refusals.iter_mut().zip(other.refusals);
        let units = self.units.iter_mut().zip(other.units);
        refusals.chain(units).for_each(|(own, more)| add(own, more));
        add(&mut self.bytes_in, other.bytes_in);
        add(&mut self.bytes_out, other.bytes_out);
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}

fn add(own: &mut u64, more: u64) {
    *own = own.saturating_add(more);
}

impl Total {
    pub(super) fn new(names: &Arc<[Box<str>]>, sums: Sums) -> Self {
        Self {
            names: Arc::clone(names),
            sums,
        }
    }

    /// How many requests have ended, however they did.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sums.requests
    }

    /// How many of them were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let refusals = self.sums.refusals.iter();
        refusals.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many were refused for what, without what none was refused for.
    pub fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = Reason::ALL.iter().copied().zip(self.sums.refusals);
        counts.filter(|(_, count)| *count > 0)
    }

    /// The bytes of requests' bodies: see [`Record::bytes_in`].
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.sums.bytes_in
    }

    /// The bytes of responses' bodies.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.sums.bytes_out
    }

    /// What handlers have counted, of one unit.
    #[must_use]
    pub fn unit(&self, name: &str) -> u64 {
        self.units()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, amount)| amount)
    }

    /// What handlers have counted, of all units.
    pub fn units(&self) -> impl Iterator<Item = (&str, u64)> {
        self.names.iter().map(AsRef::as_ref).zip(self.sums.units)
    }

    /// When the last request ended; none if there was none.
    #[must_use]
    pub fn last_seen(&self) -> Option<Timestamp> {
        (self.sums.requests > 0).then_some(self.sums.last_seen)
    }
}

impl fmt::Debug for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Total")
            .field("requests", &self.requests())
            .field("refused", &self.refused())
            .field("bytes_in", &self.bytes_in())
            .field("bytes_out", &self.bytes_out())
            .field("units", &self.units().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.write(&mut map)?;
        map.end()
    }
}

impl Total {
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("requests", &self.requests())?;
        map.serialize_entry("refused", &self.refused())?;
        map.serialize_entry("refusals", &Refusals(self))?;
        map.serialize_entry("bytes_in", &self.bytes_in())?;
        map.serialize_entry("bytes_out", &self.bytes_out())?;
        map.serialize_entry("units", &Amounts(&self.names, &self.sums.units))?;
        map.serialize_entry("last_seen", &self.last_seen())
    }
}

struct Refusals<'a>(&'a Total);

impl Serialize for Refusals<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = self.0.refusals();
        serializer.collect_map(counts.map(|(reason, count)| (reason.code(), count)))
    }
}

/// A caller with what they have used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// What they have used.
    pub total: Total,
}

impl Serialize for Caller {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("source", self.principal.source())?;
        map.serialize_entry("tenant", &self.principal.tenant())?;
        map.serialize_entry("subject", self.principal.subject())?;
        self.total.write(&mut map)?;
        map.end()
    }
}

/// What all callers have used. `Display` makes a table of it, serde an object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The callers that there was room for, those with the most requests first.
    pub callers: Vec<Caller>,
    /// What nobody knew of.
    pub anonymous: Total,
    /// What those have used whom there was no room for: the least recently seen.
    pub other: Total,
}

impl Snapshot {
    /// All of it.
    #[must_use]
    pub fn sum(&self) -> Total {
        let mut sum = self.other.clone();
        sum.sums.add(&self.anonymous.sums);
        for caller in &self.callers {
            sum.sums.add(&caller.total.sums);
        }
        sum
    }
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Snapshot", 4)?;
        fields.serialize_field("callers", &self.callers)?;
        fields.serialize_field("anonymous", &self.anonymous)?;
        fields.serialize_field("other", &self.other)?;
        fields.serialize_field("sum", &self.sum())?;
        fields.end()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units: Vec<_> = self.other.names.iter().collect();
        let mut head = vec!["caller".to_owned()];
        let numbers = ["requests", "refused", "bytes in", "bytes out"];
        head.extend(numbers.map(str::to_owned));
        head.extend(units.iter().map(ToString::to_string));
        let row = |name: String, total: &Total| {
            let numbers = [
                total.requests(),
                total.refused(),
                total.bytes_in(),
                total.bytes_out(),
            ];
            let units = total.units().map(|(_, amount)| amount);
            let cells = numbers.into_iter().chain(units).map(|n| n.to_string());
            [name].into_iter().chain(cells).collect::<Vec<_>>()
        };
        let mut rows = vec![head];
        for Caller { principal, total } in &self.callers {
            // A name may be a stranger's: what would leave the line is escaped.
            let name = principal.subject().escape_debug();
            let name = match principal.tenant() {
                Some(tenant) => format!("{name} ({})", tenant.escape_debug()),
                None => name.to_string(),
            };
            rows.push(row(name, total));
        }
        rows.push(row("anonymous".to_owned(), &self.anonymous));
        if self.other.requests() > 0 {
            rows.push(row("all others".to_owned(), &self.other));
        }
        rows.push(row("sum".to_owned(), &self.sum()));
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
        for row in &rows {
            write!(f, "{:<1$}", row[0], widths[0])?;
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
