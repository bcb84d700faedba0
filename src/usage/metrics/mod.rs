//! [`Metrics`]: what happens, as numbers that an operator's tools read.
//!
//! They go to a recorder of the crate [`metrics`](https://docs.rs/metrics) (feature `metrics`), for
//! Prometheus or what else there is an exporter for, or to a meter of OpenTelemetry (feature
//! `opentelemetry`). Names and labels are those of OpenTelemetry's conventions, and with the
//! former as OpenTelemetry writes them for Prometheus: `http_server_request_duration_seconds`.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
//! use tollgate::keys::{Cached, MemoryKeys, Peppers};
//! use tollgate::usage::Usage;
//! use tollgate::usage::metrics::{Metrics, SIZE_BUCKETS, TIME_BUCKETS};
//! use tollgate::{ApiKeys, AuthLayer, UsageLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let recorder = PrometheusBuilder::new()
//!     .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIME_BUCKETS)?
//!     .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &SIZE_BUCKETS)?
//!     .build_recorder();
//! let prometheus = recorder.handle();
//! let metrics = Metrics::to_recorder(recorder);
//!
//! let cached = Cached::new(metrics.measured("keys", MemoryKeys::new()));
//! metrics.watch("keys", &cached);
//! let usage = Usage::builder().observer(metrics.clone()).build();
//! let service = ServiceBuilder::new()
//!     .layer(UsageLayer::new(usage))
//!     .layer(AuthLayer::new(ApiKeys::new(cached, Peppers::random())))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, std::convert::Infallible>(Response::new(Empty::<&[u8]>::new()))
//!     }));
//! drop(service.oneshot(Request::get("/").body(())?).await?); // refused: no key
//!
//! metrics.refresh(); // before each scrape: what is watched is read
//! let page = prometheus.render();
//! assert!(page.contains(r#"tollgate_refusals_total{tollgate_refusal_code="credentials_missing""#));
//! assert!(page.contains(r#"tollgate_cache_lookups_total{tollgate_name="keys",tollgate_cache_result="hit"} 0"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is measured
//! | name | labels |
//! |---|---|
//! | `http.server.request.duration`, to the end of the body | `http.request.method`, `url.scheme`, `network.protocol.version`, `http.route`, `http.response.status_code`, `error.type` |
//! | `http.server.request.body.size`, `http.server.response.body.size` | the same |
//! | `http.server.active_requests` | `http.request.method`, `url.scheme` |
//! | `rpc.server.call.duration`, in place of the first three for calls of gRPC | `rpc.system.name`, `rpc.method`, `rpc.response.status_code`, `error.type` |
//! | `tollgate.refusals` | `tollgate.refusal.code`, which the client was told, and `tollgate.refusal.cause`, which it was not |
//! | `tollgate.store.duration` | `tollgate.name`, `tollgate.operation`, `error.type`: see [`Metrics::measured`] |
//! | what is watched | `tollgate.name` and others: see [`Watch`] |
//!
//! `error.type` is the status, if that is an error of the server, or how the request ended if
//! not completely: `body_error`, `cancelled`, `disconnected`, `service_error`.
//!
//! # Cardinality
//! No label has a value that a client can make up. A method is one of nine, or `_OTHER`; the
//! route is a template, and requests without one have one label in common: none, or
//! `unmatched` with a recorder; nobody's name is in a label unless [`Metrics::attribute`] puts
//! it there. There are 1,900 series of requests at most, which is within what the SDK of
//! OpenTelemetry keeps, or as many as [`Metrics::series`] says. Callers who are not known open no
//! more than half of them. What is too much is counted as `otel.metric.overflow`.
//!
//! # Deployment
//! - Before each scrape, or every few seconds, [`Metrics::refresh`]. With OpenTelemetry there is
//!   no need.
//! - A recorder of Prometheus that is not installed by its exporter keeps each sample until it is
//!   asked for a page, or told to tidy up: `PrometheusHandle::run_upkeep`, every few seconds.
//! - No `idle_timeout` of an exporter: a series that it forgets does not come back, since its
//!   handle is kept.
//! - The names of what is watched are labels: each needs one of its own.
//!
//! # Cost
//! A look-up of the handles, which are kept, and what they cost themselves: with a recorder,
//! tens of nanoseconds each; with the SDK of OpenTelemetry, which looks for the series again,
//! more. It allocates nothing for a series that is known, unless there are
//! [attributes](Metrics::attribute) of one's own.

mod backend;
#[cfg(feature = "metrics")]
mod facade;
mod instrument;
mod measured;
#[cfg(feature = "opentelemetry")]
mod otel;
mod series;
mod watch;

use std::array;
use std::fmt;
use std::sync::{Arc, OnceLock};

use papaya::HashMap;

use crate::network::Transport;
use crate::rejection::{Cause, Reason};
use crate::usage::handle::Observer;
use crate::usage::metrics::backend::{Backend, Handle};
use crate::usage::metrics::instrument::{HTTP_ACTIVE, REFUSALS, Value};
use crate::usage::metrics::series::{METHODS, SeriesTable, method_index, scheme};
use crate::usage::metrics::watch::Watched;
use crate::usage::record::{Arrival, Record};

pub use measured::Measured;
pub use watch::Watch;

/// The buckets that OpenTelemetry advises for durations, in seconds. With OpenTelemetry they
/// are set; of a recorder's, its exporter has to be told.
pub const TIME_BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Buckets for the times of stores, in seconds: from a tenth of a millisecond. As
/// [`TIME_BUCKETS`].
pub const STORE_TIME_BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// Buckets for sizes, in bytes: from a few words to 64 MiB.
pub const SIZE_BUCKETS: [f64; 10] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    8_388_608.0,
    67_108_864.0,
];

