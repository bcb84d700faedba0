//! What a [`RateLimitLayer`](crate::limit::RateLimitLayer) makes of a request, and of its
//! response.

use http::Response;

use crate::body::Body;
use crate::config::literal;
use crate::context;
use crate::gate::{Call, Leave, Policy, caught};
use crate::grpc::{Dialect, is_server_error};
use crate::identity::Identity;
use crate::limit::fields::Fields;
use crate::limit::layer::{Choice, Limit, RateLimitLayer};
use crate::limit::limiter::{Decision, Limiter, LimiterUnavailable, Verdict};
use crate::limit::quotas::Quotas;
use crate::limit::standing::{Standing, write_headers};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};

/// What a request has cost, as its handler knows it afterwards: put it into the extensions of
/// the response. What was charged before is made up to it, in either direction, by each limit
/// that has a [`cost`](crate::limit::RateLimitLayer::cost). One that has none counts requests,
/// and goes on to.
///
/// ```
/// use axum::response::IntoResponse;
/// use tollgate::limit::Cost;
///
/// async fn complete() -> impl IntoResponse {
///     let (text, tokens) = ("…", 812);
///     (axum::Extension(Cost(tokens)), text)
/// }
/// # axum::Router::<()>::new().route("/", axum::routing::get(complete));
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "it is what it is named")]
pub struct Cost(pub u32);

/// The decision of the limiter about a request; `None` if nothing limits it.
#[derive(Debug)]
pub struct Taken(Option<Charge>);

#[derive(Debug)]
struct Charge {
    decision: Result<Decision, LimiterUnavailable>,
    /// `None`: the fixed ones of the layer.
    quotas: Option<Quotas>,
    cost: u32,
}

/// The decision that has admitted a request.
#[derive(Debug)]
struct Receipt {
    decision: Decision,
    quotas: Option<Quotas>,
    cost: u32,
    fields: Fields,
}

impl<L: Limiter> Policy for RateLimitLayer<L> {
    type Pass = Taken;
    type Visit = LimitVisit;

    #[track_caller]
    fn install(&self) {
        let limit = &*self.limit;
        if let Some(names) = limit.limiter.layer_names() {
            literal(names.claim(&limit.name, &limit.id, limit.shares_budgets));
        }
    }

    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<Taken, Rejection>> {
        let (limit, parts) = (&*self.limit, &mut *call.parts);
        limit.clients.share(parts);
        let identity = parts.extensions.get::<Identity>();
        if identity.is_none() && context::is_preflight(&parts.extensions) {
            return Ok(Taken(None)).into();
        }
        let chosen = match &limit.quotas {
            Choice::Fixed(_) => None,
            Choice::Plans(plans) => plans.of(identity.and_then(Identity::plan)),
            Choice::Function(choose) => choose(identity, parts),
        };
        let Some(quotas) = limit.quotas_of(chosen.as_ref()) else {
            return Ok(Taken(None)).into();
        };
        let cost = limit.cost.as_ref().map_or(1, |cost| cost(parts));
        let now = match &limit.clock {
            Some(clock) => clock.now(),
            None => call.known.now(&parts.extensions),
        };
        let taken = limit.key.with(parts, &limit.clients, LAYER, |key| {
            limit.limiter.take(&limit.key_of(key), quotas, cost, now)
        });
        let charge = move |decision| {
            Ok(Taken(Some(Charge {
                decision,
                quotas: chosen,
                cost,
            })))
        };
        match taken {
            Ok(Pending::Ready(decision)) => charge(decision).into(),
            Ok(Pending::Later(decision)) => Pending::later(async move { charge(decision.await) }),
            Err(rejection) => Err(rejection).into(),
        }
    }

    fn admit(&self, call: &mut Call<'_>, taken: Taken) -> Result<LimitVisit, Rejection> {
        let Some(charge) = taken.0 else {
            return Ok(LimitVisit {
                receipt: None,
                has_outer: false,
            });
        };
        let fields = match Dialect::of(call.parts) {
            Dialect::Http => self.limit.fields,
            Dialect::Grpc(_) => Fields::Off,
        };
        let receipt = self.limit.conclude(charge, fields)?;
        let has_outer = fields != Fields::Off && context::pass_limit(&mut call.parts.extensions);
        call.known.limits |= fields != Fields::Off;
        call.known.is_inside |= has_outer;
        Ok(LimitVisit {
            receipt: Some(receipt),
            has_outer,
        })
    }
}

