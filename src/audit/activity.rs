//! [`Activity`]: what was done with a credential lately.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use equivalent::Equivalent;
use foldhash::fast::RandomState;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::audit::event::seconds;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::rejection::{Cause, Reason};
use crate::usage::record::{End, Record, Route};

/// What was done with a credential, in this process, since it was seen first.
#[derive(Clone, Debug)]
pub struct Activity {
    since: Timestamp,
    requests: u64,
    forgotten: u64,
    acts: Vec<Act>,
    /// When it was last told that the key is used in grace.
    told_of_grace: Option<Timestamp>,
}

/// Requests with a credential that are alike: from the same client, to the same route, with
/// the same outcome.
#[derive(Clone, Debug)]
pub struct Act {
    client: Option<IpAddr>,
    method: Method,
    route: Option<Route>,
    status: Option<StatusCode>,
    grpc_status: Option<u32>,
    refusal: Option<(Reason, Cause)>,
    end: End,
    first: Timestamp,
    last: Timestamp,
    requests: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Activity {
    fn new(at: Timestamp) -> Self {
        Self {
            since: at,
            requests: 0,
            forgotten: 0,
            acts: Vec::new(),
            told_of_grace: None,
        }
    }

    /// When it was seen first.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// How many requests it was shown with, those included that were refused.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// What was done with it, the last first.
    #[must_use]
    pub fn acts(&self) -> &[Act] {
        &self.acts
    }

    /// How many kinds of requests are not among the [acts](Activity::acts) any more, because
    /// there was no room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn note(&mut self, record: &Record, room: usize) {
        self.requests = self.requests.saturating_add(record.requests());
        // Those that are done again and again stand at the front.
        let known = self.acts.iter().position(|act| act.is_of(record));
        let place = match known {
            Some(place) => place,
            None => {
                if self.acts.len() >= room {
                    self.acts.pop();
                    self.forgotten = self.forgotten.saturating_add(1);
                }
                self.acts.push(Act::of(record));
                self.acts.len() - 1
            }
        };
        self.acts[..=place].rotate_right(1);
        self.acts[0].add(record);
    }

    /// Whether it is to be told that the key is used in grace: once a minute.
    fn is_news(&mut self, at: Timestamp) -> bool {
        let is_news = self
            .told_of_grace
            .is_none_or(|told| at.since(told) >= TOLD_AGAIN);
        if is_news {
            self.told_of_grace = Some(at);
        }
        is_news
    }
}

impl Act {
    fn of(record: &Record) -> Self {
        Self {
            client: record.client(),
            method: record.method().clone(),
            route: record.route.clone(),
            status: record.status(),
            grpc_status: record.grpc_status(),
            refusal: record.refusal().zip(record.cause()),
            end: record.end(),
            first: record.at(),
            last: record.at(),
            requests: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    fn is_of(&self, record: &Record) -> bool {
        self.client == record.client()
            && self.method == *record.method()
            && self.route() == record.route()
            && self.status == record.status()
            && self.grpc_status == record.grpc_status()
            && self.refusal == record.refusal().zip(record.cause())
            && self.end == record.end()
    }

    fn add(&mut self, record: &Record) {
        self.last = self.last.max(record.at());
        self.requests = self.requests.saturating_add(record.requests());
        self.bytes_in = self.bytes_in.saturating_add(record.bytes_in());
        self.bytes_out = self.bytes_out.saturating_add(record.bytes_out());
    }

    /// From where; none if that is not known.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The method; `_OTHER` if it is none of the standard ones.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The template of the route.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.route.as_ref().map(Route::as_str)
    }

    /// The HTTP status; none if there was no response.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The number of the gRPC status.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc_status
    }

    /// Why it was refused, if it was.
    #[must_use]
    pub fn refusal(&self) -> Option<Reason> {
        self.refusal.map(|(reason, _)| reason)
    }

