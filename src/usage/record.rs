//! [`Record`]: what is known of one request when it has ended.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, StatusCode, Version};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::clock::Timestamp;
use crate::identity::{Identity, Principal};
use crate::network::Transport;
use crate::rejection::{Cause, Reason, Rejection};
use crate::usage::sink::Item;
use crate::usage::slot::{UNITS, Units};

/// One request at its end; or several that are alike, added up, where a sink was too slow for
/// each of them: see [`Record::requests`].
///
/// It has no secret in it: no credential, no query, no field of the request, and the template
/// of the route in place of the path.
#[derive(Clone)]
pub struct Record {
    pub(super) id: RecordId,
    pub(super) at: Timestamp,
    pub(super) identity: Option<Identity>,
    pub(crate) route: Option<Route>,
    pub(super) client: Option<IpAddr>,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) transport: Transport,
    pub(super) status: Option<StatusCode>,
    pub(super) is_grpc: bool,
    pub(super) grpc_status: Option<u32>,
    pub(super) rejection: Option<Rejection>,
    pub(super) end: End,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) to_headers: Option<Duration>,
    pub(super) to_end: Duration,
    pub(super) requests: u64,
    pub(super) names: Arc<[Box<str>]>,
    pub(super) units: Units,
}

/// A request that has come, and of which there will be a [`Record`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Arrival<'r> {
    /// As [`Record::method`].
    pub method: &'r Method,
    /// As [`Record::route`], but that of a gRPC method which nobody has called before.
    pub route: Option<&'r str>,
    /// As [`Record::transport`].
    pub transport: Transport,
}

/// Which record it is: the same each time that it is delivered, at each sink, and no other's.
/// Several that were added up have that of one of them.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordId {
    pub(super) boot: u64,
    pub(super) number: u64,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.boot, self.number)
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum End {
    /// The body of the response failed, panicked, or was shorter than it was said to be.
    BodyError,
    /// Nobody waited for the response any more.
    Cancelled,
    /// The response went to the server to its end.
    Complete,
    /// Nobody waited for the rest of the body any more.
    Disconnected,
    /// A layer or a handler refused it: see [`Record::refusal`].
    Refused,
    /// There was no response: the service failed or panicked.
    ServiceError,
}

impl End {
    /// A stable name, fit for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BodyError => "body_error",
            Self::Cancelled => "cancelled",
            Self::Complete => "complete",
            Self::Disconnected => "disconnected",
            Self::Refused => "refused",
            Self::ServiceError => "service_error",
        }
    }
}

/// The template of a route, shared with who has it anyway.
#[derive(Clone)]
pub(crate) enum Route {
    #[cfg(feature = "axum")]
    Matched(axum::extract::MatchedPath),
    Named(Arc<str>),
}

impl Route {
    /// That which a router has found.
    #[cfg_attr(
        not(feature = "axum"),
        expect(unused_variables, reason = "there is no router")
    )]
    pub(super) fn matched(request: &Parts) -> Option<Self> {
        #[cfg(feature = "axum")]
        if let Some(path) = request.extensions.get::<axum::extract::MatchedPath>() {
            return Some(Self::Matched(path.clone()));
        }
        None
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            #[cfg(feature = "axum")]
            Self::Matched(path) => path.as_str(),
            Self::Named(name) => name,
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Record {
    /// Fit to tell apart what was delivered before from what was not: a sink may see a record
    /// twice, under the same id.
    #[must_use]
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// When it ended; of several, the last.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Who called, also if they were refused once they were known, or hold a credential that is
    /// not good any more; none if nobody knows.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whom it counts for; none if they are anonymous.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.identity().map(Identity::principal)
    }

    /// The address of the client, which is personal data in many places: none unless there is an
    /// [audit trail](crate::usage::UsageBuilder::audit), or
    /// [`UsageBuilder::client_addresses`](crate::usage::UsageBuilder::client_addresses) wants it.
    /// Nor is there one where several were added up that came from several.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The template of the route, never the path; none if no route was found.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.route.as_ref().map(Route::as_str)
    }

    /// The method; `_OTHER` if it is none of the standard ones.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The version of HTTP.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the transport: as [`UsageLayer::client_ip`](crate::UsageLayer::client_ip) knows,
    /// the server, or else the scheme of the request's target. It is for statistics: the last
    /// can be made up.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The HTTP status; none if there was no response.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Whether it was a call of gRPC.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// The number of the gRPC status, out of the trailers, the header or, with gRPC-Web, the last
    /// frame of the body; none if it is no call, or was not told, or is in base64
    /// (`application/grpc-web-text`).
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc_status
    }

    /// What the response was made from, if it was refused.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        self.rejection.as_ref()
    }

    /// Why it was refused, if it was.
    #[must_use]
    pub fn refusal(&self) -> Option<Reason> {
        self.rejection().map(Rejection::reason)
    }

    /// Which check failed, if it was refused. For operators: a client must not learn it.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.rejection().map(Rejection::cause)
    }

    /// How it ended.
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }

    /// The bytes of the request's body: those that were read, with the bodies of axum and
    /// tonic; with others, those that `Content-Length` names, a tebibyte at most.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// The bytes of the response's body that went to the server.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// How long it took until the fields of the response were there; none if they never were.
    /// Of several, the sum.
    #[must_use]
    pub fn time_to_headers(&self) -> Option<Duration> {
        self.to_headers
    }

    /// How long it took to the end. Of several, the sum.
    #[must_use]
    pub fn time_to_end(&self) -> Duration {
        self.to_end
    }

    /// How many requests this is: one, unless a sink was too slow. Then requests of the same
    /// caller to the same route with the same outcome are added up, before any are lost: by the
    /// client's address, if the caller is known, as long as there are not too many.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// What a handler has counted, of one unit.
    #[must_use]
    pub fn unit(&self, name: &str) -> u64 {
        self.units()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, amount)| amount)
    }

    fn amounts(&self) -> [u64; UNITS] {
        self.units.as_deref().copied().unwrap_or_default()
    }

    /// What a handler has counted, of all units.
    pub fn units(&self) -> impl Iterator<Item = (&str, u64)> {
        self.names.iter().map(AsRef::as_ref).zip(self.amounts())
    }

    fn traits(&self) -> impl Hash + PartialEq {
        (
            self.route(),
            &self.method,
            self.version,
            self.transport,
            self.status,
            self.is_grpc,
            self.grpc_status,
            (self.refusal(), self.cause()),
            // Strangers can come from anywhere.
            self.identity.as_ref().and(self.client),
            self.end,
        )
    }
}

