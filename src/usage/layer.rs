//! [`UsageLayer`]: what it makes of a request, of its response and of the response's body.

use std::fmt;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use tower_layer::Layer;

use crate::auth::Transport;
use crate::auth::https_only::transport;
use crate::body::{Body, Witness};
use crate::context::{UsageSlot, is_standard};
use crate::gate::{Check, Gate, Stamp, caught};
use crate::grpc::{Dialect, GRPC_STATUS};
use crate::identity::Identity;
use crate::network::ClientNetwork;
use crate::pending::Pending;
use crate::rejection::Rejection;
use crate::respond::{Voice, is_answered_by};
use crate::usage::handle::{Shared, Usage};
use crate::usage::record::{Arrival, End, Record, RecordId, Route};
use crate::usage::web::WebFrames;

/// The layer that counts each request once, at its end: see the [module](crate::usage).
#[derive(Clone)]
pub struct UsageLayer {
    usage: Usage,
    route: Option<Arc<FindRoute>>,
    clients: ClientNetwork,
}

type FindRoute = dyn Fn(&Parts) -> Option<Arc<str>> + Send + Sync;

impl UsageLayer {
    /// Counts there.
    #[must_use]
    pub fn new(usage: Usage) -> Self {
        Self {
            usage,
            route: None,
            clients: ClientNetwork::peer(),
        }
    }

    /// Says what the template of a request's route is: by default the method of a gRPC service,
    /// once that has answered, or the one that axum has matched, where the layer is inside of
    /// the router (`Router::layer`). There must be a bounded number of them.
    #[must_use]
    pub fn route(
        mut self,
        find: impl Fn(&Parts) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        self.route = Some(Arc::new(find));
        self
    }

    /// Sets whom to believe about where a request came from, and how: nobody but the server
    /// unless set.
    #[must_use]
    pub fn client_network(mut self, clients: ClientNetwork) -> Self {
        self.clients = clients;
        self
    }
}

impl fmt::Debug for UsageLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageLayer")
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for UsageLayer {
    type Service = Gate<S, Counted>;

    fn layer(&self, inner: S) -> Self::Service {
        let layer = self.clone();
        Gate::new(inner, Counted { layer })
    }
}

/// The check of a [`UsageLayer`], which all pass.
#[derive(Clone)]
pub struct Counted {
    layer: UsageLayer,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").finish_non_exhaustive()
    }
}

impl Check for Counted {
    type Pass = ();
    type Stamp = UsageStamp;

    fn check(&self, _: &mut Parts) -> Pending<Result<(), Rejection>> {
        Ok(()).into()
    }

    fn admit(&self, parts: &mut Parts, (): ()) -> Result<UsageStamp, Rejection> {
        let shared = &self.layer.usage.shared;
        let outer = parts.extensions.get::<UsageSlot>();
        if outer.is_some_and(|slot| slot.is_of(&shared.names)) {
            // It is counted outside.
            return Ok(UsageStamp(None));
        }
        let dialect = Dialect::of(parts);
        let (route, path) = self.route(parts, dialect);
        let slot = UsageSlot::new(Arc::clone(&shared.names), outer.cloned());
        if let Some(identity) = parts.extensions.get::<Identity>() {
            slot.note(identity);
        }
        parts.extensions.insert(slot.clone());
        let call = Call {
            started: shared.ticks(),
            shared: Arc::clone(shared),
            slot,
            method: bounded(&parts.method),
            version: parts.version,
            transport: self.transport(parts),
            is_grpc: dialect != Dialect::Http,
            route,
            path,
            declared: declared(&parts.headers),
            status: None,
            grpc_status: None,
            frames: None,
            refusal: None,
            client: shared.client(parts, &self.layer.clients),
            to_headers: None,
            bytes_out: 0,
            length: None,
            reached: None,
            has_ended: false,
        };
        shared.begun(Arrival {
            method: &call.method,
            route: call.route.as_ref().map(Route::as_str),
            transport: call.transport,
        });
        Ok(UsageStamp(Some(Box::new(call))))
    }

    fn carry<B: 'static>(&self, stamp: &UsageStamp, body: B) -> B {
        match &stamp.0 {
            Some(call) => crate::usage::uploads::count(&call.slot, body),
            None => body,
        }
    }

    /// Only what a panic makes of a request comes here.
    fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        Voice::standard().answer(rejection)
    }
}