impl<L> Limit<L> {
    /// Returns the quotas of a request, if there are any.
    fn quotas_of<'a>(&'a self, chosen: Option<&'a Quotas>) -> Option<&'a Quotas> {
        match &self.quotas {
            Choice::Fixed(quotas) => Some(quotas),
            Choice::Plans(_) | Choice::Function(_) => chosen,
        }
    }

    fn conclude(&self, charge: Charge, fields: Fields) -> Result<Receipt, Rejection> {
        let Charge {
            decision,
            quotas,
            cost,
        } = charge;
        let Ok(decision) = decision else {
            let (reason, cause) = (Reason::LimiterUnavailable, Cause::LimiterUnavailable);
            return Err(Rejection::new(reason, cause));
        };
        let (violated, wait, cause) = match decision.verdict {
            // A request that costs nothing is admitted, in debt or not.
            Verdict::Refused { .. } if cost == 0 => (0, None, None),
            Verdict::Admitted => (0, None, None),
            // More than can ever be there: there is nothing to wait for.
            Verdict::Refused {
                violated,
                wait: None,
            } => (violated, None, Some(Cause::CostTooHigh)),
            Verdict::Refused { violated, wait } => (violated, wait, Some(Cause::QuotaExceeded)),
            Verdict::Banned { wait } => (0, Some(wait), Some(Cause::Banned)),
        };
        let Some(cause) = cause else {
            return Ok(Receipt {
                decision,
                quotas,
                cost,
                fields,
            });
        };
        let mut rejection = Rejection::new(Reason::RateLimited, cause);
        let Some(quotas) = self.quotas_of(quotas.as_ref()) else {
            return Err(rejection);
        };
        if violated != 0 {
            rejection = rejection.with_violated(quotas.named(violated));
        }
        if let Some(wait) = wait {
            rejection = rejection.with_retry_after(wait);
        }
        if fields != Fields::Off {
            let standing = Standing {
                quotas,
                decision: &decision,
                cost,
            };
            rejection = rejection.with_fields(fields.list(standing));
        }
        Err(rejection)
    }
}

/// The state of a request that was admitted, until its response.
#[derive(Debug)]
pub struct LimitVisit {
    receipt: Option<Receipt>,
    /// A limit outside writes headers, too.
    has_outer: bool,
}

impl<L: Limiter, B> Leave<B> for RateLimitLayer<L> {
    fn leave(
        &self,
        visit: LimitVisit,
        rejection: Option<&Rejection>,
        response: &mut Response<Body<B>>,
    ) {
        let Some(receipt) = &visit.receipt else {
            return;
        };
        let Some(quotas) = self.limit.quotas_of(receipt.quotas.as_ref()) else {
            return;
        };
        let standing = Standing {
            quotas,
            decision: &receipt.decision,
            cost: receipt.cost,
        };
        // The answer is there, whatever becomes of this: the panic has been reported.
        let _ = caught(|| settle(&self.limit, standing, response));
        write_headers(
            response,
            rejection,
            standing,
            receipt.fields,
            visit.has_outer,
        );
    }
}

/// Makes up for what was charged before it was known.
fn settle<L: Limiter, B>(limit: &Limit<L>, paid: Standing<'_>, response: &Response<B>) {
    let has_failed = || response.status().is_server_error() || is_server_error(response.headers());
    let owed = match response.extensions().get::<Cost>() {
        _ if limit.refund_server_errors && has_failed() => 0,
        Some(Cost(cost)) if limit.cost.is_some() => i64::from(*cost),
        _ => return,
    };
    let difference = owed - i64::from(paid.cost);
    if difference == 0 {
        return;
    }
    let (ticket, now) = (paid.decision.ticket, limit.now());
    let settled = limit.limiter.settle(ticket, paid.quotas, difference, now);
    if let Pending::Later(settled) = settled {
        // The client does not wait for it. Without a runtime there is nobody to do it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(settled);
        }
    }
}

/// For the log event of a request without an identity.
const LAYER: &str = "RateLimitLayer";
