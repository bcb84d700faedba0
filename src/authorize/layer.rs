//! [`RequireLayer`], and the check that it makes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "axum")]
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::authorize::policy::{Decision, Policy};
use crate::authorize::requirement::{Hierarchy, Requirement};
use crate::authorize::rules::{Rules, Ruling};
use crate::clock::Timestamp;
use crate::context::{caller, is_preflight};
use crate::gate::{Check, Gate};
use crate::identity::{Identity, IdentityField};
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection};
use crate::respond::Voice;
use crate::scope::ScopeSet;

/// The layer that requires something of the caller: see the
/// [module](crate::authorize).
#[derive(Clone)]
pub struct RequireLayer {
    rule: Arc<Rule>,
}

#[derive(Clone)]
struct Rule {
    required: Required,
    policies: Vec<Policy>,
    hinted_at_nesting: Arc<AtomicBool>,
}

/// What a [`RequireLayer`] requires: a [`Requirement`] of all requests, or [`Rules`] that
/// tell them apart.
#[derive(Clone, Debug)]
pub struct Required(What);

#[derive(Clone, Debug)]
enum What {
    Always(Requirement),
    ByRoute(Box<Rules>),
}

impl<R: Into<Requirement>> From<R> for Required {
    fn from(requirement: R) -> Self {
        Self(What::Always(requirement.into()))
    }
}

impl From<Rules> for Required {
    fn from(rules: Rules) -> Self {
        Self(What::ByRoute(Box::new(rules)))
    }
}

impl RequireLayer {
    /// Lets pass who meets the requirement, or that of the route if these are [`Rules`].
    pub fn new(required: impl Into<Required>) -> Self {
        let rule = Rule {
            required: required.into(),
            policies: Vec::new(),
            hinted_at_nesting: Arc::default(),
        };
        Self {
            rule: Arc::new(rule),
        }
    }

    /// Lets scopes grant others.
    #[must_use]
    pub fn hierarchy(self, hierarchy: &Hierarchy) -> Self {
        self.set(|rule| {
            rule.required.0 = match rule.required.0.clone() {
                What::Always(requirement) => What::Always(requirement.under(hierarchy)),
                What::ByRoute(rules) => What::ByRoute(Box::new(rules.under(hierarchy))),
            }
        })
    }

    /// Asks a policy too, about callers who meet the requirement; not where a rule is
    /// public. With several, all must allow, and the first that does not answers.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        self.set(|rule| rule.policies.push(policy))
    }

    fn set(mut self, change: impl FnOnce(&mut Rule)) -> Self {
        change(Arc::make_mut(&mut self.rule));
        self
    }
}

impl fmt::Debug for RequireLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer")
            .field("required", &self.rule.required.0)
            .field("policies", &self.rule.policies)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RequireLayer {
    type Service = Gate<S, Require>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(
            inner,
            Require {
                rule: Arc::clone(&self.rule),
            },
        )
    }
}

/// The check of a [`RequireLayer`].
#[derive(Clone)]
pub struct Require {
    rule: Arc<Rule>,
}

impl fmt::Debug for Require {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Require")
            .field("required", &self.rule.required.0)
            .finish()
    }
}

impl Check for Require {
    type Pass = ();
    type Stamp = ();

    fn check(&self, parts: &mut Parts) -> Pending<Result<(), Rejection>> {
        // Whoever is known has not come as a preflight.
        if parts.extensions.get::<Identity>().is_none() && is_preflight(&parts.extensions) {
            return Ok(()).into();
        }
        let ruling = match &self.rule.required.0 {
            What::Always(requirement) => Ruling::Requires(requirement),
            What::ByRoute(rules) => rules.ruling(parts),
        };
        if matches!(ruling, Ruling::Public) {
            return Ok(()).into();
        }
        let identity = match caller(&parts.extensions, "a RequireLayer") {
            Ok(identity) => identity,
            Err(rejection) => return Err(self.rule.challenge_scopes(rejection, &ruling)).into(),
        };
        let refused = match ruling {
            Ruling::Public => None,
            Ruling::Requires(requirement) if requirement.is_met_by(identity) => None,
            Ruling::Requires(requirement) => Some(unmet(requirement, identity)),
            Ruling::Nobody => {
                self.rule.hint_at_nesting(parts);
                Some(Rejection::new(Reason::Forbidden, Cause::RouteUnknown))
            }
            Ruling::Ambiguous => Some(Rejection::new(Reason::Forbidden, Cause::PathAmbiguous)),
        };
        if let Some(rejection) = refused {
            return Err(rejection).into();
        }
        if self.rule.policies.is_empty() {
            return Ok(()).into();
        }
        self.rule.ask_policies(identity, parts)
    }

