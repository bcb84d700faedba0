//! Counters of a [`DrainLayer`](crate::drain::DrainLayer), and the places among the bodies that are
//! read at a time.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::drain::layer::Settings;
use crate::timeout::Timer;

/// Why the rest of a body was not read to its end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum AbandonReason {
    /// The body is longer than [`max_bytes`](crate::drain::DrainLayer::max_bytes).
    TooLarge,
    /// It took longer than [`timeout`](crate::drain::DrainLayer::timeout).
    Timeout,
    /// The client sent less than [`min_rate`](crate::drain::DrainLayer::min_rate).
    TooSlow,
    /// [`max_concurrent`](crate::drain::DrainLayer::max_concurrent) bodies were being read.
    Busy,
    /// [`max_concurrent_per_network`](crate::drain::DrainLayer::max_concurrent_per_network) bodies of
    /// this client network were being read.
    NetworkBusy,
    /// The body failed, or the server gave up the request: the connection is gone.
    ClientGone,
    /// The runtime has no timer to keep the timeout with.
    NoTimer,
}

impl AbandonReason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::TooLarge,
        Self::Timeout,
        Self::TooSlow,
        Self::Busy,
        Self::NetworkBusy,
        Self::ClientGone,
        Self::NoTimer,
    ];

    /// Returns the name of the reason, as it is in metrics: `too_large`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::TooSlow => "too_slow",
            Self::Busy => "busy",
            Self::NetworkBusy => "network_busy",
            Self::ClientGone => "client_gone",
            Self::NoTimer => "no_timer",
        }
    }
}

impl fmt::Display for AbandonReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A handle to the counters of a [`DrainLayer`](crate::drain::DrainLayer).
///
/// Clones share the same counters. [`Metrics::watch`](crate::usage::metrics::Metrics::watch) exports
/// them.
#[derive(Clone)]
pub struct DrainCounters {
    shared: Arc<Shared>,
}

/// State that the services of a layer share.
#[derive(Default)]
pub(super) struct Shared {
    drained: AtomicU64,
    bytes: AtomicU64,
    abandoned: [AtomicU64; AbandonReason::ALL.len()],
    under_way: Mutex<UnderWay>,
    timer: Timer,
}

/// Networks are here only while a body of theirs is being read.
#[derive(Default)]
struct UnderWay {
    all: usize,
    by_network: HashMap<Option<IpNet>, usize>,
}

impl DrainCounters {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the number of bodies that were read to their end.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.shared.drained.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes that were read, of abandoned bodies too.
    #[must_use]
    pub fn drained_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Returns the number of bodies that were not read, or not to their end, for this reason.
    #[must_use]
    pub fn abandoned(&self, reason: AbandonReason) -> u64 {
        self.shared.abandoned[reason as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of bodies that are being read at the moment.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.shared.under_way.lock().all
    }
}

impl fmt::Debug for DrainCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("DrainCounters");
        text.field("drained", &self.drained())
            .field("drained_bytes", &self.drained_bytes());
        for reason in AbandonReason::ALL {
            text.field(reason.as_str(), &self.abandoned(reason));
        }
        text.finish()
    }
}

impl Shared {
    pub(super) const fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Counts a body that was not read to its end. The first one for each reason that a setting can
    /// help against is logged.
    pub(super) fn abandon(&self, reason: AbandonReason, settings: &Settings) {
        let before = self.abandoned[reason as usize].fetch_add(1, Ordering::Relaxed);
        if let Some((limit, fix)) = settings.remedy(reason).filter(|_| before == 0) {
            tracing::warn!(
                target: "tollgate",
                reason = reason.as_str(),
                limit,
                "DrainLayer: the rest of a request body was not read, so its connection is closed; \
                 {fix} (logged once, see `DrainCounters::abandoned`)",
            );
        }
    }

    /// Takes a place among the bodies that are being read.
    pub(super) fn enter(
        self: &Arc<Self>,
        network: Option<IpNet>,
        settings: &Arc<Settings>,
    ) -> Result<Place, AbandonReason> {
        let mut under_way = self.under_way.lock();
        if under_way.all >= settings.max_concurrent {
            return Err(AbandonReason::Busy);
        }
        let of_network = under_way.by_network.get(&network).copied().unwrap_or(0);
        if of_network >= settings.max_concurrent_per_network {
            return Err(AbandonReason::NetworkBusy);
        }
        under_way.all += 1;
        under_way.by_network.insert(network, of_network + 1);
        Ok(Place {
            shared: Arc::clone(self),
            settings: Arc::clone(settings),
            network,
            bytes: 0,
            end: Err(AbandonReason::ClientGone),
        })
    }
}

/// A place among the bodies that are being read. Dropping it frees the place and counts how the
/// reading ended.
pub(super) struct Place {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    network: Option<IpNet>,
    pub(super) bytes: u64,
    /// `ClientGone` until the reading has ended, since the server drops the future then.
    pub(super) end: Result<(), AbandonReason>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        match self.end {
            Ok(()) => _ = shared.drained.fetch_add(1, Ordering::Relaxed),
            Err(reason) => shared.abandon(reason, &self.settings),
        }
        let mut under_way = shared.under_way.lock();
        under_way.all = under_way.all.saturating_sub(1);
        if let Some(of_network) = under_way.by_network.get_mut(&self.network) {
            *of_network = of_network.saturating_sub(1);
            if *of_network == 0 {
                under_way.by_network.remove(&self.network);
            }
        }
    }
}
