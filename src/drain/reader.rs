//! Reading the rest of a body within the bounds.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http_body::Body;
use tokio::time::{Instant, Sleep};

use crate::drain::counters::{AbandonReason, Place};
use crate::drain::layer::Settings;

/// Reads the rest of a body. Boxed by its owner, since most requests need none.
pub(super) struct Reader<B> {
    body: Pin<Box<B>>,
    place: Place,
    limits: Limits,
    started: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// The bounds of one body.
#[derive(Clone, Copy)]
struct Limits {
    max_bytes: u64,
    timeout: Duration,
    min_rate: u32,
}

impl<B: Body> Reader<B> {
    pub(super) fn new(body: Pin<Box<B>>, place: Place, settings: &Settings, sleep: Sleep) -> Self {
        Self {
            body,
            place,
            limits: Limits {
                max_bytes: settings.max_bytes,
                timeout: settings.timeout,
                min_rate: settings.min_rate,
            },
            started: Instant::now(),
            sleep: Box::pin(sleep),
        }
    }

    /// Reads on. Returns whether the body was read to its end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        for _ in 0..FRAMES_AT_A_TIME {
            if let Some(end) = self.step(cx) {
                let Poll::Ready(end) = end else {
                    return Poll::Pending;
                };
                self.place.end = end;
                return Poll::Ready(end.is_ok());
            }
        }
        // A body that never waits must not starve other tasks.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads a frame. Returns `None` if there may be more at once.
    fn step(&mut self, cx: &mut Context<'_>) -> Option<Poll<Result<(), AbandonReason>>> {
        if let Err(reason) = self.limits.check(self.place.bytes, &*self.body) {
            return Some(Poll::Ready(Err(reason)));
        }
        let (allowed, reason) = self.limits.allowed(self.place.bytes);
        if self.started.elapsed() >= allowed {
            return Some(Poll::Ready(Err(reason)));
        }
        match self.body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let read = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                self.place.bytes = self.place.bytes.saturating_add(read);
                None
            }
            Poll::Ready(Some(Err(_))) => Some(Poll::Ready(Err(AbandonReason::ClientGone))),
            Poll::Ready(None) => Some(Poll::Ready(Ok(()))),
            Poll::Pending => {
                let end = self.started.checked_add(allowed);
                if let Some(end) = end.filter(|end| *end != self.sleep.deadline()) {
                    self.sleep.as_mut().reset(end);
                }
                let waited = self.sleep.as_mut().poll(cx);
                Some(waited.map(|()| Err(reason)))
            }
        }
    }
}

impl Limits {
    /// Checks what was read and what is known to follow against the bound on bytes.
    fn check<B: Body>(&self, read: u64, body: &B) -> Result<(), AbandonReason> {
        let total = read.saturating_add(body.size_hint().lower());
        match total > self.max_bytes {
            true => Err(AbandonReason::TooLarge),
            false => Ok(()),
        }
    }

    /// Returns the time in which a client that has sent `bytes` must send more, and the bound that
    /// this time comes from.
    fn allowed(&self, bytes: u64) -> (Duration, AbandonReason) {
        if self.min_rate > 0 {
            let earned = bytes / u64::from(self.min_rate);
            let rest = bytes % u64::from(self.min_rate);
            let nanos = rest * 1_000_000_000 / u64::from(self.min_rate);
            let by_rate = Duration::from_secs(earned)
                .saturating_add(Duration::from_nanos(nanos))
                .saturating_add(FREE);
            if by_rate < self.timeout {
                return (by_rate, AbandonReason::TooSlow);
            }
        }
        (self.timeout, AbandonReason::Timeout)
    }
}

/// The time before the rate of a client is checked.
const FREE: Duration = Duration::from_secs(1);

const FRAMES_AT_A_TIME: usize = 32;

/// Returns whether the body is known to be longer than the bound.
pub(super) fn is_too_large<B: Body>(body: &B, settings: &Settings) -> bool {
    body.size_hint().lower() > settings.max_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_time_grows_with_bytes_up_to_the_timeout() {
        let limits = Limits {
            max_bytes: u64::MAX,
            timeout: Duration::from_secs(5),
            min_rate: 1_000,
        };
        for (bytes, millis, reason) in [
            (0, 1_000, AbandonReason::TooSlow),
            (500, 1_500, AbandonReason::TooSlow),
            (3_999, 4_999, AbandonReason::TooSlow),
            (4_000, 5_000, AbandonReason::Timeout),
            (u64::MAX, 5_000, AbandonReason::Timeout),
        ] {
            let expected = (Duration::from_millis(millis), reason);
            assert_eq!(limits.allowed(bytes), expected, "{bytes}");
        }
        let without_rate = Limits {
            min_rate: 0,
            ..limits
        };
        let expected = (limits.timeout, AbandonReason::Timeout);
        assert_eq!(without_rate.allowed(0), expected);
        let fast = Limits {
            min_rate: u32::MAX,
            timeout: Duration::MAX,
            ..limits
        };
        assert!(fast.allowed(u64::MAX).0 < Duration::MAX);
    }
}
