//! [`UsageLayer`]: every request counted once, at its true end.
//!
//! It stands outside of all other layers and refuses nothing. For each request it knows who
//! called, also if they were refused, which route that was, how it ended, and what it cost:
//! a [`Record`]. It adds up what each caller has used, and hands the records to sinks.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tollgate::keys::{NewKey, Peppers};
//! use tollgate::usage::Usage;
//! use tollgate::{ApiKeys, AuthLayer, UsageLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let keys = ApiKeys::in_memory(Peppers::random());
//! let issued = keys.issue(NewKey::for_owner("acct_1")).await?;
//!
//! let usage = Usage::builder().units(["tokens"]).build();
//! let service = ServiceBuilder::new()
//!     .layer(UsageLayer::new(usage.clone()))
//!     .layer(AuthLayer::new(keys))
//!     .service(service_fn(|request: Request<()>| async move {
//!         Usage::add(request.extensions(), "tokens", 812);
//!         Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("hello")))
//!     }));
//!
//! let request = Request::get("/").header("x-api-key", issued.key.expose()).body(())?;
//! service.clone().oneshot(request).await?.into_body().collect().await?;
//! service.oneshot(Request::get("/").body(())?).await?; // refused: no key
//!
//! let [caller] = &usage.top(1)[..] else { panic!("one caller is known") };
//! assert_eq!(caller.principal.subject(), "acct_1");
//! assert_eq!((caller.total.requests(), caller.total.bytes_out()), (1, 5));
//! assert_eq!(caller.total.unit("tokens"), 812);
//! assert_eq!(usage.snapshot().anonymous.refused(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised: records go to a sink of one's own, and the process waits for it at its end.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use std::time::Duration;
//! use tollgate::UsageLayer;
//! use tollgate::usage::{Buffer, Record, Sink, SinkError, Usage};
//!
//! struct Billing;
//!
//! impl Sink<Record> for Billing {
//!     async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
//!         for record in batch {
//!             let subject = record.principal().map(|principal| principal.subject());
//!             println!("{} {subject:?} {}", record.id(), record.requests());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let usage = Usage::builder()
//!     .callers(50_000)
//!     .sink_with(Buffer::new().every(Duration::from_secs(10)), Billing)
//!     .build();
//! let layer = UsageLayer::new(usage.clone()).route(|_| Some("/v1/orders".into()));
//! // … serve, and when that has ended:
//! let sinks = usage.shutdown(Duration::from_secs(5)).await;
//! assert_eq!(sinks[0].lost, 0);
//! # });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When a request has ended
//! With the last byte of its response, or its trailers; where the length is known, with as
//! many bytes, whether or not the server asks for more. A response without content has ended
//! with its fields. Else it ends when the server drops it: before the response
//! ([`End::Cancelled`]), or in its midst ([`End::Disconnected`]). "Sent" means handed to the
//! server: what the network does with it nobody knows here.
//!
//! # Deployment
//! - It goes outside of the other layers, or it does not see whom they refuse. With axum it
//!   belongs on the router (`Router::layer`), where the template of the route is known.
//! - A [`Sink`] gets each record at least once; [`Record::id`] tells those apart that it
//!   has seen. A sink that is slow, fails or panics costs memory up to the bounds of its
//!   [`Buffer`], and never a request.
//! - When the server has stopped: [`Usage::shutdown`].
//! - [`Observer`] is for what must hear of each request at once.
//!
//! # Cost
//! Two allocations a request and one more for a body, a look-up, a lock that few callers share,
//! and three readings of the clock at most. A door and a limit that it calls at once need none of
//! their own then, unless they were given one: the system's time of day is asked for once a second,
//! and counted on in between. Recording itself allocates nothing for a caller who is known.

mod call;
mod handle;
mod layer;
#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
pub mod metrics;
pub(crate) mod record;
mod routes;
pub(crate) mod sink;
mod slot;
mod table;
mod tally;
mod total;
mod uploads;
mod web;

pub use handle::{Observer, Usage, UsageBuilder};
pub use layer::UsageLayer;
pub use record::{Arrival, End, Record, RecordId};
pub use sink::{Buffer, ChannelSink, JsonLinesSink, Sink, SinkError, SinkStatus, TracingSink};
pub use slot::UsageSlot;
pub use total::{Caller, Snapshot, Total};
