//! [`Policies`]: several policies as one, in order. A layer alone is a stack of one.

use std::fmt;
use std::mem;
use std::task::{Context, Poll};

use http::Response;

use crate::body::Body;
use crate::gate::policy::{Call, Leave, Policy, Role};
use crate::pending::Pending;
use crate::rejection::Rejection;
use crate::render::Voice;

/// One policy or several: a layer of this crate, a tuple of up to eight of these, an `Option` of either,
/// or `()`. The first one is the outermost.
///
/// This trait is sealed.
pub trait Policies: 'static {
    /// The progress of a request, with the state that each policy keeps about it.
    #[doc(hidden)]
    type Visits: Default + 'static;

    #[doc(hidden)]
    const ORDER: Order;

    #[doc(hidden)]
    #[track_caller]
    fn install(&self);

    /// Takes a request in as far as possible without waiting. To be called again, with a context,
    /// while it returns `Pending`.
    #[doc(hidden)]
    fn enter(
        &self,
        visits: &mut Self::Visits,
        call: &mut Call<'_>,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<(), Rejection>>;

    #[doc(hidden)]
    fn renderer(&self, visits: &Self::Visits, rejection: &mut Rejection) -> Option<&Voice>;

    #[doc(hidden)]
    fn fallback_renderer(&self) -> Option<&Voice>;

    #[doc(hidden)]
    fn carry<B: 'static>(&self, visits: &Self::Visits, body: B) -> B;

    #[doc(hidden)]
    fn time_goes_on(&self, visits: &Self::Visits);

    #[doc(hidden)]
    fn failed(&self, visits: &mut Self::Visits);
}

/// [`Policies`] that can take a response with the body `B`.
///
/// This trait is sealed.
pub trait PoliciesFor<B>: Policies {
    /// Lets the policies that have admitted the request see the response, the innermost first.
    #[doc(hidden)]
    fn leave(
        &self,
        visits: &mut Self::Visits,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    );
}

/// Where a request is with regard to one policy.
#[derive(Default)]
pub enum Visit<P: Policy> {
    /// It has not come to it, or has left it.
    #[default]
    Outside,
    /// The policy decides, or has rejected the request, or has panicked.
    Deciding,
    /// The policy decides later.
    Waiting(Pending<Result<P::Pass, Rejection>>),
    /// The policy has admitted the request, and keeps this about it.
    Inside(P::Visit),
}

impl<P: Policy> fmt::Debug for Visit<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visit")
    }
}

impl<P: Policy> Policies for P {
    type Visits = Visit<P>;

    const ORDER: Order = Order::of(P::ROLE);

    #[track_caller]
    fn install(&self) {
        Policy::install(self);
    }

    fn enter(
        &self,
        visit: &mut Visit<P>,
        call: &mut Call<'_>,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<(), Rejection>> {
        let decided = match mem::replace(visit, Visit::Deciding) {
            inside @ Visit::Inside(_) => {
                *visit = inside;
                return Poll::Ready(Ok(()));
            }
            Visit::Outside | Visit::Deciding => Policy::enter(self, call),
            Visit::Waiting(pending) => pending,
        };
        let decided = match (decided, cx) {
            (Pending::Ready(decided), _) => decided,
            (pending, None) => {
                *visit = Visit::Waiting(pending);
                return Poll::Pending;
            }
            (pending, Some(cx)) => match pending.poll_once(cx) {
                Ok(decided) => decided,
                Err(pending) => {
                    *visit = Visit::Waiting(pending);
                    return Poll::Pending;
                }
            },
        };
        *visit = Visit::Inside(self.admit(call, decided?)?);
        Poll::Ready(Ok(()))
    }

    fn renderer(&self, visit: &Visit<P>, rejection: &mut Rejection) -> Option<&Voice> {
        match visit {
            Visit::Outside => None,
            Visit::Deciding | Visit::Waiting(_) => Policy::renderer(self, None, rejection),
            Visit::Inside(visit) => Policy::renderer(self, Some(visit), rejection),
        }
    }

    fn fallback_renderer(&self) -> Option<&Voice> {
        Policy::fallback_renderer(self)
    }

    fn carry<B: 'static>(&self, visit: &Visit<P>, body: B) -> B {
        match visit {
            Visit::Inside(visit) => Policy::carry(self, visit, body),
            _ => body,
        }
    }

    fn time_goes_on(&self, visit: &Visit<P>) {
        if let Visit::Inside(visit) = visit {
            Policy::time_goes_on(self, visit);
        }
    }

    fn failed(&self, visit: &mut Visit<P>) {
        if let Visit::Inside(visit) = mem::take(visit) {
            Policy::failed(self, visit);
        }
    }
}

impl<P: Leave<B>, B> PoliciesFor<B> for P {
    fn leave(
        &self,
        visit: &mut Visit<P>,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    ) {
        if let Visit::Inside(visit) = mem::take(visit) {
            Leave::leave(self, visit, rejection, response);
        }
    }
}

/// `None` lets every request pass.
impl<P: Policies> Policies for Option<P> {
    type Visits = P::Visits;

    const ORDER: Order = P::ORDER;

    #[track_caller]
    fn install(&self) {
        if let Some(policies) = self {
            policies.install();
        }
    }

