//! [`Event`]: something that is written down.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;

use http::Method;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::clock::Timestamp;
use crate::identity::{Identity, Principal};
use crate::keys::{EndCause, KeyEvent, KeyEventKind, KeyField, KeyFields, KeyId};
use crate::rejection::{Cause, Reason, Rejection};
use crate::usage::record::{Record, RecordId, Route, seconds, write_caller};
use crate::usage::sink::Item;

/// Something happened to a credential, or with one; or several that are alike, added up, where
/// a sink was too slow for each of them: see [`Event::times`].
///
/// It has no secret in it: a credential is named by its public id.
#[derive(Clone)]
pub struct Event {
    id: RecordId,
    at: Timestamp,
    kind: EventKind,
    identity: Option<Identity>,
    client: Option<IpAddr>,
    method: Option<Method>,
    route: Option<Route>,
    rejection: Option<Rejection>,
    times: u64,
}

/// What happened: a closed list, so that nothing is written down under a name of its own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// The caller is known, and may not do this, or not from there or like that, whether they
    /// were told so or not.
    AccessDenied,
    /// A request came in clear, with a credential that has been seen: in `Authorization`, in
    /// `X-API-Key`, or in the query, if it is one of the keys of
    /// [`HttpsOnlyLayer::burn`](crate::auth::HttpsOnlyLayer::burn). (That a key was ended for it is
    /// another event.)
    CleartextExposure,
    /// A credential stood in the URI, where whoever is on the way writes it down, and where none
    /// is accepted.
    CredentialInUri,
    /// Something happened in the life of a key, or it was used while it should not be.
    Key(KeyEventKind),
    /// The right key was used while it was disabled, or before its time.
    KeyInactive,
    /// A key was refused that is none, or whose secret is wrong.
    KeyRefused,
    /// A quota was used up, or too many credentials of a network failed.
    LimitHit,
    /// It could not be found out whether the request may pass.
    NotDecided,
    /// What was shown could not be read as one credential.
    NotUnderstood,
    /// The caller is known, and lacks a scope.
    ScopeDenied,
    /// A token was refused.
    TokenRefused,
}

impl EventKind {
    /// A stable name, fit for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::CleartextExposure => "cleartext_exposure",
            Self::CredentialInUri => "credential_in_uri",
            Self::Key(kind) => match kind {
                KeyEventKind::Disabled => "key_disabled",
                KeyEventKind::Enabled => "key_enabled",
                KeyEventKind::Ended(EndCause::CleartextExposure) => "key_exposed",
                KeyEventKind::Ended(EndCause::Compromised) => "key_compromised",
                KeyEventKind::Ended(EndCause::Expired) => "key_expired",
                KeyEventKind::Ended(EndCause::OwnerRemoved) => "key_owner_removed",
                KeyEventKind::Ended(EndCause::Revoked) => "key_revoked",
                KeyEventKind::Ended(EndCause::RotatedOut) => "key_rotated_out",
                KeyEventKind::Issued => "key_issued",
                KeyEventKind::RotatedTo(_) => "key_rotated",
                KeyEventKind::Scheduled => "key_scheduled",
                KeyEventKind::Updated(_) => "key_updated",
                KeyEventKind::UsedAfterEnd(_) => "key_used_after_end",
                KeyEventKind::UsedInGrace { .. } => "key_used_in_grace",
            },
            Self::KeyInactive => "key_inactive",
            Self::KeyRefused => "key_refused",
            Self::LimitHit => "limit_hit",
            Self::NotDecided => "not_decided",
            Self::NotUnderstood => "not_understood",
            Self::ScopeDenied => "scope_denied",
            Self::TokenRefused => "token_refused",
        }
    }

    /// What a refusal is; none if nothing was shown, which is no misuse.
    fn of(rejection: &Rejection) -> Option<Self> {
        // What the client is told may hide it.
        match rejection.cause() {
            Cause::KeyDisabled | Cause::KeyNotYetValid => return Some(Self::KeyInactive),
            Cause::Restricted => return Some(Self::AccessDenied),
            _ => {}
        }
        if let Some(end) = end_of(rejection.cause()) {
            return Some(Self::Key(KeyEventKind::UsedAfterEnd(end)));
        }
        Some(match rejection.reason() {
            Reason::CredentialsMissing => return None,
            Reason::InsecureTransport if rejection.showed_nothing => return None,
            Reason::CredentialsAmbiguous | Reason::RequestMalformed => Self::NotUnderstood,
            Reason::CredentialInUri => Self::CredentialInUri,
            Reason::CredentialInvalid
            | Reason::CredentialExpired
            | Reason::CredentialNotYetValid
            | Reason::CredentialRevoked
            | Reason::CredentialExposed => Self::KeyRefused,
            Reason::TokenInvalid | Reason::TokenExpired | Reason::TokenBindingFailed => {
                Self::TokenRefused
            }
            Reason::InsecureTransport => Self::CleartextExposure,
            Reason::SourceNotAllowed | Reason::Forbidden => Self::AccessDenied,
            Reason::InsufficientScope => Self::ScopeDenied,
            Reason::TooManyFailures | Reason::RateLimited => Self::LimitHit,
            Reason::LimiterUnavailable | Reason::VerifierUnavailable | Reason::Internal => {
                Self::NotDecided
            }
        })
    }
}

