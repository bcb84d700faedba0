//! [`RequireLayer`], and the check that it makes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::authorize::policy::{Decision, Policy};
use crate::authorize::requirement::{Hierarchy, Requirement};
use crate::context::caller;
use crate::gate::{Check, Gate};
use crate::identity::Identity;
use crate::pending::Pending;
use crate::rejection::{Cause, Reason, Rejection, Speaker};
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
    voice: Voice,
}

impl RequireLayer {
    /// Lets pass who meets the requirement.
    pub fn new(requirement: impl Into<Requirement>) -> Self {
        let requirement = requirement.into();
        let rule = Rule {
            requirement,
            policies: Vec::new(),
            voice: Voice::default(),
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
        self.rule.voice.answer_or_leave_to_door(rejection)
    }
}

impl Rule {
    fn unmet_by(&self, identity: &Identity) -> Rejection {
        // What stands in a requirement was checked to be scopes when it was built.
        let needed = self.requirement.scopes_for(identity).map(ScopeSet::try_new);
        let rejection = match needed {
            Some(Ok(needed)) => Rejection::insufficient_scope(needed),
            _ => Rejection::new(Reason::Forbidden, Cause::FactMissing),
        };
        addressed(rejection, identity)
    }

    /// The first policy that does not allow answers.
    fn ask_policies(&self, identity: &Identity, parts: &Parts) -> Pending<Result<(), Rejection>> {
        let mut asked = Vec::new();
        for policy in &self.policies {
            match policy.decide(identity, parts) {
                Pending::Ready(Decision::Allow) => {}
                Pending::Ready(decision) if asked.is_empty() => {
                    return Err(addressed(refusal(policy, decision), identity)).into();
                }
                decision => asked.push((policy.clone(), decision)),
            }
        }
        if asked.is_empty() {
            return Ok(()).into();
        }
        let identity = identity.clone();
        Pending::later(async move {
            for (policy, decision) in asked {
                match decision.wait().await {
                    Decision::Allow => {}
                    decision => return Err(addressed(refusal(&policy, decision), &identity)),
                }
            }
            Ok(())
        })
    }
}

fn refusal(policy: &Policy, decision: Decision) -> Rejection {
    if decision == Decision::Unavailable {
        return Rejection::new(Reason::VerifierUnavailable, Cause::PolicyUnavailable)
            .with_retry_after(Duration::from_secs(1));
    }
    let rejection = Rejection::new(Reason::Forbidden, Cause::PolicyDenied);
    match policy.public_name() {
        Some(name) => rejection.with_policy(name),
        None => rejection,
    }
}

/// Lets the door that the caller came through say it, if they came through one.
fn addressed(mut rejection: Rejection, identity: &Identity) -> Rejection {
    rejection.scheme = identity.scheme;
    rejection.voice = if identity.scheme.is_some() {
        Speaker::Door
    } else {
        Speaker::Gate
    };
    rejection
}
