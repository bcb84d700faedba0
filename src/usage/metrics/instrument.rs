//! [`Instrument`]: what is measured, and the names that it has.

/// What is measured. Names are those of OpenTelemetry where it has one.
#[derive(Debug)]
pub(super) struct Instrument {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) description: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Counter,
    /// Goes up and down.
    Gauge,
    /// Of times, in seconds: those of requests, and those of stores.
    Times,
    ShortTimes,
    /// Of sizes, in bytes.
    Sizes,
}

/// The name of a label, and its value.
pub(super) type Label<'a> = (&'static str, Value<'a>);

#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(u16),
    Text(&'a str),
    True,
    /// There is none. OpenTelemetry wants no label then, and people one to read.
    Unmatched,
    Word(&'static str),
}

impl Instrument {
    const fn new(
        kind: Kind,
        name: &'static str,
        unit: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            kind,
            name,
            unit,
            description,
        }
    }

    /// The name that it has in the text format of Prometheus, by the rules that OpenTelemetry
    /// has for it: `http_server_request_duration_seconds`.
    #[cfg(feature = "metrics")]
    pub(super) fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = if self.kind == Kind::Counter {
            "_total"
        } else {
            ""
        };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }
}

pub(super) static HTTP_DURATION: Instrument = Instrument::new(
    Kind::Times,
    "http.server.request.duration",
    "s",
    "Duration of HTTP server requests, to the end of the response's body.",
);
pub(super) static HTTP_ACTIVE: Instrument = Instrument::new(
    Kind::Gauge,
    "http.server.active_requests",
    "{request}",
    "Number of active HTTP server requests, calls of gRPC included.",
);
pub(super) static HTTP_REQUEST_SIZE: Instrument = Instrument::new(
    Kind::Sizes,
    "http.server.request.body.size",
    "By",
    "Size of HTTP server request bodies.",
);
pub(super) static HTTP_RESPONSE_SIZE: Instrument = Instrument::new(
    Kind::Sizes,
    "http.server.response.body.size",
    "By",
    "Size of HTTP server response bodies.",
);
pub(super) static RPC_DURATION: Instrument = Instrument::new(
    Kind::Times,
    "rpc.server.call.duration",
    "s",
    "Duration of calls of gRPC methods, to their trailers.",
);
pub(super) static REFUSALS: Instrument = Instrument::new(
    Kind::Counter,
    "tollgate.refusals",
    "{request}",
    "Requests that were refused, by the code that the client was told.",
);
pub(super) static STORE_DURATION: Instrument = Instrument::new(
    Kind::ShortTimes,
    "tollgate.store.duration",
    "s",
    "Time that a store took. Those that failed have an error.type.",
);

macro_rules! watched {
    ($($(#[$doc:meta])* $id:ident = $kind:ident $name:literal $unit:literal $description:literal;)*) => {
        $(pub(super) static $id: Instrument =
            Instrument::new(Kind::$kind, $name, $unit, $description);)*

        /// What is read when somebody asks, and not at each request.
        pub(super) static WATCHED: &[&Instrument] = &[$(&$id),*];
    };
}

watched! {
    CACHE_LOOKUPS = Counter "tollgate.cache.lookups" "{lookup}"
        "Look-ups in a cache, by their result.";
    CACHE_STALE = Counter "tollgate.cache.stale" "{lookup}"
        "Stale records that were answered because the store failed.";
    CACHE_TURNED_AWAY = Counter "tollgate.cache.turned_away" "{lookup}"
        "Look-ups that failed because the store was asked enough already.";
    DRAIN_IO = Counter "tollgate.drain.io" "By"
        "Bytes that were read of request bodies that the service left unread.";
    DRAIN_BODIES = Counter "tollgate.drain.bodies" "{body}"
        "Request bodies that the service left unread, by how reading the rest ended.";
    JWKS_AGE = Gauge "tollgate.jwks.age" "s"
        "Time since an issuer has said that these are its keys.";
    JWKS_READY = Gauge "tollgate.jwks.ready" "{issuer}"
        "1 if there are keys of the issuer to verify tokens with, else 0.";
    JWKS_FETCHES = Counter "tollgate.jwks.fetches" "{fetch}"
        "How often the keys of an issuer were asked for.";
    JWKS_FAILURES = Gauge "tollgate.jwks.failures" "{fetch}"
        "How many fetches of an issuer's keys have failed in a row.";
    KEYS_LOST_USES = Counter "tollgate.keys.lost_uses" "{use}"
        "Uses of keys that the store has not heard of, and never will.";
    LIMITER_BUDGETS = Gauge "tollgate.limiter.budgets" "{budget}"
        "Budgets that are known.";
    LIMITER_EVICTED = Counter "tollgate.limiter.evicted" "{budget}"
        "Budgets in use that had to make room for others.";
    LIMITER_PARTITIONED = Gauge "tollgate.limiter.partitioned" "{limiter}"
        "1 if the limiter decides without its store, else 0.";
    LIMITER_FALLBACKS = Counter "tollgate.limiter.fallbacks" "{request}"
        "Requests that were decided without the store: by the local share, open or closed.";
    LIMITER_DENIED_LOCALLY = Counter "tollgate.limiter.denied_locally" "{request}"
        "Requests that were refused without asking, because the store would have refused them.";
    LIMITER_ROUND_TRIPS = Counter "tollgate.limiter.round_trips" "{command}"
        "Commands that were sent to the store.";
    LIMITER_LOST = Counter "tollgate.limiter.lost" "{command}"
        "Charges, refunds, bans and resets that may not have arrived.";
    SINK_DELIVERED = Counter "tollgate.sink.delivered" "{item}"
        "Requests, or events of an audit trail, that a sink has taken.";
    SINK_LOST = Counter "tollgate.sink.lost" "{item}"
        "Requests or events that a sink will never hear of.";
    SINK_WAITING = Gauge "tollgate.sink.waiting" "{item}"
        "Requests or events that wait for a sink.";
    SINK_FAILURES = Counter "tollgate.sink.failures" "{batch}"
        "Batches that a sink did not take.";
    THROTTLE_FORGOTTEN = Counter "tollgate.throttle.forgotten" "{network}"
        "Networks with failures that had to make room for others.";
}