/// How the key had ended that was refused for that.
const fn end_of(cause: Cause) -> Option<EndCause> {
    Some(match cause {
        Cause::KeyCompromised => EndCause::Compromised,
        Cause::KeyExpired => EndCause::Expired,
        Cause::KeyExposed => EndCause::CleartextExposure,
        Cause::KeyOwnerRemoved => EndCause::OwnerRemoved,
        Cause::KeyRevoked => EndCause::Revoked,
        Cause::KeyRotatedOut => EndCause::RotatedOut,
        _ => return None,
    })
}

impl Event {
    /// What happened to a key.
    pub(super) fn of_key(event: &KeyEvent, identity: Identity, client: Option<IpAddr>) -> Self {
        Self {
            id: RecordId::default(),
            at: event.at,
            kind: EventKind::Key(event.kind),
            identity: Some(identity),
            client,
            method: None,
            route: None,
            rejection: None,
            times: 1,
        }
    }

    /// What the refusal of a request is.
    pub(super) fn of_refusal(record: &Record, rejection: &Rejection) -> Option<Self> {
        let kind = EventKind::of(rejection)?;
        Some(Self {
            rejection: Some(rejection.clone()),
            ..Self::of_request(record, kind)
        })
    }

    pub(super) fn of_request(record: &Record, kind: EventKind) -> Self {
        Self {
            id: RecordId::default(),
            at: record.at(),
            kind,
            identity: record.identity().cloned(),
            client: record.client(),
            method: Some(record.method().clone()),
            route: record.route.clone(),
            rejection: None,
            times: 1,
        }
    }