impl Counted {
    fn transport(&self, parts: &Parts) -> Transport {
        let known = transport(parts, &self.layer.clients);
        known.unwrap_or_else(|| match parts.uri.scheme() == Some(&Scheme::HTTPS) {
            true => Transport::Tls,
            false => Transport::Plain,
        })
    }

    /// The template of the route, or what it may turn out to be.
    fn route(&self, parts: &Parts, dialect: Dialect) -> (Option<Route>, Option<Box<str>>) {
        if let Some(find) = &self.layer.route {
            // One that panics knows of none, and the request goes on.
            let found = caught(|| find(parts)).ok().flatten();
            return (found.map(Route::Named), None);
        }
        let matched = Route::matched(parts);
        // A router has one route for all methods of a gRPC service.
        let is_one = |route: &Route| !route.as_str().contains("{*");
        if dialect == Dialect::Http || matched.as_ref().is_some_and(is_one) {
            return (matched, None);
        }
        match self.layer.usage.shared.routes.known(parts.uri.path()) {
            Some(known) => (Some(Route::Named(known)), None),
            None => (matched, Some(parts.uri.path().into())),
        }
    }
}

/// What is known of a request that has not ended.
struct Call {
    shared: Arc<Shared>,
    slot: UsageSlot,
    started: Duration,
    method: Method,
    version: Version,
    transport: Transport,
    is_grpc: bool,
    route: Option<Route>,
    /// The path of a call that may be a route.
    path: Option<Box<str>>,
    /// The length of the request's body, as the client has declared it.
    declared: u64,
    status: Option<StatusCode>,
    grpc_status: Option<u32>,
    /// The frames of the body, where they have the trailers.
    frames: Option<Box<WebFrames>>,
    refusal: Option<Rejection>,
    client: Option<IpAddr>,
    to_headers: Option<Duration>,
    bytes_out: u64,
    /// How long the body of the response is, if that is known.
    length: Option<u64>,
    /// When it was that long.
    reached: Option<Duration>,
    has_ended: bool,
}

impl Call {
    fn answered<B>(&mut self, response: &Response<B>) {
        self.to_headers = Some(self.elapsed(self.shared.ticks()));
        self.status = Some(response.status());
        self.note_grpc_status(response.headers());
        self.refusal = refusal(response, self.grpc_status);
        let fields = response.headers();
        self.frames = WebFrames::of(fields).filter(|_| self.is_grpc);
    }

    fn note_grpc_status(&mut self, fields: &HeaderMap) {
        if !self.is_grpc {
            return;
        }
        if let Some(status) = fields.get(GRPC_STATUS) {
            let text = status.to_str().ok();
            self.grpc_status = text.and_then(|text| text.parse().ok());
        }
    }

    fn elapsed(&self, ticks: Duration) -> Duration {
        ticks.saturating_sub(self.started)
    }

    /// Counts it, unless that was done.
    fn end(&mut self, end: End) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        let noted = self.slot.end();
        let to_end = self.reached.take();
        let to_end = to_end.unwrap_or_else(|| self.elapsed(self.shared.ticks()));
        let end = match &self.refusal {
            Some(_) => End::Refused,
            None => end,
        };
        // Others may be refused before it is known whether they are there.
        let has_message = match &self.frames {
            Some(frames) => frames.has_message,
            None => self.bytes_out > 0,
        };
        let has_answered = has_message || self.grpc_status == Some(OK);
        let is_there = self.refusal.is_none() && self.grpc_status.is_some() && has_answered;
        if let Some(path) = self.path.take().filter(|_| is_there)
            && let Some(method) = self.shared.routes.learn(&path)
        {
            self.route = Some(Route::Named(method));
        }
        // What nobody was asked for was only announced.
        let declared = match (&self.refusal, self.status) {
            (None, Some(_)) => self.declared,
            _ => 0,
        };
        let record = Record {
            id: RecordId::default(),
            at: self.shared.at(self.started.saturating_add(to_end)),
            identity: noted.caller,
            route: self.route.take(),
            status: self.status,
            is_grpc: self.is_grpc,
            grpc_status: self.grpc_status,
            rejection: self.refusal.take(),
            client: self.client,
            end,
            bytes_in: self.slot.bytes_in().unwrap_or(declared),
            bytes_out: self.bytes_out,
            to_headers: self.to_headers,
            to_end,
            method: mem::take(&mut self.method),
            version: self.version,
            transport: self.transport,
            requests: 1,
            names: Arc::clone(&self.shared.names),
            units: noted.units,
        };
        self.shared.record(&record, self.slot.address());
    }
}

