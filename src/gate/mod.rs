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

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::Body;
use crate::context::{Known, note_caller, note_rejection};
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
    type Future = ResponseFuture<S, P, B>;

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
                stay.refuse(rejection, &parts)
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

    /// Renders a rejection.
    fn refuse<S: Service<Request<B>>, B>(
        &self,
        mut rejection: Rejection,
        request: &Parts,
    ) -> State<S, B> {
        rejection_log::log(&rejection, &request.extensions);
        if let Some(holder) = rejection.take_holder() {
            note_caller(&request.extensions, &holder);
        }
        let mut rejection = rejection.spoken(Dialect::of(request));
        note_rejection(&request.extensions, &rejection);
        let own = self.policies.renderer(&self.visits, &mut rejection);
        let voice = own.or_else(|| self.policies.fallback_renderer());
        let voice = voice.unwrap_or_else(|| Voice::standard());
        State::Refused {
            response: Some(voice.answer(rejection)),
            head: request.method == Method::HEAD,
        }
    }

    /// Takes a response out through the policies that have admitted the request.
    fn leave<R, E>(&mut self, result: Result<Response<Body<R>>, E>) -> Result<Response<Body<R>>, E>
    where
        P: PoliciesFor<R>,
    {
        let Self {
            policies,
            visits,
            known,
        } = self;
        match result {
            Ok(mut response) => {
                policies.leave(visits, known, &mut response);
                Ok(response)
            }
            Err(error) => {
                policies.failed(visits);
                Err(error)
            }
        }
    }
}

pin_project! {
    /// The future of a [`Gate`].
    pub struct ResponseFuture<S, P, B>
    where
        S: Service<Request<B>>,
        P: Policies,
    {
        #[pin]
        state: State<S, B>,
        stay: Stay<P>,
    }

    impl<S, P, B> PinnedDrop for ResponseFuture<S, P, B>
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

impl<S, P, B> fmt::Debug for ResponseFuture<S, P, B>
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
    enum State<S, B>
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
            response: Option<Response<Bytes>>,
            head: bool,
        },
    }
}

/// A request that waits, and the service that is ready for it.
struct Held<S, B> {
    inner: S,
    parts: Parts,
    body: B,
}

impl<S, P, B, R> Future for ResponseFuture<S, P, B>
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
                            *held = Some(waiting);
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(())) => {
                            let Held {
                                mut inner,
                                parts,
                                body,
                            } = *waiting;
                            let visits = Unwinding(stay);
                            let future = visits.0.call(&mut inner, parts, body);
                            mem::forget(visits);
                            State::Calling { future }
                        }
                        Poll::Ready(Err(rejection)) => stay.refuse(rejection, &waiting.parts),
                    }
                }
                StateProj::Calling { future } => {
                    let visits = Unwinding(stay);
                    let polled = future.poll(cx);
                    mem::forget(visits);
                    let Poll::Ready(result) = polled else {
                        return Poll::Pending;
                    };
                    let result = result.map(|response| response.map(Body::inner));
                    return Poll::Ready(stay.leave(result));
                }
                StateProj::Refused { response, head } => {
                    let response = response.take().expect(POLLED_AGAIN);
                    // RFC 9110 §9.3.2: the fields of a GET, and no content.
                    let body = if *head { |_| Body::empty() } else { Body::full };
                    return Poll::Ready(stay.leave(Ok(response.map(body))));
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
