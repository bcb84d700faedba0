//! [`Tally`]: a request of which there are only totals, until its response has ended.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::body::Witness;
use crate::identity::Identity;
use crate::rejection::Reason;
use crate::usage::slot::{Noted, UsageSlot};
use crate::usage::total::Counted;

/// Counts a request at the end of its response, or when it is dropped.
pub(super) struct Tally {
    /// `None` once it is counted.
    slot: Option<UsageSlot>,
    refusal: Option<Reason>,
    bytes_out: u64,
    /// The length of the body, if it is known and nothing can follow it.
    length: Option<u64>,
}

impl Tally {
    pub(super) const fn new(slot: UsageSlot, refusal: Option<Reason>, length: Option<u64>) -> Self {
        Self {
            slot: Some(slot),
            refusal,
            bytes_out: 0,
            length,
        }
    }

    fn end(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let total = Answered {
            refusal: self.refusal,
            was_asked_for: self.refusal.is_none(),
            bytes_out: self.bytes_out,
            to_end: slot.elapsed(),
        };
        total.count(&slot, &slot.end());
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.end();
    }
}

impl Witness for Tally {
    fn data(&mut self, data: &Bytes, is_last: bool) {
        if self.slot.is_none() {
            return;
        }
        self.bytes_out = self.bytes_out.saturating_add(data.len() as u64);
        // Nobody may ask for the end of a body that is as long as it was said to be.
        if is_last || self.length.is_some_and(|length| self.bytes_out >= length) {
            self.end();
        }
    }

    fn trailers(&mut self, _: &HeaderMap) {
        self.end();
    }

    fn ended(&mut self) {
        self.end();
    }

    fn failed(&mut self) {
        self.end();
    }
}

/// The part of a request's end that totals count.
pub(super) struct Answered {
    pub(super) refusal: Option<Reason>,
    /// The handler, which reads the body, was called and has answered.
    pub(super) was_asked_for: bool,
    pub(super) bytes_out: u64,
    pub(super) to_end: Duration,
}

impl Answered {
    pub(super) fn count(&self, slot: &UsageSlot, noted: &Noted) {
        let (shared, asked) = (slot.shared(), slot.asked());
        let declared = if self.was_asked_for {
            asked.declared
        } else {
            0
        };
        let request = Counted {
            principal: noted.caller.as_ref().map(Identity::principal),
            refusal: self.refusal,
            bytes_in: slot.bytes_in().unwrap_or(declared),
            bytes_out: self.bytes_out,
            units: noted.units.as_deref(),
            at: shared.at(asked.started.saturating_add(self.to_end)),
        };
        shared.count(&request, slot.address());
    }
}