/// Given up, before the response or in the midst of its body.
impl Drop for Call {
    fn drop(&mut self) {
        self.end(match (thread::panicking(), self.status) {
            _ if self.reached.is_some() => End::Complete,
            (true, None) => End::ServiceError,
            (false, None) => End::Cancelled,
            (true, Some(_)) => End::BodyError,
            (false, Some(_)) => End::Disconnected,
        });
    }
}

/// What is done to the response of a request that is counted; nothing if it is counted
/// elsewhere.
pub struct UsageStamp(Option<Box<Call>>);

impl fmt::Debug for UsageStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageStamp").finish_non_exhaustive()
    }
}

impl<B: http_body::Body> Stamp<B> for UsageStamp {
    fn apply(self, response: &mut Response<Body<B>>) {
        let Some(mut call) = self.0 else { return };
        call.answered(response);
        let body = response.body();
        let has_content = !has_no_content(&call.method, response.status());
        if has_content {
            let exact = || http_body::Body::size_hint(body).exact();
            call.length = length(response.headers()).or_else(exact);
        }
        if !has_content || http_body::Body::is_end_stream(body) {
            call.reached = call.to_headers;
            call.ended();
            return;
        }
        if call.length == Some(0) {
            // Nobody may ask for it.
            call.reached = call.to_headers;
        }
        response.body_mut().watch_boxed(call);
    }

    fn failed(self) {
        if let Some(mut call) = self.0 {
            call.end(End::ServiceError);
        }
    }
}

/// Sees the body of the response go by.
impl Witness for Call {
    fn data(&mut self, data: &Bytes, is_last: bool) {
        if self.has_ended {
            return;
        }
        self.bytes_out = self.bytes_out.saturating_add(data.len() as u64);
        if let Some(status) = self.frames.as_mut().and_then(|frames| frames.read(data)) {
            self.grpc_status = Some(status);
        }
        let is_whole = self.length.is_some_and(|length| self.bytes_out >= length);
        if is_last {
            self.ended();
        } else if is_whole && !self.is_grpc {
            self.end(End::Complete);
        } else if is_whole && self.reached.is_none() {
            // The trailers say how the call went, and may be yet to come.
            self.reached = Some(self.elapsed(self.shared.ticks()));
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.note_grpc_status(trailers);
        self.reached = None;
        self.end(End::Complete);
    }

    fn ended(&mut self) {
        let is_short = self.length.is_some_and(|length| self.bytes_out < length);
        self.end(if is_short {
            End::BodyError
        } else {
            End::Complete
        });
    }

    fn failed(&mut self) {
        self.reached = None;
        self.end(End::BodyError);
    }
}

/// Why it was refused, if that is what the response says: a layer between may have answered
/// otherwise, and left the rejection where it was.
#[cfg_attr(
    not(feature = "tonic"),
    expect(unused_variables, reason = "only a status of tonic has to be compared")
)]
fn refusal<B>(response: &Response<B>, grpc_status: Option<u32>) -> Option<Rejection> {
    let rejection = response.extensions().get::<Rejection>();
    let rejection = rejection.filter(|rejection| is_answered_by(response, rejection));
    #[cfg(feature = "tonic")]
    let rejection = rejection.or_else(|| {
        let of_handler = crate::tonic::rejection(response.extensions())?;
        let code = of_handler.reason().grpc_code() as u32;
        (grpc_status == Some(code)).then_some(of_handler)
    });
    rejection.cloned()
}

/// RFC 9110 §6.4.1: whatever the fields say. What follows on an upgraded connection is no
/// content of the response.
fn has_no_content(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || method == Method::CONNECT && status.is_success()
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What a client makes up is one method: records wait in bounded memory, and are added up.
fn bounded(method: &Method) -> Method {
    if is_standard(method) {
        return method.clone();
    }
    Method::from_bytes(b"_OTHER").unwrap_or_default()
}

fn declared(headers: &HeaderMap) -> u64 {
    length(headers).unwrap_or(0)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    length.parse().ok()
}

const OK: u32 = 0;
