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

use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::rejection::{Cause, Reason, Rejection};
use crate::usage::record::{End, Record, Route, seconds};

/// What was done with a credential, in this process, since it was seen first.
#[derive(Clone, Debug)]
pub struct Activity {
    since: Timestamp,
    requests: u64,
    forgotten: u64,
    acts: Vec<Act>,
    next: u32,
    /// When it was last told that the key is used in grace.
    told_of_grace: Option<Timestamp>,
}

/// Requests with a credential that are alike: from the same client, to the same route, with
/// the same outcome.
///
/// It is there from the moment that the fields of the response are, and not before: what is
/// [under way](Act::under_way) stands beside what has ended as it will, if nothing comes between.
#[derive(Clone, Debug)]
pub struct Act {
    /// No other act of the credential has it.
    number: u32,
    under_way: u32,
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

/// What sets an act apart from others, and when it was done.
pub(crate) struct Deed<'r> {
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: &'r Method,
    pub(crate) route: Option<&'r Route>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) refusal: Option<(Reason, Cause)>,
    pub(crate) end: End,
    pub(crate) at: Timestamp,
}

/// A request that is under way, to be handed back at its end.
pub(crate) struct UnderWay {
    activity: Arc<Mutex<Activity>>,
    /// The number of its act.
    act: u32,
}

impl<'r> Deed<'r> {
    fn of(record: &'r Record, rejection: Option<&Rejection>) -> Self {
        Self {
            client: record.client(),
            method: record.method(),
            route: record.route.as_ref(),
            status: record.status(),
            grpc_status: record.grpc_status(),
            refusal: rejection.map(|why| (why.reason(), why.cause())),
            end: record.end(),
            at: record.at(),
        }
    }
}

impl Activity {
    fn new(at: Timestamp) -> Self {
        Self {
            since: at,
            requests: 0,
            forgotten: 0,
            acts: Vec::new(),
            next: 0,
            told_of_grace: None,
        }
    }

    /// When it was seen first.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// How many requests it was shown with that have ended, those included that were refused.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// What was done with it, the last first.
    #[must_use]
    pub fn acts(&self) -> &[Act] {
        &self.acts
    }

    /// How often an act had to make room for another. A kind of request that comes back is a new
    /// act, and may make room again.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A request is under way. Says the number of its act.
    fn begin(&mut self, deed: &Deed<'_>, room: usize) -> u32 {
        let act = self.act(deed, room);
        act.under_way = act.under_way.saturating_add(1);
        act.number
    }

    /// One that was under way has ended, as `becomes` if that is known.
    fn end(&mut self, begun: u32, becomes: Option<&Deed<'_>>) {
        // It may have made room.
        let Some(place) = self.acts.iter().position(|act| act.number == begun) else {
            return;
        };
        let act = &mut self.acts[place];
        act.under_way = act.under_way.saturating_sub(1);
        let is_over = act.under_way == 0 && act.requests == 0;
        if is_over && !becomes.is_some_and(|deed| act.is_of(deed)) {
            self.acts.remove(place);
        }
    }

    fn note(&mut self, deed: &Deed<'_>, record: &Record, room: usize) {
        self.requests = self.requests.saturating_add(record.requests());
        self.act(deed, room).add(record);
    }

    /// The act that it is, which is the last from now on.
    fn act(&mut self, deed: &Deed<'_>, room: usize) -> &mut Act {
        // Those that are done again and again stand at the front.
        let known = self.acts.iter().position(|act| act.is_of(deed));
        let place = known.unwrap_or_else(|| {
            if self.acts.len() >= room {
                self.make_room();
            }
            self.acts.push(Act::new(self.next, deed));
            self.next = self.next.wrapping_add(1);
            self.acts.len() - 1
        });
        self.acts[..=place].rotate_right(1);
        &mut self.acts[0]
    }

