//! The door: what an [`AuthLayer`](crate::AuthLayer) makes of a request.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use crate::auth::authenticate::Authenticate;
use crate::auth::certificate::is_proved;
use crate::auth::cross_site::is_cross_site;
use crate::auth::failure_guard::FailureGuard;
use crate::auth::judge::{Verdict, check_failures, guarded};
use crate::auth::layer::AuthLayer;
use crate::auth::response::DoorVisit;
use crate::auth::source::{Recognize, Source, TakeRules, take_one};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::context::{self, Anonymous, Known};
use crate::gate::{Call, Policy, Role};
use crate::identity::Identity;
use crate::network::ClientSetting;
use crate::origin::OriginPattern;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::render::Voice;
use crate::scope::ScopeSet;

/// The settings of an [`AuthLayer`], shared by all services that it made.
pub(crate) struct Door<A> {
    pub(crate) authenticate: Arc<A>,
    pub(crate) sources: Vec<Source>,
    /// By source: the field that answers vary by.
    pub(crate) varies_by: Vec<Option<HeaderValue>>,
    /// By source: what tells it apart from others.
    pub(crate) marks: Vec<NonZeroU32>,
    pub(crate) rules: TakeRules,
    pub(crate) optional: bool,
    pub(crate) optional_for: Option<Arc<OptionalFor>>,
    pub(crate) challenge_scopes_for: Option<Arc<ScopesFor>>,
    pub(crate) allow_preflight: bool,
    /// None: the system's.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) voice: Voice,
    pub(crate) request_id: Option<Arc<RequestId>>,
    pub(crate) clients: ClientSetting,
    pub(crate) trusted_origins: Vec<OriginPattern>,
    pub(crate) stealth: bool,
    pub(crate) warn_before_expiry: Option<Duration>,
    /// Set once the log has the hint about preflights.
    pub(crate) hinted_at_cors: Arc<AtomicBool>,
    /// Set once the log has a request of another site.
    pub(crate) reported_cross_site: Arc<AtomicBool>,
}

pub(crate) type OptionalFor = dyn Fn(&Parts) -> bool + Send + Sync;

pub(crate) type ScopesFor = dyn Fn(&Parts) -> Option<ScopeSet> + Send + Sync;

pub(crate) type RequestId = dyn Fn(&Parts) -> Option<String> + Send + Sync;

impl<A> Door<A> {
    fn now(&self, known: &mut Known, request: &Parts) -> Timestamp {
        match &self.clock {
            Some(clock) => clock.now(),
            None => known.now(&request.extensions),
        }
    }

    /// The time of the layer's own clock.
    pub(super) fn time(&self) -> Timestamp {
        match &self.clock {
            Some(clock) => clock.now(),
            None => SystemClock.now(),
        }
    }

    /// Returns the restriction of a key that a request does not meet.
    fn unmet_restriction(&self, identity: &Identity, request: &Parts) -> Option<&'static str> {
        let restrictions = identity.restrictions()?;
        // Most keys are not restricted to networks, and then the address is not needed.
        let client = match restrictions.networks.is_empty() {
            true => None,
            false => self.clients.located(request).certain_address(),
        };
        restrictions.unmet(client, request)
    }

    /// Reports once that a preflight was rejected: browsers send none with a credential.
    fn hint_at_cors(&self, request: &Parts) {
        if is_preflight(request) && !self.hinted_at_cors.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tollgate::auth",
                "a CORS preflight was rejected, since it has no credential; put the CORS layer outside \
                 of `AuthLayer` (it then also adds its headers to rejections), or call \
                 `AuthLayer::allow_preflight`"
            );
        }
    }

    /// Reports once that a request of another site was rejected, with what it was judged by.
    fn report_cross_site(&self, request: &Parts) {
        if self.reported_cross_site.swap(true, Ordering::Relaxed) {
            return;
        }
        let header = |name: &str| {
            let value = request.headers.get(name).map(HeaderValue::as_bytes);
            let text = value.unwrap_or_default().escape_ascii().to_string();
            text.chars().take(MAX_REPORTED).collect::<String>()
        };
        let host = self.clients.client(request).requested_host(request);
        let host: String = host
            .unwrap_or_default()
            .escape_debug()
            .take(MAX_REPORTED)
            .collect();
        tracing::warn!(
            target: "tollgate::auth",
            origin = header("origin"),
            sec_fetch_site = header("sec-fetch-site"),
            host,
            "a credential in a cookie was rejected, since another site made the request; if the origin \
             is yours, call `AuthLayer::trusted_origins`; behind a proxy, let it pass on `Host`, or \
             `X-Forwarded-Host` with `ClientIp::trusted_proxies`"
        );
    }

    /// Returns whether the request needs no credential.
    fn is_optional(&self, request: &Parts) -> bool {
        let is_listed = |optional: &OptionalFor| optional(request);
        self.optional || self.optional_for.as_deref().is_some_and(is_listed)
    }

    pub(super) fn varies_when_anonymous(&self) -> impl Iterator<Item = HeaderValue> {
        let authorization = HeaderValue::from_static("authorization");
        let sources = self.sources.iter().zip(&self.varies_by);
        sources.filter_map(move |(source, field)| {
            if source.is_authorization() {
                Some(authorization.clone())
            } else {
                field.clone()
            }
        })
    }
}

