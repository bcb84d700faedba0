//! [`Watch`]: what keeps counts of its own, and has them read.

use parking_lot::RwLock;

use crate::audit::Audit;
use crate::auth::failure_limit::AuthFailureLimitLayer;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
use crate::auth::jwt::Jwt;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
use crate::clock::{Clock, SystemClock};
use crate::drain::{AbandonReason, DrainCounters};
use crate::gate::caught;
use crate::keys::{ApiKeys, Cached, KeyStore};
use crate::limit::MemoryLimiter;
#[cfg(feature = "redis")]
use crate::limit::RedisLimiter;
use crate::usage::handle::Usage;
use crate::usage::metrics::instrument::{self, Instrument, Label, Value};
use crate::usage::sink::SinkStatus;

/// What [`Metrics::watch`](super::Metrics::watch) can watch.
///
/// | | what is read |
/// |---|---|
/// | [`ApiKeys`] | `tollgate.keys.lost_uses` |
/// | [`Audit`] | `tollgate.sink.delivered`, `.lost`, `.waiting`, `.failures`, by sink |
/// | [`Cached`] | `tollgate.cache.lookups` (`hit`, `miss`), `tollgate.cache.stale`, `tollgate.cache.turned_away` |
/// | [`DrainCounters`] | `tollgate.drain.io`; `tollgate.drain.bodies` by `tollgate.drain.result`: `drained`, or why not (`too_large`, `timeout`, …) |
/// | `Jwt` | `tollgate.cache.lookups`; by issuer, `tollgate.jwks.age`, `.ready`, `.fetches`, `.failures` |
/// | [`MemoryLimiter`] | `tollgate.limiter.budgets`, `.evicted` |
/// | `RedisLimiter` | `tollgate.limiter.partitioned`, `.fallbacks` (`local_share`, `open`, `closed`), `.denied_locally`, `.round_trips`, `.lost` |
/// | [`AuthFailureLimitLayer`] | `tollgate.throttle.forgotten` |
/// | [`Usage`] | `tollgate.sink.delivered`, `.lost`, `.waiting`, `.failures`, by sink |
pub trait Watch: sealed::Sealed {}

impl<T: sealed::Sealed> Watch for T {}

/// Tells what there is at the moment.
pub(super) type Read = Box<dyn Fn(&mut Tell<'_>) + Send + Sync>;

mod sealed {
    pub trait Sealed {
        fn reader(&self) -> super::Read;
    }
}

/// Takes what is read of something that has a name.
#[expect(missing_debug_implementations, reason = "nobody outside can name it")]
pub struct Tell<'t> {
    name: &'t str,
    /// If it is nothing else that somebody wants to know.
    only: Option<&'static Instrument>,
    to: &'t mut dyn FnMut(Reading<'_>),
}

/// One thing that was read.
pub(super) struct Reading<'r> {
    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "OpenTelemetry asks for one at a time")
    )]
    pub(super) instrument: &'static Instrument,
    pub(super) labels: &'r [Label<'r>],
    pub(super) value: f64,
}

impl Tell<'_> {
    fn value(&mut self, instrument: &'static Instrument, value: impl FnOnce() -> f64) {
        self.labelled(instrument, None, value);
    }

    fn count(&mut self, instrument: &'static Instrument, value: impl FnOnce() -> u64) {
        self.value(instrument, || value() as f64);
    }

    fn labelled(
        &mut self,
        instrument: &'static Instrument,
        label: Option<Label<'_>>,
        value: impl FnOnce() -> f64,
    ) {
        if self.only.is_some_and(|only| only.name != instrument.name) {
            return;
        }
        let name = ("tollgate.name", Value::Text(self.name));
        let labels: &[Label<'_>] = match label {
            Some(label) => &[name, label],
            None => &[name],
        };
        (self.to)(Reading {
            instrument,
            labels,
            value: value(),
        });
    }

    fn lookups(&mut self, hits: u64, misses: u64) {
        for (result, count) in [("hit", hits), ("miss", misses)] {
            let label = ("tollgate.cache.result", Value::Word(result));
            self.labelled(&instrument::CACHE_LOOKUPS, Some(label), || count as f64);
        }
    }

    fn sinks(&mut self, sinks: &[SinkStatus]) {
        for (number, sink) in sinks.iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let label = || Some(("tollgate.sink.number", Value::Number(number)));
            let mut tell = |what, count: u64| self.labelled(what, label(), || count as f64);
            tell(&instrument::SINK_DELIVERED, sink.delivered);
            tell(&instrument::SINK_LOST, sink.lost);
            tell(&instrument::SINK_WAITING, sink.waiting);
            tell(&instrument::SINK_FAILURES, sink.failures);
        }
    }
}

/// All that is watched.
#[derive(Default)]
pub(super) struct Watched(RwLock<Vec<(Box<str>, Read)>>);

