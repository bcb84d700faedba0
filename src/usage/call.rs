//! [`Call`]: a request that was answered, to the end of the answer.

use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Response, StatusCode};

use crate::audit::{Deed, UnderWay};
use crate::body::{Body, Witness};
use crate::gate::Leave;
use crate::grpc::GRPC_STATUS;
use crate::rejection::Rejection;
use crate::render::is_answered_by;
use crate::usage::layer::UsageLayer;
use crate::usage::record::{End, Record, RecordId, Route};
use crate::usage::slot::UsageSlot;
use crate::usage::tally::{Answered, Tally};
use crate::usage::web::WebFrames;

/// The state of a request that is counted, until its response; `None` if it is counted elsewhere.
#[derive(Debug)]
pub struct UsageVisit(pub(super) Option<UsageSlot>);

impl<B: http_body::Body> Leave<B> for UsageLayer {
    fn leave(
        &self,
        mut visit: UsageVisit,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    ) {
        let Some(slot) = visit.0.take() else { return };
        let asked = slot.asked();
        let grpc_status = asked.is_grpc.then(|| grpc_status(response.headers()));
        let grpc_status = grpc_status.flatten();
        let refusal = refusal(rejection, response, grpc_status);
        let body = response.body();
        let has_content = has_content(&asked.method, response.status());
        let ends_here = !has_content || http_body::Body::is_end_stream(body);
        let length = has_content
            .then(|| {
                let exact = || http_body::Body::size_hint(body).exact();
                length(response.headers()).or_else(exact)
            })
            .flatten();
        if !slot.shared().has_readers {
            let refusal = refusal.map(Rejection::reason);
            // The trailers of a call may be yet to come.
            let length = length.filter(|length| *length > 0 && !asked.is_grpc);
            let tally = Tally::new(slot, refusal, length);
            if !ends_here {
                response.body_mut().watch(tally);
            }
            return;
        }
        let refusal = refusal.cloned();
        let mut call = Call::new(slot, grpc_status, refusal, response);
        call.length = length;
        if ends_here {
            call.reached = Some(call.to_headers);
            call.ended();
            return;
        }
        if call.length == Some(0) {
            // Nobody may ask for it.
            call.reached = Some(call.to_headers);
        }
        call.begin();
        response.body_mut().watch(call);
    }
}

impl UsageVisit {
    /// There will be no response.
    pub(super) fn end(&mut self, end: End) {
        let Some(slot) = self.0.take() else { return };
        count(&slot, Outcome::unanswered(end, slot.elapsed()));
    }
}

/// Given up before the response.
impl Drop for UsageVisit {
    fn drop(&mut self) {
        self.end(if thread::panicking() {
            End::ServiceError
        } else {
            End::Cancelled
        });
    }
}

/// What is known of a request that was answered, and whose answer has not ended.
struct Call {
    slot: UsageSlot,
    status: StatusCode,
    grpc_status: Option<u32>,
    /// The frames of the body, where they have the trailers.
    frames: Option<Box<WebFrames>>,
    refusal: Option<Rejection>,
    /// In the audit trail, if there is one.
    under_way: Option<UnderWay>,
    to_headers: Duration,
    bytes_out: u64,
    /// How long the body of the response is, if that is known.
    length: Option<u64>,
    /// When it was that long.
    reached: Option<Duration>,
    has_ended: bool,
}

impl Call {
    fn new<B>(
        slot: UsageSlot,
        grpc_status: Option<u32>,
        refusal: Option<Rejection>,
        response: &Response<B>,
    ) -> Self {
        let is_grpc = slot.asked().is_grpc;
        Self {
            to_headers: slot.elapsed(),
            slot,
            status: response.status(),
            grpc_status,
            frames: is_grpc.then(|| WebFrames::of(response.headers())).flatten(),
            refusal,
            under_way: None,
            bytes_out: 0,
            length: None,
            reached: None,
            has_ended: false,
        }
    }

    /// Has it written down that it is under way.
    fn begin(&mut self) {
        let (shared, asked) = (self.slot.shared(), self.slot.asked());
        let Some(audit) = shared.audit() else { return };
        let at = shared.at(asked.started.saturating_add(self.to_headers));
        self.under_way = self.slot.noted(|noted| {
            let said = self.refusal.as_ref();
            let refusal = said.or(noted.rejection.as_deref());
            let deed = Deed {
                client: asked.client,
                method: &asked.method,
                route: noted.route.as_ref(),
                status: Some(self.status),
                // As most of them end.
                grpc_status: self.grpc_status.or_else(|| asked.is_grpc.then_some(OK)),
                refusal: refusal.map(|rejection| (rejection.reason(), rejection.cause())),
                end: said.map_or(End::Complete, |_| End::Refused),
                at,
            };
            audit.begin(noted.caller.as_ref()?, &deed)
        });
    }

