//! Request bodies that follow a script, and services that leave them unread.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, Sleep};
use tollgate::drain::{AbandonReason, DrainBody, DrainCounters, DrainLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

#[derive(Clone, Debug)]
pub(super) enum Step {
    Data(usize),
    Wait(Duration),
    Trailers,
    Fail,
    Hang,
}

/// A body that is not `Unpin`, and counts how often it is polled. Its parts are behind locks, since
/// they cannot be borrowed mutably out of a pin without a macro.
pub(super) struct Script {
    steps: Mutex<VecDeque<Step>>,
    length: Mutex<Option<u64>>,
    polls: Arc<AtomicUsize>,
    wait: Mutex<Option<Pin<Box<Sleep>>>>,
    _pinned: PhantomPinned,
}

impl Script {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: Mutex::new(steps.into_iter().collect()),
            length: Mutex::default(),
            polls: Arc::default(),
            wait: Mutex::default(),
            _pinned: PhantomPinned,
        }
    }

    /// With a length that is known beforehand, as that of `Content-Length`.
    pub(super) fn declaring(self, length: u64) -> Self {
        *self.length.lock().unwrap() = Some(length);
        self
    }

    pub(super) fn polls(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.polls)
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        let mut steps = self.steps.lock().unwrap();
        let mut waiting = self.wait.lock().unwrap();
        loop {
            if let Some(wait) = waiting.as_mut() {
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                *waiting = None;
            }
            return Poll::Ready(match steps.pop_front() {
                None => None,
                Some(Step::Data(bytes)) => {
                    if let Some(length) = self.length.lock().unwrap().as_mut() {
                        *length -= bytes as u64;
                    }
                    Some(Ok(Frame::data(Bytes::from(vec![0; bytes]))))
                }
                Some(Step::Wait(duration)) => {
                    *waiting = Some(Box::pin(tokio::time::sleep(duration)));
                    continue;
                }
                Some(Step::Trailers) => Some(Ok(Frame::trailers(HeaderMap::new()))),
                Some(Step::Fail) => Some(Err("the connection was reset")),
                Some(Step::Hang) => {
                    steps.push_front(Step::Hang);
                    return Poll::Pending;
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.lock().unwrap().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = *self.length.lock().unwrap();
        length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Sends a request to a service that drops it and answers.
pub(super) async fn reject(
    layer: &DrainLayer,
    request: Request<Script>,
    status: u16,
) -> Response<Full<Bytes>> {
    let service = layer.layer(rejecting(status));
    service.oneshot(request).await.unwrap()
}

/// A service that drops every request and answers.
pub(super) fn rejecting<B: Send + 'static>(
    status: u16,
) -> impl Service<
    Request<DrainBody<B>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone {
    service_fn(move |request: Request<DrainBody<B>>| async move {
        drop(request);
        Ok(answer(status))
    })
}

pub(super) fn answer(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("an answer"));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(super) fn closes<B>(response: &Response<B>) -> bool {
    response
        .headers()
        .get("connection")
        .is_some_and(|value| value == "close")
}

/// Returns the counters: drained bodies, bytes, and abandoned bodies by reason.
pub(super) fn counted(counters: &DrainCounters) -> (u64, u64, Vec<(AbandonReason, u64)>) {
    let abandoned = AbandonReason::ALL
        .into_iter()
        .map(|reason| (reason, counters.abandoned(reason)))
        .filter(|(_, count)| *count > 0);
    assert_eq!(counters.under_way(), 0, "a place was not freed");
    (
        counters.drained(),
        counters.drained_bytes(),
        abandoned.collect(),
    )
}

/// Times an operation, on the paused clock of tokio.
pub(super) async fn timed<T>(operation: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (operation.await, start.elapsed())
}