impl Watched {
    pub(super) fn add(&self, name: Box<str>, what: &impl Watch) {
        self.0.write().push((name, what.reader()));
    }

    /// Reads all of it, or what one instrument wants to know.
    pub(super) fn read(&self, only: Option<&'static Instrument>, to: &mut dyn FnMut(Reading<'_>)) {
        for (name, read) in &*self.0.read() {
            // What is read may ask a user's clock.
            if caught(|| read(&mut Tell { name, only, to })).is_err() {
                tracing::error!(target: "tollgate::usage", name, "what is watched panicked");
            }
        }
    }
}

impl<S: KeyStore> sealed::Sealed for ApiKeys<S> {
    fn reader(&self) -> Read {
        let keys = self.clone();
        Box::new(move |tell| tell.count(&instrument::KEYS_LOST_USES, || keys.lost_uses()))
    }
}

impl<S: KeyStore> sealed::Sealed for Cached<S> {
    fn reader(&self) -> Read {
        let cached = self.clone();
        Box::new(move |tell| {
            tell.lookups(cached.hits(), cached.misses());
            tell.count(&instrument::CACHE_STALE, || cached.stale_served());
            tell.count(&instrument::CACHE_TURNED_AWAY, || cached.turned_away());
        })
    }
}

impl sealed::Sealed for DrainCounters {
    fn reader(&self) -> Read {
        let drain = self.clone();
        Box::new(move |tell| {
            tell.count(&instrument::DRAIN_IO, || drain.drained_bytes());
            let mut ended = |result, count: u64| {
                let label = Some(("tollgate.drain.result", Value::Word(result)));
                tell.labelled(&instrument::DRAIN_BODIES, label, || count as f64);
            };
            ended("drained", drain.drained());
            for reason in AbandonReason::ALL {
                ended(reason.as_str(), drain.abandoned(reason));
            }
        })
    }
}

#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
impl sealed::Sealed for Jwt {
    fn reader(&self) -> Read {
        let jwt = self.clone();
        Box::new(move |tell| {
            let (hits, misses) = jwt.lookups();
            tell.lookups(hits, misses);
            for status in jwt.status(SystemClock.now()) {
                let issuer = || Some(("tollgate.jwks.issuer", Value::Text(status.issuer())));
                let mut tell = |what, value| tell.labelled(what, issuer(), || value);
                if let Some(age) = status.age() {
                    tell(&instrument::JWKS_AGE, age.as_secs_f64());
                }
                tell(&instrument::JWKS_READY, f64::from(status.is_ready()));
                tell(&instrument::JWKS_FETCHES, status.fetches() as f64);
                tell(&instrument::JWKS_FAILURES, f64::from(status.failures()));
            }
        })
    }
}

impl sealed::Sealed for MemoryLimiter {
    fn reader(&self) -> Read {
        let limiter = self.clone();
        Box::new(move |tell| {
            tell.count(&instrument::LIMITER_BUDGETS, || limiter.len() as u64);
            tell.count(&instrument::LIMITER_EVICTED, || limiter.evicted());
        })
    }
}

#[cfg(feature = "redis")]
impl sealed::Sealed for RedisLimiter {
    fn reader(&self) -> Read {
        let limiter = self.clone();
        Box::new(move |tell| {
            let status = limiter.status();
            let partitioned = f64::from(status.is_partitioned);
            tell.value(&instrument::LIMITER_PARTITIONED, || partitioned);
            for (way, count) in [
                ("local_share", status.fallbacks.local_share),
                ("open", status.fallbacks.open),
                ("closed", status.fallbacks.closed),
            ] {
                let label = ("tollgate.limiter.fallback", Value::Word(way));
                tell.labelled(&instrument::LIMITER_FALLBACKS, Some(label), || count as f64);
            }
            tell.count(&instrument::LIMITER_DENIED_LOCALLY, || {
                status.denied_locally
            });
            tell.count(&instrument::LIMITER_ROUND_TRIPS, || status.round_trips);
            tell.count(&instrument::LIMITER_LOST, || status.lost);
        })
    }
}

impl sealed::Sealed for AuthFailureLimitLayer {
    fn reader(&self) -> Read {
        let throttle = self.clone();
        Box::new(move |tell| tell.count(&instrument::THROTTLE_FORGOTTEN, || throttle.forgotten()))
    }
}

/// Held loosely: it may hold the metrics.
impl sealed::Sealed for Usage {
    fn reader(&self) -> Read {
        let usage = self.downgrade();
        Box::new(move |tell| {
            if let Some(usage) = usage.upgrade() {
                tell.sinks(&usage.sinks());
            }
        })
    }
}

/// Held loosely, as a [`Usage`].
impl sealed::Sealed for Audit {
    fn reader(&self) -> Read {
        let audit = self.downgrade();
        Box::new(move |tell| {
            if let Some(audit) = audit.upgrade() {
                tell.sinks(&audit.sinks());
            }
        })
    }
}
