//! [`SeriesTable`]: the handles of requests with the same labels.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use http::{Method, StatusCode, Version};
use papaya::HashMap;

use crate::network::Transport;
use crate::usage::metrics::backend::{Backend, Handle};
use crate::usage::metrics::instrument::{
    HTTP_DURATION, HTTP_REQUEST_SIZE, HTTP_RESPONSE_SIZE, Label, RPC_DURATION, Value,
};
use crate::usage::record::{End, Record};

/// What else a series has, of the user's own.
pub(super) type Extras = [(&'static str, Option<Arc<str>>)];

/// The handles, by the labels. The number of series is bounded; what is too much is one more.
pub(super) struct SeriesTable {
    by_labels: HashMap<u64, Series, RandomState>,
    seed: RandomState,
    room: usize,
    taken: AtomicUsize,
}

struct Series {
    duration: Handle,
    /// Of the request, and of the response. Calls have none: those of gRPC count messages.
    sizes: Option<(Handle, Handle)>,
}

impl SeriesTable {
    pub(super) fn new(room: usize) -> Self {
        Self {
            by_labels: HashMap::default(),
            seed: RandomState::default(),
            room,
            taken: AtomicUsize::new(0),
        }
    }

    pub(super) fn record(&self, backend: &dyn Backend, record: &Record, extras: &Extras) {
        let labels = Labels { record, extras };
        // Two of so few do not meet by chance in 64 bits, and nobody knows the seed.
        let hash = labels.hash(&self.seed);
        let by_labels = self.by_labels.pin();
        if let Some(series) = by_labels.get(&hash) {
            return series.record(record);
        }
        if !self.take_room(record) {
            let kind = u64::from(record.is_grpc());
            let series = by_labels.get_or_insert_with(kind, || labels.overflow(backend));
            return series.record(record);
        }
        let series = by_labels
            .try_insert(hash, labels.series(backend))
            .unwrap_or_else(|met| {
                self.taken.fetch_sub(1, Ordering::Relaxed);
                met.current
            });
        series.record(record);
    }

    /// Strangers get no more than half of it, so that they leave some to those who are known.
    fn take_room(&self, record: &Record) -> bool {
        let room = match record.identity() {
            Some(_) => self.room,
            None => self.room.div_ceil(2),
        };
        let take = |taken| (taken < room).then_some(taken + 1);
        let order = Ordering::Relaxed;
        self.taken.fetch_update(order, order, take).is_ok()
    }
}

impl Series {
    fn record(&self, record: &Record) {
        (self.duration)(record.time_to_end().as_secs_f64());
        if let Some((request, response)) = &self.sizes {
            request(record.bytes_in() as f64);
            response(record.bytes_out() as f64);
        }
    }
}

/// What sets series apart.
struct Labels<'r> {
    record: &'r Record,
    extras: &'r Extras,
}

impl Labels<'_> {
    fn hash(&self, seed: &RandomState) -> u64 {
        let record = self.record;
        let mut hasher = seed.build_hasher();
        record.route().hash(&mut hasher);
        let status = record.status().map_or(0, |status| status.as_u16().into());
        let small = if record.is_grpc() {
            let grpc_status = record.grpc_status().map_or(u64::MAX, u64::from);
            [1, grpc_status, status, 0, 0, record.end() as u64]
        } else {
            let is_tls = record.transport() == Transport::Tls;
            [
                0,
                status,
                method_index(record.method()) as u64,
                u64::from(is_tls),
                version_index(record.version()) as u64,
                record.end() as u64,
            ]
        };
        small.hash(&mut hasher);
        for (_, value) in self.extras {
            value.hash(&mut hasher);
        }
        // Zero and one are those of what is too much.
        hasher.finish().max(2)
    }

    fn series(&self, backend: &dyn Backend) -> Series {
        let mut labels = if self.record.is_grpc() {
            self.of_rpc()
        } else {
            self.of_http()
        };
        let extras = self.extras.iter();
        labels
            .extend(extras.filter_map(|(name, value)| Some((*name, Value::Text(value.as_ref()?)))));
        self.made_of(backend, &labels)
    }

    /// As the SDK of OpenTelemetry does with what is too much for it.
    fn overflow(&self, backend: &dyn Backend) -> Series {
        self.made_of(backend, &[("otel.metric.overflow", Value::True)])
    }

    fn made_of(&self, backend: &dyn Backend, labels: &[Label<'_>]) -> Series {
        if self.record.is_grpc() {
            return Series {
                duration: backend.handle(&RPC_DURATION, labels),
                sizes: None,
            };
        }
        let sizes = (
            backend.handle(&HTTP_REQUEST_SIZE, labels),
            backend.handle(&HTTP_RESPONSE_SIZE, labels),
        );
        Series {
            duration: backend.handle(&HTTP_DURATION, labels),
            sizes: Some(sizes),
        }
    }

    fn of_http(&self) -> Vec<Label<'_>> {
        let record = self.record;
        let method = METHODS[method_index(record.method())];
        let mut labels = vec![
            ("http.request.method", Value::Word(method)),
            ("url.scheme", Value::Word(scheme(record.transport()))),
        ];
        if let Some(version) = VERSIONS[version_index(record.version())] {
            labels.push(("network.protocol.version", Value::Word(version)));
        }
        labels.push((
            "http.route",
            record.route().map_or(Value::Unmatched, Value::Text),
        ));
        let status = record.status();
        let number = status.map(|status| Value::Number(status.as_u16()));
        labels.extend(number.map(|number| ("http.response.status_code", number)));
        let error = match (record.end(), &record.status) {
            (End::Complete | End::Refused, Some(status)) if status.is_server_error() => {
                Some(Value::Text(status.as_str()))
            }
            (End::Complete | End::Refused, _) => None,
            (end, _) => Some(Value::Word(end.as_str())),
        };
        labels.extend(error.map(|error| ("error.type", error)));
        labels
    }

    fn of_rpc(&self) -> Vec<Label<'_>> {
        let record = self.record;
        // A router may have one route for all methods of a service.
        let method = record.route().filter(|route| !route.contains("{*"));
        let method = method.map_or("_OTHER", |method| method.trim_start_matches('/'));
        let mut labels = vec![
            ("rpc.system.name", Value::Word("grpc")),
            ("rpc.method", Value::Text(method)),
        ];
        let number = record.grpc_status();
        if let Some(status) = number.map(status_name) {
            labels.push(("rpc.response.status_code", Value::Word(status)));
        }
        let error = match (record.end(), number, &record.status) {
            (End::Complete | End::Refused, Some(number), _) => {
                is_error(number).then(|| Value::Word(status_name(number)))
            }
            // Whoever has answered does not speak gRPC.
            (End::Complete | End::Refused, None, Some(status)) if *status != StatusCode::OK => {
                Some(Value::Text(status.as_str()))
            }
            (End::Complete | End::Refused, None, _) => Some(Value::Word("UNKNOWN")),
            (end, ..) => Some(Value::Word(end.as_str())),
        };
        labels.extend(error.map(|error| ("error.type", error)));
        labels
    }
}

