//! What the gates tell each other through the extensions of a request.

use std::sync::Arc;

use http::{Extensions, Method};

use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::rejection::{Cause, Reason, Rejection};
use crate::usage::UsageSlot;

/// Stands in the extensions of a request that a door let through without a
/// credential.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tonic"),
    expect(
        dead_code,
        reason = "only a method of tonic answers in place of a door"
    )
)]
pub(crate) struct Anonymous {
    /// It is a CORS preflight, which nobody can show a credential with.
    pub(crate) preflight: bool,
    /// How the door would have refused it, for those who have to in its place.
    pub(crate) realm: Arc<str>,
    pub(crate) request_id: Option<Arc<str>>,
}

/// Whether a door let the request through as a CORS preflight.
pub(crate) fn is_preflight(extensions: &Extensions) -> bool {
    let anonymous = extensions.get::<Anonymous>();
    anonymous.is_some_and(|anonymous| anonymous.preflight)
}

/// Whether a door let the request through without a credential.
pub(crate) fn is_anonymous(extensions: &Extensions) -> bool {
    extensions.get::<Anonymous>().is_some()
}

/// Returns whether an `AuthLayer` outside has decided on the request.
pub(crate) fn is_decided(extensions: &Extensions) -> bool {
    extensions.get::<Identity>().is_some() || is_anonymous(extensions)
}

/// Who calls, as the door outside has found out.
///
/// # Errors
/// A refusal: of the caller, if the door let them in without a credential, or of the
/// request, if there is no door. `who_asks` names the one who needs to know.
pub(crate) fn caller<'a>(
    extensions: &'a Extensions,
    who_asks: &str,
) -> Result<&'a Identity, Rejection> {
    if let Some(identity) = extensions.get::<Identity>() {
        return Ok(identity);
    }
    if extensions.get::<Anonymous>().is_none() {
        let fix = format!("{who_asks} found no Identity in the request: put an AuthLayer outside");
        return Err(Rejection::misconfigured(&fix));
    }
    Err(Rejection::new(
        Reason::CredentialsMissing,
        Cause::NothingShown,
    ))
}

/// Whether a method is one of RFC 9110 §9.3, or `PATCH`: clients can make up any other.
pub(crate) fn is_standard(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::CONNECT
            | Method::TRACE
    )
}

/// Tells who counts, outside, who calls.
pub(crate) fn note_caller(extensions: &Extensions, caller: &Identity) {
    if let Some(slot) = extensions.get::<UsageSlot>() {
        slot.note(caller);
    }
}

/// Tells who writes down, outside, that a gate has refused.
pub(crate) fn note_rejection(extensions: &Extensions, rejection: &Rejection) {
    if let Some(slot) = extensions.get::<UsageSlot>() {
        slot.note_rejection(rejection);
    }
}

/// Whether somebody outside writes down what is refused.
pub(crate) fn is_audited(extensions: &Extensions) -> bool {
    let slot = extensions.get::<UsageSlot>();
    slot.is_some_and(UsageSlot::is_audited)
}

/// The time of day, as one who counts outside has asked for it a moment ago; none if anybody
/// may have waited since.
pub(crate) fn now(extensions: &Extensions) -> Option<Timestamp> {
    extensions.get::<UsageSlot>()?.now()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::UsageLayer;
    use crate::clock::{Clock, ManualClock, SystemClock};
    use crate::usage::Usage;

    /// The time that is shared in the call of a service, and when it has waited.
    async fn shared_times(usage: Usage) -> (Option<Timestamp>, Option<Timestamp>) {
        let (tell, told) = std::sync::mpsc::channel();
        let service = service_fn(move |request: Request<()>| {
            let (tell, at_once) = (tell.clone(), now(request.extensions()));
            async move {
                let later = now(request.extensions());
                tell.send((at_once, later)).unwrap();
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        let service = UsageLayer::new(usage).layer(service);
        service.oneshot(Request::new(())).await.unwrap();
        told.recv().unwrap()
    }

    #[tokio::test]
    async fn a_time_is_shared_with_who_is_called_at_once_and_with_nobody_who_may_have_waited() {
        let before = SystemClock.now();
        let (at_once, later) = shared_times(Usage::new()).await;
        let second = std::time::Duration::from_secs(1);
        let at_once = at_once.unwrap();
        assert!(at_once.since(before) < second && before.since(at_once) < second);
        assert_eq!(later, None);
    }

    #[tokio::test]
    async fn the_time_of_a_clock_that_was_set_is_shared_with_nobody() {
        let clock = ManualClock::new(Timestamp::EPOCH);
        let usage = Usage::builder().clock(clock).build();
        assert_eq!(shared_times(usage).await, (None, None));
    }
}
