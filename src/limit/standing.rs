//! [`Standing`]: the state of a limit after a request, and the headers of stacked limits.

use std::cmp::Reverse;
use std::time::Duration;

use http::{Response, StatusCode};

use crate::limit::fields::Fields;
use crate::limit::gcra::Step;
use crate::limit::limiter::{Decision, Verdict};
use crate::limit::quotas::Quotas;
use crate::rejection::Rejection;

/// The state of a limit after it has decided about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) quotas: &'a Quotas,
    pub(crate) decision: &'a Decision,
    pub(crate) cost: u32,
}

/// The quota of a limit that a client runs into first.
pub(crate) struct Tightest {
    pub(crate) burst: u32,
    pub(crate) remaining: u32,
    /// The time until the whole burst is available again.
    pub(crate) reset: Duration,
}

impl Standing<'_> {
    /// Returns the quota that refused, and of several the one with the longest wait. If none
    /// refused, returns the one with the least units left.
    pub(crate) fn tightest(self) -> Option<Tightest> {
        let (decision, cost) = (self.decision, self.cost);
        let violated = match decision.verdict {
            Verdict::Refused { violated, .. } => violated,
            Verdict::Admitted | Verdict::Banned { .. } => 0,
        };
        let quotas = self.quotas.iter().zip(self.quotas.rates()).zip(0..);
        let standings = quotas
            .zip(decision.cells)
            .map(|(((quota, rate), at), cell)| {
                let wait = match rate.step(cell, decision.now, cost) {
                    _ if violated & (1 << at) == 0 => Duration::ZERO,
                    Step::Wait(_, wait) => wait,
                    // Longer than any wait.
                    Step::Never => Duration::MAX,
                    Step::Paid(_) => Duration::ZERO,
                };
                let reset = match decision.verdict {
                    Verdict::Banned { wait } => wait,
                    _ => rate.until_full(cell, decision.now),
                };
                let tightest = Tightest {
                    burst: quota.burst_size(),
                    remaining: decision.left(rate, cell),
                    reset,
                };
                (wait, tightest)
            });
        let tightest = standings.min_by_key(|(wait, tightest)| {
            (Reverse(*wait), tightest.remaining, Reverse(tightest.reset))
        });
        tightest.map(|(_, tightest)| tightest)
    }

    /// Returns whether this limit admits fewer further requests of the same cost than the
    /// other, or takes longer to refill if both admit the same number.
    fn is_tighter_than(self, other: Standing<'_>) -> bool {
        let rank = |standing: Standing<'_>| {
            let tightest = standing.tightest()?;
            let requests = tightest.remaining / standing.cost.max(1);
            Some((requests, Reverse(tightest.reset)))
        };
        rank(self) < rank(other)
    }
}

/// The headers that limits inside have written to a response, for the limit outside of them.
#[derive(Clone, Debug)]
struct Written {
    quotas: Quotas,
    decision: Decision,
    cost: u32,
    /// The style of the draft, and one of the legacy styles.
    styles: [Option<Fields>; 2],
}

/// Writes the headers of a limit that has admitted the request: see [`Fields`]. `rejection` is that
/// of the stack.
pub(crate) fn write_headers<B>(
    response: &mut Response<B>,
    rejection: Option<&Rejection>,
    own: Standing<'_>,
    fields: Fields,
    has_outer: bool,
) {
    if fields == Fields::Off || is_refused(response, rejection) {
        return;
    }
    let inner = response.extensions_mut().remove::<Written>();
    let mut styles = inner.as_ref().map_or([None; 2], |inner| inner.styles);
    let inner = inner.as_ref().map(|inner| Standing {
        quotas: &inner.quotas,
        decision: &inner.decision,
        cost: inner.cost,
    });
    let (tightest, is_own) = match inner {
        Some(inner) if !own.is_tighter_than(inner) => (inner, false),
        _ => (own, true),
    };
    let headers = response.headers_mut();
    let style = &mut styles[usize::from(fields != Fields::Draft10)];
    let is_new = style.is_none() && !fields.is_in(headers);
    if is_new {
        *style = Some(fields);
    }
    if is_own {
        for style in styles.into_iter().flatten() {
            style.write(headers, tightest);
        }
    } else if is_new {
        fields.write(headers, tightest);
    }
    if has_outer {
        let written = Written {
            quotas: tightest.quotas.clone(),
            decision: *tightest.decision,
            cost: tightest.cost,
            styles,
        };
        response.extensions_mut().insert(written);
    }
}

/// Returns whether something inside has refused the request because of a limit of its own: a
/// layer of this crate, even if a layer between has changed the status, or the handler.
fn is_refused<B>(response: &Response<B>, rejection: Option<&Rejection>) -> bool {
    let rejection = rejection.or_else(|| response.extensions().get::<Rejection>());
    response.status() == StatusCode::TOO_MANY_REQUESTS
        || rejection
            .is_some_and(|rejection| rejection.reason().status() == StatusCode::TOO_MANY_REQUESTS)
}
