//! [`Gate`]: the service that all layers of this crate make. All code of the crate
//! that polls, pins, clones services or minds readiness is in this file.
//!
//! A gate asks its check about a request, then either calls the inner service or
//! answers in its place. It never makes a service error: `S::Error` passes through
//! unchanged, and so does backpressure.
//!
//! # Readiness and cancellation
//! The instance that was polled ready is the one that is called; see the warning in
//! the docs of [`tower_service::Service::call`]. When a request is refused, that
//! instance is dropped, so that what it reserved in `poll_ready` is free again.
//! Dropping the future at any point drops the check and the inner future with it.

use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::Body;
use crate::context::{note_caller, note_rejection};
use crate::grpc::Dialect;
use crate::pending::Pending;
use crate::rejection::Rejection;
use crate::rejection_log;

/// What a gate asks about a request. Cheap to clone.
pub trait Check: Clone {
    /// What a request that may pass carries.
    type Pass: 'static;
    /// What is to be done to the response of a request that passed: see [`Stamp`].
    type Stamp: 'static;

    /// Decides, now or later. A panic in here refuses this request with a 500.
    fn check(&self, parts: &mut Parts) -> Pending<Result<Self::Pass, Rejection>>;

    /// Leaves what was found out in the request, or refuses after all.
    fn admit(&self, parts: &mut Parts, pass: Self::Pass) -> Result<Self::Stamp, Rejection>;

    /// May look into the body of a request that passes.
    fn carry<B: 'static>(&self, _: &Self::Stamp, body: B) -> B {
        body
    }

    /// The inner service was called, and whatever waits has waited no longer than that.
    fn called(&self, _: &Self::Stamp) {}

    /// Says no.
    fn answer(&self, rejection: Rejection) -> Response<Bytes>;
}

/// What is to be done to the response of a request that passed, if it has the body `B`.
///
/// Dropped without either, nobody waits for the response any more; if that is while a panic
/// unwinds, the inner service has panicked.
pub trait Stamp<B>: Sized {
    /// Does it.
    fn apply(self, response: &mut Response<Body<B>>);

    /// There is no response: the inner service has failed.
    fn failed(self) {}
}

/// Nothing is to be done.
impl<B> Stamp<B> for () {
    fn apply(self, _: &mut Response<Body<B>>) {}
}

/// A service with a check in front: what the layers of this crate make.
#[derive(Clone)]
pub struct Gate<S, C> {
    inner: S,
    check: C,
}

impl<S, C> Gate<S, C> {
    pub(crate) const fn new(inner: S, check: C) -> Self {
        Self { inner, check }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Gate<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, C, B, R> Service<Request<B>> for Gate<S, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    C: Check<Stamp: Stamp<R>>,
    B: 'static,
{
    type Response = Response<Body<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, C, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let decided = caught(|| match self.check.check(&mut parts) {
            Pending::Ready(answer) => {
                Ok(answer.and_then(|pass| self.check.admit(&mut parts, pass)))
            }
            later @ Pending::Later(_) => Err(later),
        });
        let verdict = match decided {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(later)) => {
                let held = Held {
                    inner: self.take_ready(),
                    check: self.check.clone(),
                    parts,
                    body,
                };
                return ResponseFuture {
                    state: State::Checking {
                        pending: Some(later),
                        held: Some(Box::new(held)),
                    },
                };
            }
            Err(panicked) => Err(panicked),
        };
        match verdict {
            Ok(stamp) => {
                let body = self.check.carry(&stamp, body);
                let future = self.inner.call(Request::from_parts(parts, body));
                self.check.called(&stamp);
                ResponseFuture {
                    state: State::Calling {
                        future,
                        stamp: Some(stamp),
                    },
                }
            }
            Err(rejection) => {
                drop(self.take_ready());
                ResponseFuture {
                    state: State::refused(&self.check, rejection, &parts),
                }
            }
        }
    }
}

impl<S: Clone, C> Gate<S, C> {
    /// Takes the instance that was polled ready, and leaves a fresh one.
    fn take_ready(&mut self) -> S {
        let fresh = self.inner.clone();
        mem::replace(&mut self.inner, fresh)
    }
}