    /// How it ended.
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }

    /// When it was done first.
    #[must_use]
    pub fn first(&self) -> Timestamp {
        self.first
    }

    /// When it was done last.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// How often it was done.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The bytes that were sent to the server.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// The bytes that were got from it.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }
}

/// Times are in seconds; what is not known is null.
impl Serialize for Activity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Activity", 4)?;
        fields.serialize_field("since", &seconds(self.since))?;
        fields.serialize_field("requests", &self.requests)?;
        fields.serialize_field("forgotten", &self.forgotten)?;
        fields.serialize_field("acts", &self.acts)?;
        fields.end()
    }
}

impl Serialize for Act {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Act", 12)?;
        fields.serialize_field("client", &self.client)?;
        fields.serialize_field("method", self.method.as_str())?;
        fields.serialize_field("route", &self.route())?;
        fields.serialize_field("status", &self.status.map(|status| status.as_u16()))?;
        fields.serialize_field("grpc_status", &self.grpc_status)?;
        fields.serialize_field("refusal", &self.refusal().map(Reason::code))?;
        fields.serialize_field("end", self.end.as_str())?;
        fields.serialize_field("first", &seconds(self.first))?;
        fields.serialize_field("last", &seconds(self.last))?;
        fields.serialize_field("requests", &self.requests)?;
        fields.serialize_field("bytes_in", &self.bytes_in)?;
        fields.serialize_field("bytes_out", &self.bytes_out)?;
        fields.end()
    }
}

/// The activities of so many credentials. Who was not seen for long makes room.
pub(super) struct Activities {
    by_credential: Cache<Credential, Arc<Mutex<Activity>>, UnitWeighter, RandomState>,
    /// How many acts of each.
    room: usize,
}

impl Activities {
    pub(super) fn new(credentials: usize, room: usize) -> Self {
        let credentials = credentials.max(1);
        let by_credential = Cache::with(
            credentials,
            credentials as u64,
            UnitWeighter,
            RandomState::default(),
            DefaultLifecycle::default(),
        );
        Self {
            by_credential,
            room: room.max(1),
        }
    }

    /// Notes what was done with a credential. Says whether it is to be told that it is used in
    /// grace.
    pub(super) fn note(&self, record: &Record) -> bool {
        let Some(identity) = record.identity() else {
            return false;
        };
        let Some(named) = Named::of(identity) else {
            return false;
        };
        let activity = self.by_credential.get(&named).unwrap_or_else(|| {
            let new = Arc::new(Mutex::new(Activity::new(record.at())));
            let known = self
                .by_credential
                .get_or_insert_with(&named.owned(), || Ok::<_, ()>(Arc::clone(&new)));
            known.unwrap_or(new)
        });
        let mut activity = activity.lock();
        activity.note(record, self.room);
        identity.is_retiring() && record.rejection().is_none() && activity.is_news(record.at())
    }

    pub(super) fn of(&self, source: &str, id: &str) -> Option<Activity> {
        let found = self.by_credential.get(&Named { source, id })?;
        let activity = found.lock().clone();
        Some(activity)
    }
}

/// Ids of different sources are strangers.
#[derive(Clone, Eq, PartialEq)]
struct Credential {
    source: Box<str>,
    id: Box<str>,
}

/// A credential that is looked for.
#[derive(Clone, Copy, Hash)]
struct Named<'n> {
    source: &'n str,
    id: &'n str,
}

impl<'n> Named<'n> {
    fn of(identity: &'n Identity) -> Option<Self> {
        Some(Self {
            source: identity.principal().source(),
            id: identity.credential_id()?,
        })
    }

    fn owned(self) -> Credential {
        Credential {
            source: self.source.into(),
            id: self.id.into(),
        }
    }
}

impl Hash for Credential {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (source, id) = (&*self.source, &*self.id);
        Named { source, id }.hash(state);
    }
}

impl Equivalent<Credential> for Named<'_> {
    fn equivalent(&self, credential: &Credential) -> bool {
        *self.source == *credential.source && *self.id == *credential.id
    }
}

const TOLD_AGAIN: Duration = Duration::from_secs(60);
