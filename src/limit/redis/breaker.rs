//! [`Breaker`]: does not ask who does not answer, but for one question now and then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Closed, it lets everything pass. After some failures in a row it opens, and nothing
/// passes for a while; then one probe, which closes it or opens it for twice as long.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    is_probed: bool,
}

/// Who may pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pass {
    Normal,
    /// On it depends how things go on: it is to be concluded, or abandoned.
    Probe,
}

impl Breaker {
    pub(super) fn pass(&self, now: Instant) -> Option<Pass> {
        let mut state = self.state.lock();
        let Some(open) = &mut state.open else {
            return Some(Pass::Normal);
        };
        if open.is_probed || now < open.until {
            return None;
        }
        open.is_probed = true;
        Some(Pass::Probe)
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }

    /// It answered. Says whether this has closed it.
    pub(super) fn succeeded(&self, pass: Pass) -> bool {
        let mut state = self.state.lock();
        let was_open = state.open.is_some();
        // One that was asked before it opened says nothing about now.
        if was_open && pass == Pass::Normal {
            return false;
        }
        *state = State::default();
        was_open
    }

    /// It did not. Says whether this has opened it, or has kept it open.
    pub(super) fn failed(&self, pass: Pass, weight: u32, now: Instant) -> bool {
        let mut state = self.state.lock();
        let pause = match &state.open {
            Some(open) if pass == Pass::Probe => (open.pause * 2).min(LONGEST),
            Some(_) => return false,
            None => {
                state.failures = state.failures.saturating_add(weight);
                if state.failures < TRIPS {
                    return false;
                }
                FIRST
            }
        };
        state.open = Some(Open {
            until: now + jittered(pause),
            pause,
            is_probed: false,
        });
        true
    }

    /// The probe was dropped before it was answered: the next one is a probe.
    pub(super) fn abandoned(&self, pass: Pass) {
        if pass == Pass::Probe
            && let Some(open) = &mut self.state.lock().open
        {
            open.is_probed = false;
        }
    }
}

/// From a half to the whole, so that nodes do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// How many failures in a row open it.
pub(super) const TRIPS: u32 = 3;
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_probe_at_a_time_decides_when_it_closes() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..TRIPS {
            assert_eq!(breaker.pass(start), Some(Pass::Normal));
        }
        assert!(!breaker.failed(Pass::Normal, 1, start));
        breaker.succeeded(Pass::Normal);
        assert!(!breaker.failed(Pass::Normal, 2, start), "not in a row");
        assert!(breaker.failed(Pass::Normal, 1, start));
        assert!(
            !breaker.failed(Pass::Normal, 1, start),
            "it is open already"
        );
        assert_eq!(breaker.pass(start), None);

        let later = start + FIRST;
        assert_eq!(breaker.pass(later), Some(Pass::Probe));
        assert_eq!(breaker.pass(later), None);
        breaker.abandoned(Pass::Probe);
        assert_eq!(breaker.pass(later), Some(Pass::Probe));
        breaker.succeeded(Pass::Normal);
        assert_eq!(breaker.pass(later), None, "an old answer does not close it");
        assert!(breaker.failed(Pass::Probe, 1, later));
        assert_eq!(breaker.pass(later + FIRST / 2), None, "twice as long now");
        let later = later + 2 * FIRST;
        assert_eq!(breaker.pass(later), Some(Pass::Probe));
        breaker.succeeded(Pass::Probe);
        assert_eq!(breaker.pass(later), Some(Pass::Normal));
    }

    #[test]
    fn the_pause_has_an_end() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        breaker.failed(Pass::Normal, TRIPS, now);
        for _ in 0..100 {
            now += LONGEST;
            assert_eq!(breaker.pass(now), Some(Pass::Probe));
            breaker.failed(Pass::Probe, 1, now);
        }
    }
}