/// The name of a gRPC status; one for all that are none.
fn status_name(number: u32) -> &'static str {
    let known = usize::try_from(number)
        .ok()
        .and_then(|number| STATUSES.get(number));
    known.copied().unwrap_or("_OTHER")
}

const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Which statuses are an error of the server, and not of the caller.
const fn is_error(grpc_status: u32) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, and made-up ones.
    matches!(grpc_status, 2 | 4 | 12..=15 | 17..)
}

pub(super) const fn scheme(transport: Transport) -> &'static str {
    match transport {
        Transport::Tls => "https",
        Transport::Plain => "http",
    }
}

/// The position in [`METHODS`].
pub(super) fn method_index(method: &Method) -> usize {
    let known = METHODS.iter().position(|known| *known == method.as_str());
    known.unwrap_or(METHODS.len() - 1)
}

/// Those that there are, and what stands for all others.
pub(super) const METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "_OTHER",
];

fn version_index(version: Version) -> usize {
    match version {
        Version::HTTP_09 => 0,
        Version::HTTP_10 => 1,
        Version::HTTP_11 => 2,
        Version::HTTP_2 => 3,
        Version::HTTP_3 => 4,
        _ => 5,
    }
}

const VERSIONS: [Option<&str>; 6] = [
    Some("0.9"),
    Some("1.0"),
    Some("1.1"),
    Some("2"),
    Some("3"),
    None,
];
