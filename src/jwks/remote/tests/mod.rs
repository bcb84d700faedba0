//! Keys against key servers that are slow, lying, huge, rotating, redirecting and gone, with
//! the fetches counted.
#![cfg(test)]

mod answers;
mod discovering;
mod engine;
mod events;
mod hostile;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tower_service::Service;

use super::{LookUp, Remote, RemoteKeys, Wanted};
use crate::clock::{Clock, Timestamp};
use crate::jwks::algorithm::Algorithm;
use crate::jwks::ring::{KeyName, Verdict};
use crate::jwks::verifier::Backend;
use crate::pending::Pending;

pub(super) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
pub(super) const HOUR: Duration = secs(3600);
pub(super) const ISSUER: &str = "https://id.example.com/";
pub(super) const URL: &str = "https://id.example.com/jwks.json";

/// The time of tokio's timer, which tests stop and put forward.
#[derive(Clone, Copy)]
pub(super) struct Ticking(Instant);

impl Ticking {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        NOW.saturating_add(self.0.elapsed())
    }
}

type Answers = Box<dyn FnMut(&Parts) -> Response<String> + Send>;

/// A key server in the same process. It notes what it is asked.
#[derive(Clone)]
pub(super) struct Server(Arc<Inner>);

struct Inner {
    answers: Mutex<Answers>,
    takes: Mutex<Duration>,
    asked: Mutex<Vec<Parts>>,
}

impl Server {
    pub(super) fn new(answers: impl FnMut(&Parts) -> Response<String> + Send + 'static) -> Self {
        Self(Arc::new(Inner {
            answers: Mutex::new(Box::new(answers)),
            takes: Mutex::default(),
            asked: Mutex::default(),
        }))
    }

    /// One that has these keys.
    pub(super) fn of(kids: &[&str]) -> Self {
        let server = Self::new(|_| failing());
        server.has(kids);
        server
    }

    pub(super) fn has(&self, kids: &[&str]) {
        let document = jwks(kids);
        self.answers(move |_| Response::new(document.clone()));
    }

    pub(super) fn fails(&self) {
        self.answers(|_| failing());
    }

    pub(super) fn answers(&self, answers: impl FnMut(&Parts) -> Response<String> + Send + 'static) {
        *self.0.answers.lock().unwrap() = Box::new(answers);
    }

    pub(super) fn takes(&self, time: Duration) {
        *self.0.takes.lock().unwrap() = time;
    }

    pub(super) fn asked(&self) -> usize {
        self.0.asked.lock().unwrap().len()
    }

    pub(super) fn last_request(&self) -> Parts {
        self.0.asked.lock().unwrap().last().unwrap().clone()
    }

    pub(super) fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Service<Request<Full<Bytes>>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let parts = request.into_parts().0;
        self.0.asked.lock().unwrap().push(parts.clone());
        // What is read is what was there when it was asked.
        let mut answers = self
            .0
            .answers
            .lock()
            .unwrap_or_else(|lock| lock.into_inner());
        let answer = answers(&parts).map(Full::from);
        let takes = *self.0.takes.lock().unwrap();
        Box::pin(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            Ok(answer)
        })
    }
}

pub(super) fn failing() -> Response<String> {
    status(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(super) fn status(status: StatusCode) -> Response<String> {
    let mut response = Response::new("<h1>no</h1>".to_owned());
    *response.status_mut() = status;
    response
}

/// A JWK Set with these ids.
pub(super) fn jwks(kids: &[&str]) -> String {
    let keys: Vec<_> = kids.iter().map(|kid| jwk(kid)).collect();
    format!(r#"{{"keys": [{}]}}"#, keys.join(","))
}

/// The key of RFC 8037 appendix A.2.
pub(super) fn jwk(kid: &str) -> String {
    format!(r#"{{"kty": "OKP", "crv": "Ed25519", "kid": "{kid}", "x": "{X}"}}"#)
}

pub(super) const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

pub(super) fn build(settings: RemoteKeys) -> Remote {
    let algorithms = Algorithm::ASYMMETRIC.to_vec();
    Remote::new(settings, ISSUER, algorithms, Backend::default()).unwrap()
}

/// The keys of that server, by the time of tokio's timer.
pub(super) fn remote(server: &Server) -> (Remote, Ticking) {
    let clock = Ticking::new();
    let settings = RemoteKeys::at(URL).client(server.clone()).clock(clock);
    (build(settings), clock)
}

/// Looks a key up as a token does that names it.
pub(super) fn look_up(remote: &Remote, kid: &str, now: Timestamp) -> Pending<LookUp> {
    let current = remote.keyring().current(now);
    let wanted = Wanted {
        name: KeyName {
            kid: Some(kid.into()),
            algorithm: Algorithm::Ed25519,
        },
        tried: current.map(|current| current.ring),
        verdict: Verdict::NoKey,
    };
    remote.look_up(wanted, now)
}

/// The result of a look-up that waits for nothing.
pub(super) fn at_once(remote: &Remote, kid: &str, now: Timestamp) -> Option<LookUp> {
    match look_up(remote, kid, now) {
        Pending::Ready(found) => Some(found),
        Pending::Later(_) => None,
    }
}

/// Looks up a key that is in most sets.
pub(super) async fn obtain(remote: &Remote, now: Timestamp) -> LookUp {
    look_up(remote, "a", now).wait().await
}

/// Waits for a key as a request does, and says whether it is there.
pub(super) async fn find(remote: &Remote, kid: &str, now: Timestamp) -> bool {
    look_up(remote, kid, now).wait().await;
    knows(remote, kid, now)
}

pub(super) fn knows(remote: &Remote, kid: &str, now: Timestamp) -> bool {
    let current = remote.keyring().current(now);
    current.is_some_and(|current| current.ring.knows(kid))
}

pub(super) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Polls once, and says whether it is done.
pub(super) async fn polled<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_ready())).await
}