pin_project! {
    /// The future of a [`Gate`].
    pub struct ResponseFuture<S, C, B>
    where
        S: Service<Request<B>>,
        C: Check,
    {
        #[pin]
        state: State<S, C, B>,
    }

    impl<S, C, B> PinnedDrop for ResponseFuture<S, C, B>
    where
        S: Service<Request<B>>,
        C: Check,
    {
        fn drop(this: Pin<&mut Self>) {
            // What waits may be a user's, and may panic when it is given up.
            if let StateProj::Checking { pending, .. } = this.project().state.project() {
                let _ = caught(|| drop(pending.take()));
            }
        }
    }
}

impl<S, C, B> fmt::Debug for ResponseFuture<S, C, B>
where
    S: Service<Request<B>>,
    C: Check,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, C, B>
    where
        S: Service<Request<B>>,
        C: Check,
    {
        Checking {
            pending: Option<Pending<Result<C::Pass, Rejection>>>,
            // Boxed: it would make the future larger for all who need not wait.
            held: Option<Box<Held<S, C, B>>>,
        },
        Calling {
            #[pin]
            future: S::Future,
            stamp: Option<C::Stamp>,
        },
        Refused {
            response: Option<Response<Bytes>>,
            head: bool,
        },
    }
}

/// What waits for the check.
struct Held<S, C, B> {
    inner: S,
    check: C,
    parts: Parts,
    body: B,
}

impl<S, C, B> State<S, C, B>
where
    S: Service<Request<B>>,
    C: Check,
{
    fn refused(check: &C, mut rejection: Rejection, request: &Parts) -> Self {
        rejection_log::log(&rejection, &request.extensions);
        if let Some(holder) = rejection.take_holder() {
            note_caller(&request.extensions, &holder);
        }
        let rejection = rejection.spoken(Dialect::of(request));
        note_rejection(&request.extensions, &rejection);
        Self::Refused {
            response: Some(check.answer(rejection)),
            head: request.method == Method::HEAD,
        }
    }
}

impl<S, C, B, R> Future for ResponseFuture<S, C, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    C: Check<Stamp: Stamp<R>>,
    B: 'static,
{
    type Output = Result<Response<Body<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Checking { pending, held } => {
                    let waiting = pending.take().expect(POLLED_AGAIN);
                    let answer = match caught(|| waiting.poll_once(cx)) {
                        Ok(Err(waiting)) => {
                            *pending = Some(waiting);
                            return Poll::Pending;
                        }
                        Ok(Ok(answer)) => answer,
                        Err(rejection) => Err(rejection),
                    };
                    held.take().expect(POLLED_AGAIN).proceed(answer)
                }
                StateProj::Calling { future, stamp } => {
                    // Held here, so that it goes with a panic of the inner service.
                    let held = stamp.take();
                    let Poll::Ready(result) = future.poll(cx) else {
                        *stamp = held;
                        return Poll::Pending;
                    };
                    let result = result.map(|response| response.map(Body::inner));
                    return Poll::Ready(match (result, held) {
                        (Ok(mut response), Some(stamp)) => {
                            stamp.apply(&mut response);
                            Ok(response)
                        }
                        (Err(error), Some(stamp)) => {
                            stamp.failed();
                            Err(error)
                        }
                        (result, None) => result,
                    });
                }
                StateProj::Refused { response, head } => {
                    let response = response.take().expect(POLLED_AGAIN);
                    // RFC 9110 §9.3.2: the fields of a GET, and no content.
                    let body = if *head { |_| Body::empty() } else { Body::full };
                    return Poll::Ready(Ok(response.map(body)));
                }
            };
            state.set(next);
        }
    }
}

impl<S, C, B> Held<S, C, B>
where
    S: Service<Request<B>>,
    C: Check,
    B: 'static,
{
    fn proceed(mut self, answer: Result<C::Pass, Rejection>) -> State<S, C, B> {
        let verdict =
            answer.and_then(|pass| caught(|| self.check.admit(&mut self.parts, pass)).flatten());
        match verdict {
            Ok(stamp) => {
                let body = self.check.carry(&stamp, self.body);
                let future = self.inner.call(Request::from_parts(self.parts, body));
                self.check.called(&stamp);
                State::Calling {
                    future,
                    stamp: Some(stamp),
                }
            }
            Err(rejection) => State::refused(&self.check, rejection, &self.parts),
        }
    }
}

/// Runs what may run a user's code. What a panic leaves half done is dropped with
/// the request that it refuses.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Rejection> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Rejection::panicked())
}

const POLLED_AGAIN: &str = "a future is not polled after it is ready";
