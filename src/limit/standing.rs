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
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) quotas: Quotas,
    pub(crate) decision: Decision,
    pub(crate) cost: u32,
}

/// The quota of a limit that a client runs into first.
pub(crate) struct Tightest {
    pub(crate) burst: u32,
    pub(crate) remaining: u32,
    /// The time until the whole burst is available again.
    pub(crate) reset: Duration,
}

impl Standing {
    /// Returns the quota that refused, and of several the one with the longest wait. If none
    /// refused, returns the one with the least units left.
    pub(crate) fn tightest(&self) -> Option<Tightest> {
        let (decision, cost) = (&self.decision, self.cost);
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
    fn is_tighter_than(&self, other: &Self) -> bool {
        let rank = |standing: &Self| {
            let tightest = standing.tightest()?;
            let requests = tightest.remaining / standing.cost.max(1);
            Some((requests, Reverse(tightest.reset)))
        };
        rank(self) < rank(other)
    }
}

/// Marks a request that has passed a limit which writes headers, for the limits inside of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassedLimit;

/// The headers that limits inside have written to a response, for the limit outside of them.
#[derive(Clone, Debug)]
struct Written {
    tightest: Standing,
    /// The style of the draft, and one of the legacy styles.
    styles: [Option<Fields>; 2],
}

/// Writes the headers of a limit that has admitted the request: see [`Fields`].
pub(crate) fn write_headers<B>(
    response: &mut Response<B>,
    own: Standing,
    fields: Fields,
    has_outer: bool,
) {
    if fields == Fields::Off || is_refused(response) {
        return;
    }
    let inner = response.extensions_mut().remove::<Written>();
    let (mut styles, inner) = match inner {
        Some(Written { tightest, styles }) => (styles, Some(tightest)),
        None => ([None; 2], None),
    };
    let (tightest, is_own) = match inner {
        Some(inner) if !own.is_tighter_than(&inner) => (inner, false),
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
            style.write(headers, &tightest);
        }
    } else if is_new {
        fields.write(headers, &tightest);
    }
    if has_outer {
        response
            .extensions_mut()
            .insert(Written { tightest, styles });
    }
}

/// Returns whether something inside has refused the request because of a limit of its own: a
/// layer of this crate, even if a layer between has changed the status, or the handler.
fn is_refused<B>(response: &Response<B>) -> bool {
    let rejection = response.extensions().get::<Rejection>();
    response.status() == StatusCode::TOO_MANY_REQUESTS
        || rejection
            .is_some_and(|rejection| rejection.reason().status() == StatusCode::TOO_MANY_REQUESTS)
}