impl<A> Clone for Door<A> {
    fn clone(&self) -> Self {
        Self {
            authenticate: Arc::clone(&self.authenticate),
            sources: self.sources.clone(),
            varies_by: self.varies_by.clone(),
            marks: self.marks.clone(),
            rules: self.rules.clone(),
            optional: self.optional,
            optional_for: self.optional_for.clone(),
            challenge_scopes_for: self.challenge_scopes_for.clone(),
            allow_preflight: self.allow_preflight,
            clock: self.clock.clone(),
            voice: self.voice.clone(),
            request_id: self.request_id.clone(),
            clients: self.clients.clone(),
            trusted_origins: self.trusted_origins.clone(),
            stealth: self.stealth,
            warn_before_expiry: self.warn_before_expiry,
            hinted_at_cors: Arc::clone(&self.hinted_at_cors),
            reported_cross_site: Arc::clone(&self.reported_cross_site),
        }
    }
}

/// What was found out about a request that may pass.
#[derive(Debug)]
pub struct Shown {
    identity: Option<Identity>,
    /// The source that the credential was found in.
    source: Option<usize>,
    request_id: Option<Arc<str>>,
    preflight: bool,
}

impl<A: Authenticate> Policy for AuthLayer<A> {
    const ROLE: Role = Role::Authenticates;

    type Pass = Shown;
    type Visit = DoorVisit;

    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<Shown, Rejection>> {
        match (self.decide(call), &self.door.challenge_scopes_for) {
            (decided, None) => decided,
            (Pending::Ready(decided), Some(scopes)) => decided
                .map_err(|rejection| declare(rejection, || scopes(call.parts)))
                .into(),
            (Pending::Later(decided), Some(scopes)) => {
                let scopes = scopes(call.parts);
                Pending::later(async move {
                    decided
                        .await
                        .map_err(|rejection| declare(rejection, || scopes))
                })
            }
        }
    }

    fn admit(&self, call: &mut Call<'_>, pass: Shown) -> Result<DoorVisit, Rejection> {
        self.let_in(call, pass).map_err(|rejection| {
            let scopes = self.door.challenge_scopes_for.as_ref();
            declare(rejection, || scopes.and_then(|scopes| scopes(call.parts)))
        })
    }

    fn renderer(&self, visit: Option<&DoorVisit>, rejection: &mut Rejection) -> Option<&Voice> {
        if let Some(visit) = visit {
            rejection.scheme = visit.scheme.or(rejection.scheme);
            rejection.set_request_id(visit.request_id.as_ref());
        }
        rejection.said = true;
        Some(&self.door.voice)
    }

    fn fallback_renderer(&self) -> Option<&Voice> {
        Some(&self.door.voice)
    }
}

/// Names the scopes that the route needs in a 401.
fn declare(rejection: Rejection, scopes: impl FnOnce() -> Option<ScopeSet>) -> Rejection {
    if rejection.reason().status() != StatusCode::UNAUTHORIZED {
        return rejection;
    }
    match scopes().filter(|scopes| !scopes.is_empty()) {
        Some(scopes) => rejection.with_required_scopes(scopes),
        None => rejection,
    }
}