    /// Fit to tell apart what was delivered before from what was not: a sink may see an event
    /// twice, under the same id.
    #[must_use]
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// When; of several, the last.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// Whose credential it is, if that is known: the owner of the key, the subject of the token.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.identity.as_ref().map(Identity::principal)
    }

    /// The public id of the credential.
    #[must_use]
    pub fn credential_id(&self) -> Option<&str> {
        self.identity.as_ref()?.credential_id()
    }

    /// From where it was tried, or shown in clear; none if it was no request, or that is not known, or several were
    /// added up that came from several.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The method of the request; `_OTHER` if it is none of the standard ones.
    #[must_use]
    pub fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// The template of the route.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.route.as_ref().map(Route::as_str)
    }

    /// Why it was refused, if it was: what the response was made from, before any layer between
    /// answered otherwise.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        self.rejection.as_ref()
    }

    /// The key that a key was rotated to.
    pub(crate) fn successor(&self) -> Option<KeyId> {
        match self.kind {
            EventKind::Key(KeyEventKind::RotatedTo(successor)) => Some(successor),
            _ => None,
        }
    }

    /// When the grace ends that a key was used in.
    pub(crate) fn until(&self) -> Option<Timestamp> {
        match self.kind {
            EventKind::Key(KeyEventKind::UsedInGrace { until }) => Some(until),
            _ => None,
        }
    }

    /// The fields of a key that an update has changed.
    pub(crate) fn fields(&self) -> Option<KeyFields> {
        match self.kind {
            EventKind::Key(KeyEventKind::Updated(fields)) => Some(fields),
            _ => None,
        }
    }

    /// How often it happened: once, unless a sink was too slow. Then events that are alike are
    /// added up, before any are lost.
    #[must_use]
    pub fn times(&self) -> u64 {
        self.times
    }

    fn traits(&self) -> impl Hash + PartialEq {
        let rejection = self.rejection.as_ref();
        (
            self.kind,
            // Strangers can come from anywhere.
            self.identity.as_ref().and(self.client),
            &self.method,
            self.route(),
            rejection.map(|rejection| (rejection.reason(), rejection.cause())),
        )
    }

    fn credential(&self) -> (Option<&Principal>, Option<&str>) {
        (self.principal(), self.credential_id())
    }
}

impl Item for Event {
    fn count(&self) -> u64 {
        self.times
    }

    fn set_id(&mut self, id: RecordId) {
        self.id = id;
    }

    fn is_like(&self, other: &Self) -> bool {
        self.credential() == other.credential() && self.traits() == other.traits()
    }

    fn likeness(&self, seed: &impl BuildHasher) -> u64 {
        let mut hasher = seed.build_hasher();
        self.credential().hash(&mut hasher);
        self.traits().hash(&mut hasher);
        hasher.finish()
    }

    fn merge(&mut self, other: &Self) {
        self.at = self.at.max(other.at);
        self.client = self.client.filter(|client| other.client == Some(*client));
        self.times = self.times.saturating_add(other.times);
    }

    fn forget_client(&mut self) {
        self.client = None;
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("at", &self.at)
            .field("kind", &self.kind)
            .field("principal", &self.principal())
            .field("credential_id", &self.credential_id())
            .field("client", &self.client)
            .field("method", &self.method)
            .field("route", &self.route())
            .field("rejection", &self.rejection)
            .field("times", &self.times)
            .finish()
    }
}

/// One flat object. Times are in seconds; what is not known is null.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rejection = self.rejection();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id.to_string())?;
        map.serialize_entry("at", &seconds(self.at))?;
        map.serialize_entry("times", &self.times)?;
        map.serialize_entry("event", self.kind.as_str())?;
        write_caller(&mut map, self.identity.as_ref())?;
        map.serialize_entry("client", &self.client)?;
        map.serialize_entry("method", &self.method.as_ref().map(Method::as_str))?;
        map.serialize_entry("route", &self.route())?;
        let reason = rejection.map(|rejection| rejection.reason().code());
        map.serialize_entry("refusal", &reason)?;
        let cause = rejection.map(|rejection| rejection.cause().as_str());
        map.serialize_entry("cause", &cause)?;
        let request_id = rejection.and_then(Rejection::request_id);
        map.serialize_entry("request_id", &request_id)?;
        let scopes = rejection.and_then(Rejection::required_scopes);
        let scopes = scopes.map(|scopes| scopes.iter().collect::<Vec<_>>());
        map.serialize_entry("required_scopes", &scopes)?;
        let quotas = rejection.map(|rejection| rejection.violated_quotas().collect());
        let quotas = quotas.filter(|quotas: &Vec<_>| !quotas.is_empty());
        map.serialize_entry("violated_quotas", &quotas)?;
        let successor = self.successor();
        let successor = successor.as_ref().map(KeyId::as_str);
        map.serialize_entry("successor", &successor)?;
        map.serialize_entry("until", &self.until().map(seconds))?;
        let fields = self.fields();
        let fields = fields.map(|fields| fields.iter().map(KeyField::as_str).collect::<Vec<_>>());
        map.serialize_entry("fields", &fields)?;
        map.end()
    }
}
