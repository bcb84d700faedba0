//! [`RequireLayer`], and the check that it makes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::authorize::policy::{Decision, Policy};
use crate::authorize::requirement::{Hierarchy, Requirement};
use crate::clock::Timestamp;
use crate::context::{caller, is_preflight};
use crate::gate::{Check, Gate};
use crate::identity::Identity;
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
    requirement: Requirement,
    policies: Vec<Policy>,
}

impl RequireLayer {
    /// Lets pass who meets the requirement.
    pub fn new(requirement: impl Into<Requirement>) -> Self {
        let requirement = requirement.into();
        let rule = Rule {
            requirement,
            policies: Vec::new(),
        };
        Self {
            rule: Arc::new(rule),
        }
    }

    /// Lets scopes grant others.
    #[must_use]
    pub fn hierarchy(self, hierarchy: &Hierarchy) -> Self {
        self.set(|rule| rule.requirement = rule.requirement.clone().under(hierarchy))
    }

    /// Asks a policy too, about callers who meet the requirement. With several, all
    /// must allow, and the first that does not answers.
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
            .field("requirement", &self.rule.requirement)
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
            .field("requirement", &self.rule.requirement)
            .finish()
    }
}

impl Check for Require {
    type Pass = ();
    type Stamp = ();

    fn check(&self, parts: &mut Parts) -> Pending<Result<(), Rejection>> {
        if is_preflight(&parts.extensions) {
            return Ok(()).into();
        }
        let identity = match caller(&parts.extensions, "a RequireLayer") {
            Ok(identity) => identity,
            Err(rejection) => return Err(rejection).into(),
        };
        if !self.rule.requirement.is_met_by(identity) {
            return Err(self.rule.unmet_by(identity)).into();
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

impl Rule {
    fn unmet_by(&self, identity: &Identity) -> Rejection {
        // What stands in a requirement was checked to be scopes when it was built.
        let needed = self.requirement.scopes_for(identity).map(ScopeSet::try_new);
        match needed {
            Some(Ok(needed)) => Rejection::new(Reason::InsufficientScope, Cause::ScopeMissing)
                .with_required_scopes(needed),
            _ => Rejection::new(Reason::Forbidden, Cause::FactMissing),
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