impl<A: Authenticate> AuthLayer<A> {
    fn decide(&self, call: &mut Call<'_>) -> Pending<Result<Shown, Rejection>> {
        let (door, parts) = (&*self.door, &mut *call.parts);
        door.clients.share(parts);
        let request_id = door
            .request_id
            .as_ref()
            .and_then(|read| read(parts))
            .map(Arc::from);
        let anonymous = Shown {
            identity: None,
            source: None,
            request_id,
            preflight: door.allow_preflight && is_preflight(parts),
        };
        let refuse = |rejection: Rejection, request_id: Option<Arc<str>>| {
            Pending::Ready(Err(rejection.with_request_id(request_id)))
        };
        if anonymous.preflight {
            // Nobody judges what it carries, and nobody behind the door gets to see it.
            for source in &door.sources {
                source.clear(parts, &door.rules);
            }
            return Ok(anonymous).into();
        }
        let is_optional = door.is_optional(parts);
        let claims = |text: &[u8]| door.authenticate.claims(text);
        // Where no credential is needed, the query may have anything in it.
        let forbidden_in_uri = (!is_optional).then_some(&claims as Recognize<'_>);
        let found = take_one(parts, &door.sources, &door.rules, forbidden_in_uri);
        let (credential, source) = match found {
            Ok(Some(found)) => found,
            Ok(None) => match nested(parts, &door.marks) {
                Some(mistake) => return refuse(mistake, anonymous.request_id),
                None if let Err(rejection) = check_failures(parts) => {
                    return refuse(rejection, anonymous.request_id);
                }
                None if is_optional => return Ok(anonymous).into(),
                None => {
                    door.hint_at_cors(parts);
                    let missing = Rejection::new(Reason::CredentialsMissing, Cause::NothingShown);
                    return refuse(missing, anonymous.request_id);
                }
            },
            Err(rejection) => {
                let rejection = check_failures(parts).err().unwrap_or(rejection);
                return refuse(rejection, anonymous.request_id);
            }
        };
        if door.sources[source].is_cookie()
            && is_cross_site(parts, &door.trusted_origins, || door.clients.client(parts))
        {
            door.report_cross_site(parts);
            let forged = Rejection::new(Reason::Forbidden, Cause::CrossSite);
            let forged = check_failures(parts).err().unwrap_or(forged);
            return refuse(forged, anonymous.request_id);
        }
        let (scheme, now) = (credential.scheme(), door.now(call.known, parts));
        let pass = Shown {
            source: Some(source),
            ..anonymous
        };
        let conclude = move |verdict: Verdict| match verdict {
            Ok(identity) => Ok(Shown {
                identity: Some(identity.shown(scheme, now)),
                ..pass
            }),
            Err(mut rejection) => {
                rejection.scheme = Some(scheme);
                Err(rejection.with_request_id(pass.request_id))
            }
        };
        let verdict = match parts.extensions.get::<FailureGuard>() {
            Some(guard) => guarded(&self.door, guard, credential, now),
            None => door.judge(&credential, now),
        };
        match verdict {
            Pending::Ready(verdict) => conclude(verdict).into(),
            Pending::Later(verdict) => Pending::later(async move { conclude(verdict.await) }),
        }
    }

    fn let_in(&self, call: &mut Call<'_>, pass: Shown) -> Result<DoorVisit, Rejection> {
        let parts = &mut *call.parts;
        let Shown {
            identity,
            source,
            request_id,
            preflight,
        } = pass;
        let door = &*self.door;
        let mut visit = DoorVisit {
            scheme: None,
            source,
            request_id,
            expiration: None,
            head: parts.method == Method::HEAD,
        };
        let Some(mut identity) = identity else {
            let outer = parts.extensions.remove::<Identity>();
            context::keep_limit_mark(&mut parts.extensions, outer.as_ref());
            call.known.is_inside |= outer.is_some();
            let outer = parts.extensions.insert(Anonymous {
                preflight,
                realm: Arc::clone(door.voice.realm()),
                request_id: visit.request_id.clone(),
            });
            call.known.is_inside |= outer.is_some();
            call.known.authenticates = true;
            return Ok(visit);
        };
        // Also if they are refused below, and by those behind the door.
        context::note_caller(&parts.extensions, &identity);
        if !is_proved(&identity, &parts.extensions) {
            let mut rejection =
                Rejection::new(Reason::TokenBindingFailed, Cause::TokenBinding).with_fault("cnf");
            rejection.scheme = identity.scheme;
            let rejection = rejection.with_request_id(visit.request_id);
            return Err(rejection.with_holder(identity));
        }
        if let Some(unmet) = door.unmet_restriction(&identity, parts) {
            let reason = if door.stealth {
                Reason::CredentialInvalid
            } else {
                Reason::SourceNotAllowed
            };
            let mut rejection = Rejection::new(reason, Cause::Restricted).with_fault(unmet);
            rejection.scheme = identity.scheme;
            let rejection = rejection.with_request_id(visit.request_id);
            return Err(rejection.with_holder(identity));
        }
        visit.scheme = identity.scheme;
        visit.expiration = door.warn_before_expiry.and_then(|window| {
            identity
                .expires_at()
                .filter(|end| end.since(identity.judged_at) <= window)
        });
        identity.emptied = source
            .filter(|_| !door.rules.keep)
            .map(|source| door.marks[source]);
        // What an optional door outside has noted is not true any more.
        let anonymous = parts.extensions.remove::<Anonymous>();
        let outer = parts.extensions.insert(identity);
        context::keep_limit_mark(&mut parts.extensions, outer.as_ref());
        call.known.is_inside |= anonymous.is_some() || outer.is_some();
        call.known.authenticates = true;
        Ok(visit)
    }
}

/// The maximum number of characters of a request in one field of the log.
const MAX_REPORTED: usize = 200;

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The mistake that explains why there is no credential, if it is one: a door outside has
/// taken it out of a place that this one reads too.
fn nested(parts: &Parts, marks: &[NonZeroU32]) -> Option<Rejection> {
    let emptied = parts.extensions.get::<Identity>()?.emptied?;
    marks.contains(&emptied).then(|| {
        Rejection::misconfigured(
            "an AuthLayer stands inside another one, which has taken the credential out of the \
             request: use one for all, or keep_credential() on the outer one",
        )
    })
}