    fn admit(&self, _: &mut Parts, (): ()) -> Result<(), Rejection> {
        Ok(())
    }

    fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        Voice::standard().answer(rejection)
    }
}

/// The refusal of a known caller.
fn unmet(requirement: &Requirement, identity: &Identity) -> Rejection {
    // What stands in a requirement was checked to be scopes when it was built.
    match requirement.scopes_for(identity).map(ScopeSet::try_new) {
        Some(Ok(needed)) => {
            let rejection = Rejection::new(Reason::InsufficientScope, Cause::ScopeMissing)
                .with_required_scopes(needed);
            match identity.is_known(IdentityField::Scopes) {
                true => rejection,
                false => rejection.with_fault("scope"),
            }
        }
        _ => Rejection::new(Reason::Forbidden, Cause::FactMissing),
    }
}

impl Rule {
    /// Reports once that rules inside of a nested router see the path without its prefix.
    fn hint_at_nesting(&self, request: &Parts) {
        #[cfg(feature = "axum")]
        if let Some(prefix) = crate::axum::nested_path(&request.extensions)
            && !self.hinted_at_nesting.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                target: "tollgate::authorize",
                prefix,
                "no rule matches a request inside of a nested router; rules that are added before a \
                 router is nested see the path without the prefix"
            );
        }
        #[cfg(not(feature = "axum"))]
        let _ = (request, &self.hinted_at_nesting);
    }

    /// Tells those whom nobody knows which scopes to come back with, where rules say so.
    fn challenge_scopes(&self, rejection: Rejection, ruling: &Ruling<'_>) -> Rejection {
        let (What::ByRoute(_), Ruling::Requires(requirement)) = (&self.required.0, ruling) else {
            return rejection;
        };
        match ScopeSet::try_new(requirement.scopes_for_strangers()) {
            Ok(scopes)
                if rejection.reason() == Reason::CredentialsMissing && !scopes.is_empty() =>
            {
                rejection.with_required_scopes(scopes)
            }
            _ => rejection,
        }
    }

    /// The first policy that does not allow answers.
    fn ask_policies(&self, identity: &Identity, parts: &Parts) -> Pending<Result<(), Rejection>> {
        let mut asked = Vec::new();
        for policy in &self.policies {
            match policy.decide(identity, parts) {
                Pending::Ready(Decision::Allow) => {}
                Pending::Ready(decision) if asked.is_empty() => {
                    return Err(refusal(policy, decision, identity.judged_at)).into();
                }
                decision => asked.push((policy.clone(), decision)),
            }
        }
        if asked.is_empty() {
            return Ok(()).into();
        }
        let judged_at = identity.judged_at;
        Pending::later(async move {
            for (policy, decision) in asked {
                match decision.wait().await {
                    Decision::Allow => {}
                    decision => return Err(refusal(&policy, decision, judged_at)),
                }
            }
            Ok(())
        })
    }
}

fn refusal(policy: &Policy, decision: Decision, now: Timestamp) -> Rejection {
    let name = policy.name();
    if decision == Decision::Unavailable {
        tracing::warn!(target: "tollgate::authorize", policy = name, "a policy cannot decide");
        return Rejection::unavailable(Cause::PolicyUnavailable, now);
    }
    tracing::debug!(target: "tollgate::authorize", policy = name, "a policy denies");
    let rejection = Rejection::new(Reason::Forbidden, Cause::PolicyDenied);
    match policy.public_name() {
        Some(name) => rejection.with_policy(name),
        None => rejection,
    }
}