impl Item for Record {
    fn count(&self) -> u64 {
        self.requests
    }

    fn set_id(&mut self, id: RecordId) {
        self.id = id;
    }

    /// Nothing but times and sums is lost, and where strangers came from.
    fn is_like(&self, other: &Self) -> bool {
        self.principal() == other.principal() && self.traits() == other.traits()
    }

    fn likeness(&self, seed: &impl BuildHasher) -> u64 {
        let mut hasher = seed.build_hasher();
        self.principal()
            .map(Principal::keyed_hash)
            .hash(&mut hasher);
        self.traits().hash(&mut hasher);
        hasher.finish()
    }

    fn merge(&mut self, other: &Self) {
        self.at = self.at.max(other.at);
        self.client = self.client.filter(|client| other.client == Some(*client));
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.to_end = self.to_end.saturating_add(other.to_end);
        self.to_headers = match (self.to_headers, other.to_headers) {
            (Some(own), Some(more)) => Some(own.saturating_add(more)),
            (own, more) => own.or(more),
        };
        self.requests = self.requests.saturating_add(other.requests);
        if let Some(more) = &other.units {
            let own = self.units.get_or_insert_default();
            for (own, more) in own.iter_mut().zip(**more) {
                *own = own.saturating_add(more);
            }
        }
    }

    fn forget_client(&mut self) {
        self.client = None;
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("at", &self.at)
            .field("principal", &self.principal())
            .field("route", &self.route())
            .field("method", &self.method)
            .field("status", &self.status)
            .field("grpc_status", &self.grpc_status)
            .field("refusal", &self.refusal())
            .field("cause", &self.cause())
            .field("end", &self.end)
            .field("bytes_in", &self.bytes_in)
            .field("bytes_out", &self.bytes_out)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// One flat object. Times are in seconds; what is not known is null.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id.to_string())?;
        map.serialize_entry("at", &seconds(self.at))?;
        map.serialize_entry("requests", &self.requests)?;
        write_caller(&mut map, self.identity())?;
        map.serialize_entry("client", &self.client)?;
        map.serialize_entry("route", &self.route())?;
        map.serialize_entry("method", self.method.as_str())?;
        map.serialize_entry("status", &self.status.map(|status| status.as_u16()))?;
        map.serialize_entry("grpc_status", &self.grpc_status)?;
        map.serialize_entry("refusal", &self.refusal().map(Reason::code))?;
        map.serialize_entry("cause", &self.cause().map(Cause::as_str))?;
        map.serialize_entry("end", self.end.as_str())?;
        map.serialize_entry("bytes_in", &self.bytes_in)?;
        map.serialize_entry("bytes_out", &self.bytes_out)?;
        let to_headers = self.to_headers.map(|time| time.as_secs_f64());
        map.serialize_entry("time_to_headers", &to_headers)?;
        map.serialize_entry("time_to_end", &self.to_end.as_secs_f64())?;
        map.serialize_entry("units", &Amounts(&self.names, &self.amounts()))?;
        map.end()
    }
}

/// Who calls, and with what.
pub(crate) fn write_caller<M: SerializeMap>(
    map: &mut M,
    caller: Option<&Identity>,
) -> Result<(), M::Error> {
    let principal = caller.map(Identity::principal);
    map.serialize_entry("source", &principal.map(Principal::source))?;
    map.serialize_entry("tenant", &principal.and_then(Principal::tenant))?;
    map.serialize_entry("subject", &principal.map(Principal::subject))?;
    let credential_id = caller.and_then(Identity::credential_id);
    map.serialize_entry("credential_id", &credential_id)
}

/// Amounts by the names of their units.
pub(super) struct Amounts<'a>(pub(super) &'a [Box<str>], pub(super) &'a [u64; UNITS]);

impl Serialize for Amounts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

/// Since the epoch, as JSON has it.
pub(crate) fn seconds(at: Timestamp) -> f64 {
    Duration::from_nanos(at.unix_nanos()).as_secs_f64()
}
