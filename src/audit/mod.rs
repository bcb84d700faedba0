//! [`Audit`]: what happened to credentials, and what was done with them.
//!
//! Two things are kept. [Events](Event) are what somebody should be able to read later: a key was
//! issued, rotated, ended, used in its grace or after its end; a token was refused, a scope was
//! missing, a quota used up. They go to sinks. And of each credential the last that was done
//! with it, its [`Activity`], so that when one has leaked it takes one call to know what for.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use std::net::SocketAddr;
//! use http::{Request, Response};
//! use tollgate::audit::Audit;
//! use tollgate::keys::{NewKey, Peppers};
//! use tollgate::usage::Usage;
//! use tollgate::{ApiKeys, AuthLayer, UsageLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let audit = Audit::new();
//! let keys = ApiKeys::in_memory(Peppers::random()).audit(audit.clone());
//! let usage = Usage::builder().audit(audit).build();
//! let service = ServiceBuilder::new()
//!     .layer(UsageLayer::new(usage).route(|_| Some("/orders/{id}".into())))
//!     .layer(AuthLayer::new(keys.clone()))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, std::convert::Infallible>(Response::new(String::from("tea")))
//!     }));
//!
//! let issued = keys.issue(NewKey::for_owner("acct_1")).await?;
//! let from: SocketAddr = "192.0.2.1:4711".parse()?;
//! let request = Request::get("/orders/7").extension(from);
//! let request = request.header("x-api-key", issued.key.expose()).body(())?;
//! drop(service.oneshot(request).await?);
//!
//! // The key has leaked. What was it used for?
//! let report = keys.report_compromised(issued.record.id).await?;
//! let activity = report.activity.expect("it was used");
//! let [act] = activity.acts() else { panic!("for one thing") };
//! assert_eq!((act.method().as_str(), act.route()), ("GET", Some("/orders/{id}")));
//! assert_eq!((act.client(), act.requests()), (Some(from.ip()), 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised: events go to a file, and the process waits for it at its end.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use std::time::Duration;
//! use tollgate::audit::Audit;
//! use tollgate::usage::JsonLinesSink;
//!
//! # let path = std::env::temp_dir().join("tollgate-audit-of-a-doctest.jsonl");
//! let audit = Audit::builder()
//!     .credentials(50_000)
//!     .acts(16)
//!     .sink(JsonLinesSink::append(path)?)
//!     .build();
//! // … serve, and when that has ended:
//! let sinks = audit.shutdown(Duration::from_secs(5)).await;
//! assert_eq!(sinks[0].lost, 0);
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who tells it
//! [`ApiKeys::audit`](crate::ApiKeys::audit) tells of what is done to keys, and
//! [`UsageBuilder::audit`](crate::usage::UsageBuilder::audit) of what is done with credentials,
//! and of refusals: the very [`Rejection`] that the response was made from.
//! It takes both to have all. A request that shows nothing is no event. What a layer of this crate
//! has refused is there even if a layer between answers otherwise, with a redirect for instance,
//! unless a caller was let in after all; what a handler refuses is there if the response says so.
//!
//! # What is under way
//! A request is in the activity from the moment that the fields of its response are there, and
//! says its bytes and how it went when it has ended. One that waits for its response is in none
//! yet: while its body is read, or a handler takes long, for instance. One that has upgraded its
//! connection has ended then. A credential that has made room for others begins anew, whatever is
//! under way with it.
//!
//! # Privacy
//! There are no secrets in it, and no path, query or field of a request. There are names of
//! callers and addresses of clients, which are personal data in many places.
//!
//! # Cost
//! A look-up and a lock of the credential's own for each request with one, and another where the
//! response has a body. An act needs 128 bytes, so that 10,000 credentials, each of them used in 32
//! ways, need 41 MB.

mod activity;
mod event;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::Identity;
use crate::keys::{KeyEvent, KeyEventKind};
use crate::rejection::Rejection;
use crate::usage::record::Record;
use crate::usage::sink::{Buffer, Sink, SinkStatus, Sinks, SinksBuilder};

use activity::Activities;
pub use activity::{Act, Activity};
pub(crate) use activity::{Deed, UnderWay};
pub use event::{Event, EventKind};

/// Writes down what happens to credentials, and what is done with them: see the
/// [module](crate::audit). Clones are one.
#[derive(Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

struct Shared {
    activities: Activities,
    sinks: Sinks<Event>,
}

