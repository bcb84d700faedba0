//! What a [`RateLimitLayer`](crate::limit::RateLimitLayer) makes of a request, and of its
//! response.

use http::{HeaderMap, Response};

use crate::body::Body;
use crate::config::literal;
use crate::context::{self, Known};
use crate::gate::{Call, Leave, Policy, caught};
use crate::grpc::{Dialect, is_server_error};
use crate::identity::Identity;
use crate::limit::fields::Fields;
use crate::limit::layer::{Choice, Limit, RateLimitLayer};
use crate::limit::limiter::{Decision, Limiter, LimiterUnavailable, Verdict};
use crate::limit::quotas::Quotas;
use crate::limit::standing::{PassedLimit, Standing, write_headers};
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

/// What a request was let through with; nothing if nothing limits it.
#[derive(Debug)]
pub struct Paid(Option<Receipt>);

#[derive(Debug)]
struct Receipt {
    standing: Standing,
    fields: Fields,
}

impl<L: Limiter> Policy for RateLimitLayer<L> {
    type Pass = Paid;
    type Visit = LimitVisit;

    #[track_caller]
    fn install(&self) {
        let limit = &*self.limit;
        if let Some(names) = limit.limiter.layer_names() {
            literal(names.claim(&limit.name, &limit.id, limit.shares_budgets));
        }
    }

    fn enter(&self, call: &mut Call<'_>) -> Pending<Result<Paid, Rejection>> {
        let (limit, parts) = (&*self.limit, &mut *call.parts);
        limit.clients.share(parts);
        let identity = parts.extensions.get::<Identity>();
        let quotas = match &limit.quotas {
            _ if identity.is_none() && context::is_preflight(&parts.extensions) => None,
            Choice::Fixed(quotas) => Some(quotas.clone()),
            Choice::Plans(plans) => plans.of(identity.and_then(Identity::plan)),
            Choice::Function(choose) => choose(identity, parts),
        };
        let Some(quotas) = quotas else {
            return Ok(Paid(None)).into();
        };
        let cost = limit.cost.as_ref().map_or(1, |cost| cost(parts));
        let now = match &limit.clock {
            Some(clock) => clock.now(),
            None => call.known.now(&parts.extensions),
        };
        let taken = limit.key.with(parts, &limit.clients, LAYER, |key| {
            limit.limiter.take(&limit.key_of(key), &quotas, cost, now)
        });
        let fields = match Dialect::of(parts) {
            Dialect::Http => limit.fields,
            Dialect::Grpc(_) => Fields::Off,
        };
        let conclude = move |taken| conclude(taken, quotas, cost, fields);
        match taken {
            Ok(Pending::Ready(taken)) => conclude(taken).into(),
            Ok(Pending::Later(taken)) => Pending::later(async move { conclude(taken.await) }),
            Err(rejection) => Err(rejection).into(),
        }
    }

    fn admit(&self, call: &mut Call<'_>, pass: Paid) -> Result<LimitVisit, Rejection> {
        let writes = matches!(&pass.0, Some(receipt) if receipt.fields != Fields::Off);
        Ok(LimitVisit {
            receipt: pass.0,
            has_outer: writes && call.parts.extensions.insert(PassedLimit).is_some(),
        })
    }
}

fn conclude(
    taken: Result<Decision, LimiterUnavailable>,
    quotas: Quotas,
    cost: u32,
    fields: Fields,
) -> Result<Paid, Rejection> {
    let Ok(decision) = taken else {
        let (reason, cause) = (Reason::LimiterUnavailable, Cause::LimiterUnavailable);
        return Err(Rejection::new(reason, cause));
    };
    let verdict = match decision.verdict {
        // Who asks for nothing is refused nothing, in debt or not.
        Verdict::Refused { .. } if cost == 0 => Verdict::Admitted,
        verdict => verdict,
    };
    let (violated, wait, cause) = match verdict {
        Verdict::Admitted => {
            let standing = Standing {
                quotas,
                decision,
                cost,
            };
            return Ok(Paid(Some(Receipt { standing, fields })));
        }
        // More than can ever be there: there is nothing to wait for.
        Verdict::Refused {
            violated,
            wait: None,
        } => (violated, None, Cause::CostTooHigh),
        Verdict::Refused { violated, wait } => (violated, wait, Cause::QuotaExceeded),
        Verdict::Banned { wait } => (0, Some(wait), Cause::Banned),
    };
    let mut rejection = Rejection::new(Reason::RateLimited, cause);
    if violated != 0 {
        rejection = rejection.with_violated(quotas.named(violated));
    }
    if let Some(wait) = wait {
        rejection = rejection.with_retry_after(wait);
    }
    if fields != Fields::Off {
        let mut headers = HeaderMap::with_capacity(2);
        let standing = Standing {
            quotas,
            decision,
            cost,
        };
        fields.write(&mut headers, &standing);
        rejection = rejection.with_fields(headers);
    }
    Err(rejection)
}

/// The state of a request that was admitted, until its response.
#[derive(Debug)]
pub struct LimitVisit {
    receipt: Option<Receipt>,
    /// A limit outside writes headers, too.
    has_outer: bool,
}

impl<L: Limiter, B> Leave<B> for RateLimitLayer<L> {
    fn leave(&self, visit: LimitVisit, _: &Known, response: &mut Response<Body<B>>) {
        let Some(Receipt { standing, fields }) = visit.receipt else {
            return;
        };
        // The answer is there, whatever becomes of this: the panic has been reported.
        let _ = caught(|| settle(&self.limit, &standing, response));
        write_headers(response, standing, fields, visit.has_outer);
    }
}

/// Makes up for what was charged before it was known.
fn settle<L: Limiter, B>(limit: &Limit<L>, paid: &Standing, response: &Response<B>) {
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
    let settled = limit.limiter.settle(ticket, &paid.quotas, difference, now);
    if let Pending::Later(settled) = settled {
        // The client does not wait for it. Without a runtime there is nobody to do it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(settled);
        }
    }
}

/// For the log event of a request without an identity.
const LAYER: &str = "RateLimitLayer";
