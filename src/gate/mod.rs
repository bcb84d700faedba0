//! [`Gate`]: the service that all layers of this crate make, and the only code that polls, pins,
//! clones services and handles readiness.
//!
//! A gate has the policies of one layer or of a [`Tollgate`](crate::Tollgate). It takes a request
//! through them in order, calls the inner service, and lets them see the response in reverse
//! order. If a policy rejects the request, the rejection is rendered once, and the policies around
//! it see that response. A gate never makes a service error: `S::Error` passes through unchanged,
//! and so does backpressure.
//!
//! # Readiness and cancellation
//! The instance that was polled ready is the one that is called: see the warning in the docs of
//! [`tower_service::Service::call`]. When a request is rejected, that instance is dropped, so that
//! what it reserved in `poll_ready` is free again. Dropping the future at any point drops what the
//! policies keep about the request, and the inner future.

mod policy;
mod stack;

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::Body;
use crate::context::{Known, needs_rejection, note_caller, note_rejection};
use crate::grpc::Dialect;
use crate::rejection::Rejection;
use crate::rejection_log;
use crate::render::Voice;

pub(crate) use policy::{Call, Leave, Policy, Role, caught};
pub use stack::{Policies, PoliciesFor};

/// A service behind the policies of a layer or of a [`Tollgate`](crate::Tollgate).
pub struct Gate<S, P> {
    inner: S,
    policies: Arc<P>,
}

impl<S, P> Gate<S, P> {
    #[track_caller]
    pub(crate) fn new(inner: S, policies: Arc<P>) -> Self
    where
        P: Policies,
    {
        policies.install();
        Self { inner, policies }
    }
}

impl<S: Clone, P> Clone for Gate<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            policies: Arc::clone(&self.policies),
        }
    }
}

impl<S: fmt::Debug, P> fmt::Debug for Gate<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, P, B, R> Service<Request<B>> for Gate<S, P>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    P: PoliciesFor<R>,
    B: 'static,
{
    type Response = Response<Body<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, P, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let mut stay = Stay::new(&self.policies);
        let state = match stay.enter(&mut parts, None) {
            Poll::Ready(Ok(())) => {
                let future = stay.call(&mut self.inner, parts, body);
                State::Calling { future }
            }
            Poll::Ready(Err(rejection)) => {
                drop(self.take_ready());
                State::Refused {
                    response: Some(stay.refuse(rejection, &parts)),
                }
            }
            Poll::Pending => {
                self.policies.time_goes_on(&stay.visits);
                let held = Held {
                    inner: self.take_ready(),
                    parts,
                    body,
                };
                State::Entering {
                    held: Some(Box::new(held)),
                }
            }
        };
        ResponseFuture { state, stay }
    }
}

impl<S: Clone, P> Gate<S, P> {
    /// Takes the instance that was polled ready, and leaves a fresh one.
    fn take_ready(&mut self) -> S {
        let fresh = self.inner.clone();
        mem::replace(&mut self.inner, fresh)
    }
}

/// A request in the care of the policies.
struct Stay<P: Policies> {
    policies: Arc<P>,
    visits: P::Visits,
    known: Known,
}

impl<P: Policies> Stay<P> {
    fn new(policies: &Arc<P>) -> Self {
        Self {
            policies: Arc::clone(policies),
            visits: P::Visits::default(),
            known: Known::default(),
        }
    }

    fn enter(
        &mut self,
        parts: &mut Parts,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<(), Rejection>> {
        let Self {
            policies,
            visits,
            known,
        } = self;
        let entered = caught(|| policies.enter(visits, &mut Call { parts, known }, cx));
        entered.unwrap_or_else(|panicked| Poll::Ready(Err(panicked)))
    }

    fn call<S: Service<Request<B>>, B: 'static>(
        &mut self,
        inner: &mut S,
        parts: Parts,
        body: B,
    ) -> S::Future {
        let body = self.policies.carry(&self.visits, body);
        let future = inner.call(Request::from_parts(parts, body));
        self.policies.time_goes_on(&self.visits);
        future
    }