    fn enter(
        &self,
        visits: &mut Self::Visits,
        call: &mut Call<'_>,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<Result<(), Rejection>> {
        match self {
            Some(policies) => policies.enter(visits, call, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn renderer(&self, visits: &Self::Visits, rejection: &mut Rejection) -> Option<&Voice> {
        self.as_ref()?.renderer(visits, rejection)
    }

    fn fallback_renderer(&self) -> Option<&Voice> {
        self.as_ref()?.fallback_renderer()
    }

    fn carry<B: 'static>(&self, visits: &Self::Visits, body: B) -> B {
        match self {
            Some(policies) => policies.carry(visits, body),
            None => body,
        }
    }

    fn time_goes_on(&self, visits: &Self::Visits) {
        if let Some(policies) = self {
            policies.time_goes_on(visits);
        }
    }

    fn failed(&self, visits: &mut Self::Visits) {
        if let Some(policies) = self {
            policies.failed(visits);
        }
    }
}

impl<P: PoliciesFor<B>, B> PoliciesFor<B> for Option<P> {
    fn leave(
        &self,
        visits: &mut P::Visits,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    ) {
        if let Some(policies) = self {
            policies.leave(visits, rejection, response);
        }
    }
}

/// Lets every request pass.
impl Policies for () {
    type Visits = ();

    const ORDER: Order = Order::EMPTY;

    fn install(&self) {}

    fn enter(
        &self,
        (): &mut (),
        _: &mut Call<'_>,
        _: Option<&mut Context<'_>>,
    ) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn renderer(&self, (): &(), _: &mut Rejection) -> Option<&Voice> {
        None
    }

    fn fallback_renderer(&self) -> Option<&Voice> {
        None
    }

    fn carry<B: 'static>(&self, (): &(), body: B) -> B {
        body
    }

    fn time_goes_on(&self, (): &()) {}

    fn failed(&self, (): &mut ()) {}
}

impl<B> PoliciesFor<B> for () {
    fn leave(&self, (): &mut (), _: Option<&Rejection>, _: &mut Response<Body<B>>) {}
}

/// The first argument lists the tuple from the outside in, the second from the inside out.
macro_rules! tuple {
    ($($name:ident $at:tt),+; $($inner:tt),+) => {
        impl<$($name: Policies),+> Policies for ($($name,)+) {
            type Visits = ($($name::Visits,)+);

            const ORDER: Order = Order::EMPTY$(.then($name::ORDER))+;

            #[track_caller]
            fn install(&self) {
                $(self.$at.install();)+
            }

            fn enter(
                &self,
                visits: &mut Self::Visits,
                call: &mut Call<'_>,
                mut cx: Option<&mut Context<'_>>,
            ) -> Poll<Result<(), Rejection>> {
                $(match self.$at.enter(&mut visits.$at, call, cx.as_deref_mut()) {
                    Poll::Ready(Ok(())) => {}
                    other => return other,
                })+
                Poll::Ready(Ok(()))
            }

            fn renderer(&self, visits: &Self::Visits, rejection: &mut Rejection) -> Option<&Voice> {
                $(if let Some(voice) = self.$inner.renderer(&visits.$inner, rejection) {
                    return Some(voice);
                })+
                None
            }

            fn fallback_renderer(&self) -> Option<&Voice> {
                None$(.or_else(|| self.$at.fallback_renderer()))+
            }

            fn carry<Body: 'static>(&self, visits: &Self::Visits, body: Body) -> Body {
                $(let body = self.$at.carry(&visits.$at, body);)+
                body
            }

            fn time_goes_on(&self, visits: &Self::Visits) {
                $(self.$inner.time_goes_on(&visits.$inner);)+
            }

            fn failed(&self, visits: &mut Self::Visits) {
                $(self.$inner.failed(&mut visits.$inner);)+
            }
        }

        impl<R, $($name: PoliciesFor<R>),+> PoliciesFor<R> for ($($name,)+) {
            fn leave(
                &self,
                visits: &mut Self::Visits,
                rejection: Option<&Rejection>,
                response: &mut Response<Body<R>>,
            ) {
                $(self.$inner.leave(&mut visits.$inner, rejection, response);)+
            }
        }
    };
}

tuple!(A 0; 0);
tuple!(A 0, B 1; 1, 0);
tuple!(A 0, B 1, C 2; 2, 1, 0);
tuple!(A 0, B 1, C 2, D 3; 3, 2, 1, 0);
tuple!(A 0, B 1, C 2, D 3, E 4; 4, 3, 2, 1, 0);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5; 5, 4, 3, 2, 1, 0);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6; 6, 5, 4, 3, 2, 1, 0);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7; 7, 6, 5, 4, 3, 2, 1, 0);

/// Which policies a stack has, as far as their order matters.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    authenticates: bool,
    /// A policy needs to know the caller and is not inside of one that authenticates.
    needs_caller: bool,
    /// Authentication is inside of a policy that needs to know the caller.
    is_wrong: bool,
}

impl Order {
    const EMPTY: Self = Self::of(Role::Any);

    const fn of(role: Role) -> Self {
        Self {
            authenticates: matches!(role, Role::Authenticates),
            needs_caller: matches!(role, Role::Authorizes),
            is_wrong: false,
        }
    }

    /// Puts the other policies inside of these.
    const fn then(self, inner: Self) -> Self {
        Self {
            authenticates: self.authenticates || inner.authenticates,
            needs_caller: self.needs_caller || (inner.needs_caller && !self.authenticates),
            is_wrong: self.is_wrong
                || (inner.is_wrong && !self.authenticates)
                || (self.needs_caller && inner.authenticates),
        }
    }

    /// Returns whether authentication comes before all that needs it, or is elsewhere.
    pub(crate) const fn is_valid(self) -> bool {
        !self.is_wrong
    }
}
