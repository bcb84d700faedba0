//! [`Drain`]: the service of a [`DrainLayer`].

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::drain::body::{DrainBody, Return, Unread};
use crate::drain::counters::{AbandonReason, Shared};
use crate::drain::layer::{DrainLayer, Settings};
use crate::drain::reader::{Reader, is_too_large};
use crate::gate::caught;
use crate::network::Origin;

/// The service of a [`DrainLayer`].
#[derive(Clone)]
pub struct Drain<S> {
    pub(super) inner: S,
    pub(super) layer: DrainLayer,
}

impl<S: fmt::Debug> fmt::Debug for Drain<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, B, R> Service<Request<B>> for Drain<S>
where
    S: Service<Request<DrainBody<B>>, Response = Response<R>>,
    B: Body,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = DrainFuture<S::Future, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let clients = &self.layer.settings.clients;
        // The address of the peer may come from a function of the user, which may panic.
        let _ = caught(|| clients.share(&mut parts));
        let is_watched = matches!(parts.version, Version::HTTP_10 | Version::HTTP_11)
            && parts.method != Method::CONNECT
            && !body.is_end_stream();
        let (body, watched) = if is_watched {
            let (body, back) = DrainBody::returned(body);
            let watched = Watched {
                back,
                origin: clients.origin(&parts),
                waits_for_continue: expects_continue(&parts),
                settings: Arc::clone(&self.layer.settings),
                shared: Arc::clone(&self.layer.shared),
            };
            (body, Some(watched))
        } else {
            (DrainBody::plain(body), None)
        };
        let future = self.inner.call(Request::from_parts(parts, body));
        DrainFuture {
            state: State::Calling { future, watched },
        }
    }
}

/// Returns whether the client may wait for `100 Continue`. The expectation of an HTTP/1.0 request is
/// ignored (RFC 9110 §10.1.1).
fn expects_continue(parts: &Parts) -> bool {
    if parts.version == Version::HTTP_10 {
        return false;
    }
    let mut values = parts.headers.get_all(EXPECT).iter();
    values.any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A request whose body may come back.
struct Watched<B> {
    back: Return<B>,
    origin: Origin,
    waits_for_continue: bool,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
}

impl<B: Body> Watched<B> {
    fn begin(mut self, status: StatusCode) -> Begun<B> {
        let Ok(Unread { body, is_started }) = self.back.try_recv() else {
            return Begun::LeftAlone;
        };
        let is_selected = || caught(|| self.settings.selects(status)).unwrap_or(false);
        if status == StatusCode::SWITCHING_PROTOCOLS || !is_selected() {
            return Begun::LeftAlone;
        }
        if self.waits_for_continue && !is_started {
            return Begun::Closing;
        }
        match self.read(body) {
            Ok(reader) => Begun::Reading(reader),
            Err(reason) => {
                self.shared.abandon(reason, &self.settings);
                Begun::Closing
            }
        }
    }

    fn read(&self, body: Pin<Box<B>>) -> Result<Reader<B>, AbandonReason> {
        if is_too_large(&*body, &self.settings) {
            return Err(AbandonReason::TooLarge);
        }
        let sleep = self.shared.timer().sleep(self.settings.timeout);
        let sleep = sleep.ok_or(AbandonReason::NoTimer)?;
        let network = self.settings.clients.network_of(self.origin);
        let place = self.shared.enter(network, &self.settings)?;
        Ok(Reader::new(body, place, &self.settings, sleep))
    }
}

/// The decision about a body that was dropped.
enum Begun<B> {
    /// The layer takes no part in it.
    LeftAlone,
    /// It is not read. The client may send it, or the next request in its place, so that the connection
    /// cannot be used again (RFC 9110 §10.1.1 for a client that waits for `100 Continue`).
    Closing,
    Reading(Reader<B>),
}

pin_project! {
    /// The future of a [`Drain`].
    pub struct DrainFuture<F, B, R> {
        #[pin]
        state: State<F, B, R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B, R> {
        Calling {
            #[pin]
            future: F,
            watched: Option<Watched<B>>,
        },
        // Boxed: it would make the future larger for all who need not wait.
        Draining {
            held: Option<Box<Draining<B, R>>>,
        },
    }
}

struct Draining<B, R> {
    reader: Reader<B>,
    response: Response<R>,
}

impl<F, B, R, E> Future for DrainFuture<F, B, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Body,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Calling { future, watched } => {
                    let response = ready!(future.poll(cx))?;
                    let watched = watched.take();
                    // Drops the future of the inner service, which may still hold the body.
                    state.set(State::Draining { held: None });
                    let begun = watched.map(|watched| watched.begin(response.status()));
                    match begun.unwrap_or(Begun::LeftAlone) {
                        Begun::LeftAlone => return Poll::Ready(Ok(response)),
                        Begun::Closing => return Poll::Ready(Ok(closing(response))),
                        Begun::Reading(reader) => {
                            let held = Some(Box::new(Draining { reader, response }));
                            state.set(State::Draining { held });
                        }
                    }
                }
                StateProj::Draining { held } => {
                    let Some(draining) = held else {
                        // Polled again after it was ready.
                        return Poll::Pending;
                    };
                    let is_drained = ready!(draining.reader.poll(cx));
                    let Some(draining) = mem::take(held) else {
                        return Poll::Pending;
                    };
                    let Draining { reader, response } = *draining;
                    drop(reader);
                    return Poll::Ready(Ok(match is_drained {
                        true => response,
                        false => closing(response),
                    }));
                }
            }
        }
    }
}

impl<F, B, R> fmt::Debug for DrainFuture<F, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainFuture").finish_non_exhaustive()
    }
}

/// Says that the connection ends with this response (RFC 9112 §9.6).
fn closing<R>(mut response: Response<R>) -> Response<R> {
    let headers = response.headers_mut();
    headers.append(CONNECTION, HeaderValue::from_static("close"));
    response
}