    /// Renders a rejection, and takes the response out through the policies that have admitted the
    /// request.
    fn refuse<R>(&mut self, mut rejection: Rejection, request: &Parts) -> Response<Body<R>>
    where
        P: PoliciesFor<R>,
    {
        let extensions = &request.extensions;
        rejection_log::log(&rejection, extensions);
        if let Some(holder) = rejection.take_holder() {
            note_caller(extensions, &holder);
        }
        let mut rejection = rejection.spoken(Dialect::of(request));
        note_rejection(extensions, &rejection);
        let own = self.policies.renderer(&self.visits, &mut rejection);
        let voice = own.or_else(|| self.policies.fallback_renderer());
        let voice = voice.unwrap_or_else(|| Voice::standard());
        let response = voice.answer(&mut rejection);
        // RFC 9110 §9.3.2: the fields of a GET, and no content.
        let mut response = match request.method {
            Method::HEAD => response.map(|_| Body::empty()),
            _ => response.map(Body::full),
        };
        let policies = &self.policies;
        policies.leave(&mut self.visits, Some(&rejection), &mut response);
        if needs_rejection(extensions, &self.known) {
            response.extensions_mut().insert(rejection);
        }
        response
    }

    /// Takes the response of the inner service out through all policies.
    fn leave<R, E>(&mut self, result: Result<Response<R>, E>) -> Result<Response<Body<R>>, E>
    where
        P: PoliciesFor<R>,
    {
        match result {
            Ok(response) => {
                let mut response = response.map(Body::inner);
                let policies = &self.policies;
                policies.leave(&mut self.visits, None, &mut response);
                Ok(response)
            }
            Err(error) => {
                self.policies.failed(&mut self.visits);
                Err(error)
            }
        }
    }
}

pin_project! {
    /// The future of a [`Gate`].
    pub struct ResponseFuture<S, P, B, R>
    where
        S: Service<Request<B>>,
        P: Policies,
    {
        #[pin]
        state: State<S, B, R>,
        stay: Stay<P>,
    }

    impl<S, P, B, R> PinnedDrop for ResponseFuture<S, P, B, R>
    where
        S: Service<Request<B>>,
        P: Policies,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // What waits may be a user's future, and may panic when it is dropped.
            if let StateProj::Entering { .. } = this.state.project() {
                let _ = caught(|| drop(mem::take(&mut this.stay.visits)));
            }
        }
    }
}

impl<S, P, B, R> fmt::Debug for ResponseFuture<S, P, B, R>
where
    S: Service<Request<B>>,
    P: Policies,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, R>
    where
        S: Service<Request<B>>,
    {
        Entering {
            // Boxed: it would make the future larger for all who need not wait.
            held: Option<Box<Held<S, B>>>,
        },
        Calling {
            #[pin]
            future: S::Future,
        },
        Refused {
            response: Option<Response<Body<R>>>,
        },
    }
}

/// A request that waits, and the service that is ready for it.
struct Held<S, B> {
    inner: S,
    parts: Parts,
    body: B,
}

impl<S, P, B, R> Future for ResponseFuture<S, P, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    P: PoliciesFor<R>,
    B: 'static,
{
    type Output = Result<Response<Body<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut state, stay) = (this.state, this.stay);
        loop {
            let next = match state.as_mut().project() {
                StateProj::Entering { held } => {
                    let mut waiting = held.take().expect(POLLED_AGAIN);
                    stay.known.time_goes_on();
                    match stay.enter(&mut waiting.parts, Some(cx)) {
                        Poll::Pending => {
                            // A policy may have shared a time since the last wait.
                            stay.policies.time_goes_on(&stay.visits);
                            *held = Some(waiting);
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(())) => {
                            let Held {
                                mut inner,
                                parts,
                                body,
                            } = *waiting;
                            let guard = Unwinding(stay);
                            let future = guard.0.call(&mut inner, parts, body);
                            mem::forget(guard);
                            State::Calling { future }
                        }
                        Poll::Ready(Err(rejection)) => State::Refused {
                            response: Some(stay.refuse(rejection, &waiting.parts)),
                        },
                    }
                }
                StateProj::Calling { future } => {
                    let guard = Unwinding(stay);
                    let polled = future.poll(cx);
                    mem::forget(guard);
                    let Poll::Ready(result) = polled else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(stay.leave(result));
                }
                StateProj::Refused { response } => {
                    return Poll::Ready(Ok(response.take().expect(POLLED_AGAIN)));
                }
            };
            state.set(next);
        }
    }
}

/// Drops the visits at once if the inner service panics, so that they notice.
struct Unwinding<'a, P: Policies>(&'a mut Stay<P>);

impl<P: Policies> Drop for Unwinding<'_, P> {
    fn drop(&mut self) {
        self.0.visits = P::Visits::default();
    }
}

const POLLED_AGAIN: &str = "a future is not polled after it is ready";