impl Audit {
    /// Keeps activities in memory, with the settings that [`Audit::builder`] starts from.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Room for 32 kinds of requests of each of 10,000 credentials, and no sinks.
    pub fn builder() -> AuditBuilder {
        AuditBuilder {
            credentials: 10_000,
            acts: 32,
            sinks: SinksBuilder::default(),
        }
    }

    /// What was done with a credential: its public id, and who vouches for it, as in
    /// [`Principal::source`](crate::identity::Principal::source). None if it was not seen, or
    /// not for long, or has no public id: a token without a `jti`, for instance.
    #[must_use]
    pub fn activity(&self, source: &str, credential_id: &str) -> Option<Activity> {
        self.shared.activities.of(source, credential_id)
    }

    /// How the sinks stand, in the order in which they were named.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.shared.sinks.status()
    }

    /// Delivers what waits, and then nothing more: when the server has stopped. As
    /// [`Usage::shutdown`](crate::usage::Usage::shutdown), which does not do it.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<SinkStatus> {
        self.shared.sinks.shut_down(deadline).await;
        self.sinks()
    }

    #[cfg(any(feature = "metrics", feature = "opentelemetry"))]
    pub(crate) fn downgrade(&self) -> WeakAudit {
        WeakAudit(Arc::downgrade(&self.shared))
    }

    /// Something was done to a key, because of a request from there if it was one.
    pub(crate) fn note_key(&self, event: &KeyEvent, identity: Identity, client: Option<IpAddr>) {
        let event = Event::of_key(event, identity, client);
        self.shared.sinks.push(&event);
    }

    /// The response to a request has begun.
    pub(crate) fn begin(&self, caller: &Identity, deed: &Deed<'_>) -> Option<UnderWay> {
        self.shared.activities.begin(caller, deed)
    }

    /// A request has ended, which a gate may have refused, whatever the response says.
    pub(crate) fn note(&self, record: &Record, noted: Option<&Rejection>, begun: Option<UnderWay>) {
        let shared = &*self.shared;
        let rejection = record.rejection().or(noted);
        let is_news = shared.activities.note(record, rejection, begun);
        if let Some(event) = rejection.and_then(|why| Event::of_refusal(record, why)) {
            shared.sinks.push(&event);
        }
        let until = record.identity().and_then(Identity::expires_at);
        if let Some(until) = until.filter(|_| is_news) {
            let kind = EventKind::Key(KeyEventKind::UsedInGrace { until });
            shared.sinks.push(&Event::of_request(record, kind));
        }
    }
}

/// An [`Audit`], as long as there is one.
#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
pub(crate) struct WeakAudit(std::sync::Weak<Shared>);

#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
impl WeakAudit {
    pub(crate) fn upgrade(&self) -> Option<Audit> {
        self.0.upgrade().map(|shared| Audit { shared })
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("sinks", &self.sinks())
            .finish_non_exhaustive()
    }
}

/// Settings of an [`Audit`].
#[derive(Clone)]
#[must_use]
pub struct AuditBuilder {
    credentials: usize,
    acts: usize,
    sinks: SinksBuilder<Event>,
}

impl AuditBuilder {
    /// Sets of about how many credentials the activity is kept. Roughly those that were not used
    /// for longest make room. At least one.
    pub fn credentials(mut self, count: usize) -> Self {
        self.credentials = count;
        self
    }

    /// Sets how many kinds of requests are kept of each. The one that was made longest ago makes
    /// room, and one that is under way only if all are. At least one.
    pub fn acts(mut self, count: usize) -> Self {
        self.acts = count;
        self
    }

    /// Adds one that is told of each event, in batches.
    pub fn sink(self, sink: impl Sink<Event>) -> Self {
        self.sink_with(Buffer::new(), sink)
    }

    /// As [`AuditBuilder::sink`], and says how events wait for it.
    pub fn sink_with(mut self, buffer: Buffer, sink: impl Sink<Event>) -> Self {
        self.sinks.add(buffer, sink);
        self
    }

    /// Starts to write down.
    #[must_use]
    pub fn build(self) -> Audit {
        let shared = Shared {
            activities: Activities::new(self.credentials, self.acts),
            sinks: self.sinks.build(),
        };
        Audit {
            shared: Arc::new(shared),
        }
    }
}

impl fmt::Debug for AuditBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditBuilder")
            .field("credentials", &self.credentials)
            .field("acts", &self.acts)
            .field("sinks", &self.sinks.len())
            .finish_non_exhaustive()
    }
}
