//! The headers that an [`AuthLayer`](crate::AuthLayer) adds to responses.

use std::fmt;
use std::sync::Arc;

use http::header::{CACHE_CONTROL, Entry, VARY};
use http::{HeaderMap, HeaderValue, Response};

use crate::auth::authenticate::Authenticate;
use crate::auth::layer::AuthLayer;
use crate::body::Body;
use crate::clock::Timestamp;
use crate::credential::Scheme;
use crate::gate::Leave;
use crate::rejection::Rejection;
use crate::respond::CREDENTIAL_EXPIRATION;

/// The state of a request that was admitted, until its response.
pub struct DoorVisit {
    pub(super) scheme: Option<Scheme>,
    pub(super) source: Option<usize>,
    pub(super) request_id: Option<Arc<str>>,
    /// The end of the credential, if the response names it.
    pub(super) expiration: Option<Timestamp>,
    pub(super) head: bool,
}

impl fmt::Debug for DoorVisit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorVisit")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl<A: Authenticate, B> Leave<B> for AuthLayer<A> {
    fn leave(
        &self,
        visit: DoorVisit,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    ) {
        if rejection.is_none() {
            let voice = &self.door.voice;
            voice.speak_for_inner(response, visit.scheme, visit.request_id, visit.head);
        }
        if let Some(end) = visit.expiration
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(end.into()))
        {
            response.headers_mut().insert(CREDENTIAL_EXPIRATION, date);
        }
        let headers = response.headers_mut();
        match visit.source {
            Some(source) if self.door.sources[source].is_authorization() => {}
            Some(source) => keep_caches_off(headers, self.door.varies_by[source].as_ref()),
            // With a credential, the same request could have had another answer.
            None => self
                .door
                .varies_when_anonymous()
                .for_each(|field| vary_by(headers, &field)),
        }
    }
}

/// RFC 9111 protects answers to `Authorization` only.
fn keep_caches_off(headers: &mut HeaderMap, varies_by: Option<&HeaderValue>) {
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    if let Some(field) = varies_by {
        vary_by(headers, field);
    }
}

fn vary_by(headers: &mut HeaderMap, field: &HeaderValue) {
    let names_it = |line: &HeaderValue| {
        line.as_bytes().split(|byte| *byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(field.as_bytes())
        })
    };
    match headers.entry(VARY) {
        Entry::Occupied(mut lines) => {
            if !lines.iter().any(names_it) {
                lines.append(field.clone());
            }
        }
        Entry::Vacant(place) => {
            place.insert(field.clone());
        }
    }
}