    /// Counts it, unless that was done.
    fn end(&mut self, end: End) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        let outcome = Outcome {
            status: Some(self.status),
            grpc_status: self.grpc_status,
            is_of_a_method: self.is_of_a_method(),
            rejection: self.refusal.take(),
            under_way: self.under_way.take(),
            end,
            bytes_out: self.bytes_out,
            to_headers: Some(self.to_headers),
            to_end: self.reached.take().unwrap_or_else(|| self.slot.elapsed()),
        };
        count(&self.slot, outcome);
    }

    /// Whether somebody is there who answers such calls: others may be refused before that is
    /// known.
    fn is_of_a_method(&self) -> bool {
        let has_message = match &self.frames {
            Some(frames) => frames.has_message,
            None => self.bytes_out > 0,
        };
        let has_answered = has_message || self.grpc_status == Some(OK);
        self.refusal.is_none() && self.grpc_status.is_some() && has_answered
    }
}

/// What has become of a request.
struct Outcome {
    status: Option<StatusCode>,
    grpc_status: Option<u32>,
    is_of_a_method: bool,
    rejection: Option<Rejection>,
    under_way: Option<UnderWay>,
    end: End,
    bytes_out: u64,
    to_headers: Option<Duration>,
    to_end: Duration,
}

impl Outcome {
    /// There was no answer.
    const fn unanswered(end: End, to_end: Duration) -> Self {
        Self {
            status: None,
            grpc_status: None,
            is_of_a_method: false,
            rejection: None,
            under_way: None,
            end,
            bytes_out: 0,
            to_headers: None,
            to_end,
        }
    }
}

/// Counts a request that has ended.
fn count(slot: &UsageSlot, outcome: Outcome) {
    let (shared, asked, mut noted) = (slot.shared(), slot.asked(), slot.end());
    if let Some(path) = noted.path.take().filter(|_| outcome.is_of_a_method)
        && let Some(method) = shared.routes.learn(&path)
    {
        noted.route = Some(Route::Named(method));
    }
    // What nobody was asked for was only announced.
    let was_asked_for = outcome.rejection.is_none() && outcome.status.is_some();
    let declared = if was_asked_for { asked.declared } else { 0 };
    let bytes_in = slot.bytes_in().unwrap_or(declared);
    let at = shared.at(asked.started.saturating_add(outcome.to_end));
    if !shared.has_readers {
        let answered = Answered {
            refusal: outcome.rejection.as_ref().map(Rejection::reason),
            was_asked_for,
            bytes_out: outcome.bytes_out,
            to_end: outcome.to_end,
        };
        return answered.count(slot, &noted);
    }
    let record = Record {
        id: RecordId::default(),
        at,
        identity: noted.caller,
        route: noted.route,
        status: outcome.status,
        is_grpc: asked.is_grpc,
        grpc_status: outcome.grpc_status,
        client: asked.client,
        end: match &outcome.rejection {
            Some(_) => End::Refused,
            None => outcome.end,
        },
        rejection: outcome.rejection,
        bytes_in,
        bytes_out: outcome.bytes_out,
        to_headers: outcome.to_headers,
        to_end: outcome.to_end,
        method: asked.method.clone(),
        version: asked.version,
        transport: asked.transport,
        requests: 1,
        names: Arc::clone(&shared.names),
        units: noted.units,
    };
    if let Some(audit) = shared.audit() {
        audit.note(&record, noted.rejection.as_deref(), outcome.under_way);
    }
    shared.record(&record, slot.address());
}

/// Given up in the midst of the body.
impl Drop for Call {
    fn drop(&mut self) {
        self.end(match self.reached {
            Some(_) => End::Complete,
            None if thread::panicking() => End::BodyError,
            None => End::Disconnected,
        });
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
        } else if is_whole && !self.slot.asked().is_grpc {
            self.end(End::Complete);
        } else if is_whole && self.reached.is_none() {
            // The trailers say how the call went, and may be yet to come.
            self.reached = Some(self.slot.elapsed());
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.slot.asked().is_grpc {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        }
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

fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Why it was refused, if that is what the response says: a layer between may have answered
/// otherwise, and left the rejection where it was.
#[cfg_attr(
    not(feature = "tonic"),
    expect(unused_variables, reason = "only a status of tonic has to be compared")
)]
fn refusal<'a, B>(
    own: Option<&'a Rejection>,
    response: &'a Response<B>,
    grpc_status: Option<u32>,
) -> Option<&'a Rejection> {
    let rejection = own.or_else(|| response.extensions().get::<Rejection>());
    let rejection = rejection.filter(|rejection| is_answered_by(response, rejection));
    #[cfg(feature = "tonic")]
    let rejection = rejection.or_else(|| {
        let of_handler = crate::tonic::rejection(response.extensions())?;
        let code = of_handler.reason().grpc_code() as u32;
        (grpc_status == Some(code)).then_some(of_handler)
    });
    rejection
}

/// RFC 9110 §6.4.1: whatever the fields say. What follows on an upgraded connection is no
/// content of the response.
fn has_content(method: &Method, status: StatusCode) -> bool {
    !(method == Method::HEAD
        || method == Method::CONNECT && status.is_success()
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED))
}

pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    length.parse().ok()
}

const OK: u32 = 0;
