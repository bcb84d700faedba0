//! [`Policy`]: one part of a stack, as the layers of this crate implement it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use http::Response;
use http::request::Parts;

use crate::body::Body;
use crate::context::Known;
use crate::pending::Pending;
use crate::rejection::Rejection;
use crate::render::Voice;

/// Decides about requests on their way in and sees the responses on their way out.
///
/// A policy is cheap to clone. A panic in [`enter`](Self::enter), in [`admit`](Self::admit) or in
/// a future that it waits for rejects the request with a 500. The other methods must not panic.
pub trait Policy: Clone + 'static {
    /// The place of the policy in a stack.
    const ROLE: Role = Role::Any;

    /// The result of a decision that may have to wait.
    type Pass: 'static;

    /// The state that is kept for a request from its admission to its response.
    ///
    /// It is dropped if there is no response: the request was cancelled or, if that is while a
    /// panic unwinds, the inner service has panicked. After an error of the inner service it goes to
    /// [`failed`](Self::failed).
    type Visit: 'static;

    /// Called for each service that the layer makes.
    #[track_caller]
    fn install(&self) {}

    /// Decides about a request, now or later.
    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<Self::Pass, Rejection>>;

    /// Admits the request after a wait, if there was one, or rejects it after all.
    fn admit(&self, call: &mut Call<'_>, pass: Self::Pass) -> Result<Self::Visit, Rejection>;

    /// Completes a rejection and returns what renders it, if that is up to this policy.
    ///
    /// Called for the policy that has rejected the request, without a visit, and then for those
    /// around it, the innermost first, until one returns `Some`.
    fn renderer(&self, _visit: Option<&Self::Visit>, _rejection: &mut Rejection) -> Option<&Voice> {
        None
    }

    /// Returns what renders rejections that no [`renderer`](Self::renderer) renders.
    fn fallback_renderer(&self) -> Option<&Voice> {
        None
    }

    /// Wraps the body of a request that all policies of the stack have admitted.
    fn carry<B: 'static>(&self, _visit: &Self::Visit, body: B) -> B {
        body
    }

    /// Called as soon as the request may wait: after `inner.call` returns, or before the stack does.
    fn time_goes_on(&self, _visit: &Self::Visit) {}

    /// Called in place of [`Leave::leave`] if the inner service returned an error.
    fn failed(&self, _visit: Self::Visit) {}
}

/// The way out of a [`Policy`], for responses with the body `B`.
pub trait Leave<B>: Policy {
    /// Sees the response to a request that this policy has admitted. `rejection` is that of a
    /// policy of the stack inside of this one.
    fn leave(
        &self,
        visit: Self::Visit,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    );
}

/// A request on its way through a stack.
pub struct Call<'a> {
    pub(crate) parts: &'a mut Parts,
    pub(crate) known: &'a mut Known,
}

/// Without the request: it may have a credential in it.
impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// The part of a policy in identifying the caller, which decides where it can be in a stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Identifies the caller.
    Authenticates,
    /// Needs to know the caller.
    Authorizes,
    /// Fits anywhere.
    Any,
}

/// Runs code that may call a user's code. A panic becomes the rejection of the request; what it
/// leaves half done is dropped with the request.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Rejection> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Rejection::panicked())
}