    /// Forgets the act that was done longest ago: one that is not under way, if there is one.
    fn make_room(&mut self) {
        let over = self.acts.iter().rposition(|act| act.under_way == 0);
        self.acts.remove(over.unwrap_or(self.acts.len() - 1));
        self.forgotten = self.forgotten.saturating_add(1);
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
    fn new(number: u32, deed: &Deed<'_>) -> Self {
        Self {
            number,
            under_way: 0,
            client: deed.client,
            method: deed.method.clone(),
            route: deed.route.cloned(),
            status: deed.status,
            grpc_status: deed.grpc_status,
            refusal: deed.refusal,
            end: deed.end,
            first: deed.at,
            last: deed.at,
            requests: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    fn is_of(&self, deed: &Deed<'_>) -> bool {
        self.client == deed.client
            && self.method == *deed.method
            && self.route() == deed.route.map(Route::as_str)
            && self.status == deed.status
            && self.grpc_status == deed.grpc_status
            && self.refusal == deed.refusal
            && self.end == deed.end
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

    /// The number of the gRPC status; none as long as no request has ended.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc_status.filter(|_| self.has_ended())
    }

    /// Why it was refused, if it was, whatever a layer between has answered in its place.
    #[must_use]
    pub fn refusal(&self) -> Option<Reason> {
        self.refusal.map(|(reason, _)| reason)
    }

    /// How it ended; none as long as no request has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.has_ended().then_some(self.end)
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

    /// How many requests are under way: their response has begun, and has not ended.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        self.under_way.into()
    }

    /// How often it was done to its end.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The bytes that were sent to the server, by requests that have ended.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// The bytes that were got from it, by requests that have ended.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    fn has_ended(&self) -> bool {
        self.requests > 0
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
        let mut fields = serializer.serialize_struct("Act", 13)?;
        fields.serialize_field("client", &self.client)?;
        fields.serialize_field("method", self.method.as_str())?;
        fields.serialize_field("route", &self.route())?;
        fields.serialize_field("status", &self.status.map(|status| status.as_u16()))?;
        fields.serialize_field("grpc_status", &self.grpc_status())?;
        fields.serialize_field("refusal", &self.refusal().map(Reason::code))?;
        fields.serialize_field("end", &self.end().map(End::as_str))?;
        fields.serialize_field("first", &seconds(self.first))?;
        fields.serialize_field("last", &seconds(self.last))?;
        fields.serialize_field("under_way", &self.under_way)?;
        fields.serialize_field("requests", &self.requests)?;
        fields.serialize_field("bytes_in", &self.bytes_in)?;
        fields.serialize_field("bytes_out", &self.bytes_out)?;
        fields.end()
    }
}

/// The activities of about so many credentials. Who was not seen for long makes room.
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

    /// Notes what is being done with a credential.
    pub(super) fn begin(&self, caller: &Identity, deed: &Deed<'_>) -> Option<UnderWay> {
        let activity = self.find(caller, deed.at)?;
        let act = activity.lock().begin(deed, self.room);
        Some(UnderWay { activity, act })
    }

    /// Notes what was done with a credential. Says whether it is to be told that it is used in
    /// grace.
    pub(super) fn note(
        &self,
        record: &Record,
        rejection: Option<&Rejection>,
        begun: Option<UnderWay>,
    ) -> bool {
        let deed = Deed::of(record, rejection);
        let caller = record.identity();
        let activity = caller.and_then(|caller| self.find(caller, deed.at));
        let mut ends = None;
        match (begun, &activity) {
            (Some(begun), Some(activity)) if Arc::ptr_eq(&begun.activity, activity) => {
                ends = Some(begun.act);
            }
            // Who calls turned out to be another, or the activity has made room.
            (Some(begun), _) => begun.activity.lock().end(begun.act, None),
            (None, _) => {}
        }
        let (Some(caller), Some(activity)) = (caller, activity) else {
            return false;
        };
        let mut activity = activity.lock();
        if let Some(act) = ends {
            activity.end(act, Some(&deed));
        }
        activity.note(&deed, record, self.room);
        caller.is_retiring() && deed.refusal.is_none() && activity.is_news(deed.at)
    }

    /// The activity of a credential, which may begin now; none if it has no public id.
    fn find(&self, caller: &Identity, at: Timestamp) -> Option<Arc<Mutex<Activity>>> {
        let named = Named::of(caller)?;
        let known = self.by_credential.get(&named);
        Some(known.unwrap_or_else(|| {
            let new = Arc::new(Mutex::new(Activity::new(at)));
            let known = self
                .by_credential
                .get_or_insert_with(&named.owned(), || Ok::<_, ()>(Arc::clone(&new)));
            known.unwrap_or(new)
        }))
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