/// Measures requests, as an [`Observer`] of a [`Usage`](crate::usage::Usage), and what it is
/// told to watch: see the [module](crate::usage::metrics). Clones are one.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    series: SeriesTable,
    attributes: Vec<Attribute>,
    /// By method and transport.
    active: [[OnceLock<Handle>; 2]; METHODS.len()],
    refusals: HashMap<(Reason, Cause), Handle>,
    watched: Arc<Watched>,
}

struct Attribute {
    name: &'static str,
    value: Box<ReadAttribute>,
}

type ReadAttribute = dyn Fn(&Record) -> Option<Arc<str>> + Send + Sync;

impl Metrics {
    /// To that recorder: that of an exporter, which need not be installed.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn to_recorder(recorder: impl ::metrics::Recorder + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(facade::Facade::new(Some(Box::new(recorder)))))
    }

    /// To the recorder that the process has installed already: handles are kept, and those of
    /// none do nothing.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn to_global_recorder() -> Self {
        Self::new(Arc::new(facade::Facade::new(None)))
    }

    /// To that meter of OpenTelemetry: `provider.meter("tollgate")`.
    #[cfg(feature = "opentelemetry")]
    #[must_use]
    pub fn to_meter(meter: opentelemetry::metrics::Meter) -> Self {
        Self::new(Arc::new(otel::Otel::new(meter)))
    }

    fn new(backend: Arc<dyn Backend>) -> Self {
        let watched = Arc::default();
        backend.watch(&watched);
        let shared = Shared {
            backend,
            series: SeriesTable::new(1_900),
            attributes: Vec::new(),
            active: array::from_fn(|_| Default::default()),
            refusals: HashMap::new(),
            watched,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Sets how many series of requests there are at most.
    ///
    /// # Panics
    /// If it was cloned already.
    #[must_use]
    #[track_caller]
    pub fn series(self, room: usize) -> Self {
        self.set(|shared| shared.series = SeriesTable::new(room))
    }

    /// Adds a label to the durations and sizes of requests: the plan, or the tenant. There
    /// must be few values, since each is a series of its own, and the name must be none of those
    /// that are there.
    ///
    /// # Panics
    /// If it was cloned already.
    #[must_use]
    #[track_caller]
    pub fn attribute(
        self,
        name: &'static str,
        value: impl Fn(&Record) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        let value = Box::new(value);
        self.set(|shared| shared.attributes.push(Attribute { name, value }))
    }

    /// Has something read under that name, whenever somebody asks for the metrics, or at
    /// [`Metrics::refresh`]. It lives as long as the metrics do, but for a
    /// [`Usage`](crate::usage::Usage), which is held loosely.
    pub fn watch(&self, name: impl Into<Box<str>>, what: &impl Watch) {
        self.shared.watched.add(name.into(), what);
    }

    /// Times the answers of a [`KeyStore`](crate::keys::KeyStore) or a
    /// [`Limiter`](crate::limit::Limiter), as `tollgate.store.duration` under that name. It
    /// stands behind a cache, next to what it measures; what is answered at once is not timed.
    ///
    /// Errors have an `error.type` of `unavailable`, and what nobody waited for any longer
    /// `given_up`. (A limiter that decides without its store has not failed: see
    /// `tollgate.limiter.fallbacks`.)
    #[must_use]
    pub fn measured<S>(&self, name: impl Into<Box<str>>, store: S) -> Measured<S> {
        Measured::new(name.into(), Arc::clone(&self.shared.backend), store)
    }

    /// Reads what is watched: before a page for Prometheus is made, or every few seconds where
    /// an exporter does that by itself. OpenTelemetry asks for it, and this does nothing.
    pub fn refresh(&self) {
        self.shared.backend.refresh(&self.shared.watched);
    }

    #[track_caller]
    fn set(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        let shared = Arc::get_mut(&mut self.shared);
        change(shared.expect("set up the metrics before they are cloned"));
        self
    }
}

impl Shared {
    fn active(&self, method: usize, transport: Transport, change: f64) {
        let handle =
            self.active[method][usize::from(transport == Transport::Tls)].get_or_init(|| {
                let labels = [
                    ("http.request.method", Value::Word(METHODS[method])),
                    ("url.scheme", Value::Word(scheme(transport))),
                ];
                self.backend.handle(&HTTP_ACTIVE, &labels)
            });
        handle(change);
    }

    fn refused(&self, reason: Reason, cause: Cause) {
        let refusals = self.refusals.pin();
        let handle = refusals.get_or_insert_with((reason, cause), || {
            let labels = [
                ("tollgate.refusal.code", Value::Word(reason.code())),
                ("tollgate.refusal.cause", Value::Word(cause.as_str())),
            ];
            self.backend.handle(&REFUSALS, &labels)
        });
        handle(1.0);
    }
}

impl Observer for Metrics {
    fn begun(&self, request: Arrival<'_>) {
        let method = method_index(request.method);
        self.shared.active(method, request.transport, 1.0);
    }

    fn ended(&self, record: &Record) {
        let shared = &*self.shared;
        let method = method_index(record.method());
        shared.active(method, record.transport(), -1.0);
        if let (Some(reason), Some(cause)) = (record.refusal(), record.cause()) {
            shared.refused(reason, cause);
        }
        let attributes = shared.attributes.iter();
        let extras: Vec<_> = attributes
            .map(|attribute| (attribute.name, (attribute.value)(record)))
            .collect();
        shared.series.record(&*shared.backend, record, &extras);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
