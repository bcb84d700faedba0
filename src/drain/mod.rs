//! A layer that reads what is left of a request body before an early response is sent.
//!
//! A service that rejects a request usually does so without reading its body. A server cannot use
//! the connection of HTTP/1.1 or HTTP/1.0 for a further request then, so it closes the connection
//! while the client is still sending. The client sees a reset instead of the response. A reverse proxy with
//! persistent connections takes the reset for a failure of the server: it answers 502, and stops
//! sending requests of *other* clients to this server for a while (nginx: `max_fails`,
//! `fail_timeout`).
//!
//! [`DrainLayer`] reads the rest of such a body, within bounds, and returns the response after
//! that. Make it the outermost layer.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use tollgate::drain::DrainLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//!
//! let drain = DrainLayer::new().max_bytes(1 << 20);
//! let counters = drain.counters();
//! let service = ServiceBuilder::new()
//!     .layer(drain)
//!     // … the other layers, which may reject the request …
//!     .service(service_fn(|_unread: Request<_>| async {
//!         let mut response = Response::new("log in first".to_owned());
//!         *response.status_mut() = StatusCode::UNAUTHORIZED;
//!         Ok::<_, std::convert::Infallible>(response)
//!     }));
//!
//! let request = Request::post("/").body("an upload".to_owned())?;
//! assert_eq!(service.oneshot(request).await?.status(), 401);
//! assert_eq!((counters.drained(), counters.drained_bytes()), (1, 9));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which requests are drained
//! The layer hands the body to the inner service inside of a [`DrainBody`]. When the inner service
//! has returned a response, the rest of the body is read if all of these hold:
//! - The request came over HTTP/1.1 or HTTP/1.0. HTTP/2 and HTTP/3 reset one stream and keep the
//!   connection. Most HTTP/1.0 connections end with the response, but the response must arrive first:
//!   nginx before 1.29.7 connects to its upstreams over HTTP/1.0 unless `proxy_http_version` is set,
//!   and answers 502 if the connection is reset during an upload.
//! - The body was dropped before its end. A body that was read to its end, or that a task or the
//!   response body still holds, is left alone: its holder may go on reading.
//! - The request is not an `Expect: 100-continue` whose body was never polled. The client has not
//!   been asked for the body and waits. It gets the response at once, with `Connection: close`
//!   (RFC 9110 §10.1.1), since it may send the body or leave it out. HTTP/1.0 has no such expectation.
//! - The response is neither `101 Switching Protocols` nor that to a `CONNECT`.
//! - The status is one that [`DrainLayer::statuses`] selects. Defaults to all.
//!
//! # Bounds
//! | setting | default | |
//! |---|---|---|
//! | [`max_bytes`](DrainLayer::max_bytes) | 8 MiB | a larger `Content-Length` is known at once, and nothing is read |
//! | [`timeout`](DrainLayer::timeout) | 5 s | for one request |
//! | [`min_rate`](DrainLayer::min_rate) | 16 KiB/s | on average, after the first second |
//! | [`max_concurrent`](DrainLayer::max_concurrent) | 256 | requests that are drained at a time |
//! | [`max_concurrent_per_network`](DrainLayer::max_concurrent_per_network) | 32 | the same for one client network |
//!
//! Beyond a bound the response is returned at once with `Connection: close`, and counted with
//! the [reason](AbandonReason) in [`DrainCounters`]. A warning names the setting when a reason
//! occurs for the first time, unless the client is at fault (`Timeout`, `TooSlow`, `ClientGone`).
//!
//! The response waits for the rest of the body. A client that reads the response before it has sent
//! the whole body waits too, until a bound is reached.
//!
//! # Cancel safety
//! Dropping the response future drops the body and frees the place that it took among the
//! concurrent requests. It is counted as [`AbandonReason::ClientGone`].
//!
//! # Cost
//! Two small allocations for a request of HTTP/1.1 or HTTP/1.0 with a body, none for others, and a few more if the
//! body is drained.

mod body;
mod counters;
mod layer;
mod reader;
mod service;

pub use body::DrainBody;
pub use counters::{AbandonReason, DrainCounters};
pub use layer::DrainLayer;
pub use service::{Drain, DrainFuture};
