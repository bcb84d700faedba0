//! [`Mapping`]: what the claims of a token mean here.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::auth::jwt::claims::{Binding, Claims};
use crate::auth::jwt::configured::{ClaimPath, Roles, RolesClaim};
use crate::auth::jwt::policy::invalid;
use crate::identity::{Identity, IdentityBuilder, IdentityField, Kind, mentions};
use crate::rejection::{Cause, Fault, Rejection};
use crate::scope::ScopeSet;

/// Which claims say what of the caller.
#[derive(Clone)]
pub(super) struct Mapping {
    pub(super) scopes: Vec<Box<str>>,
    pub(super) roles: Vec<RolesClaim>,
    pub(super) tenant: Option<ClaimPath>,
    pub(super) plan: Option<ClaimPath>,
    pub(super) is_application: Option<Arc<IsApplication>>,
}

pub(super) type IsApplication = dyn Fn(&Map<String, Value>) -> bool + Send + Sync;

/// The configured claims of a token.
pub(super) struct Configured {
    /// All claims, if they are needed.
    all: Map<String, Value>,
    roles: Roles,
    tenant: Option<Box<str>>,
    plan: Option<Box<str>>,
}

impl Mapping {
    /// Reads the configured claims out of a payload that was read before: it is an object.
    pub(super) fn read(&self, payload: &str) -> Result<Configured, Rejection> {
        self.configured(payload)
            .map_err(|fault| invalid((Cause::TokenClaims, "payload")).with_fault(fault))
    }

    fn configured(&self, payload: &str) -> Result<Configured, Fault> {
        let all: Map<String, Value> = if self.needs_all_claims() {
            serde_json::from_str(payload).map_err(|_| Fault::Named("payload"))?
        } else {
            Map::new()
        };
        let value = |path: &Option<ClaimPath>| -> Result<Option<Box<str>>, Fault> {
            let Some(path) = path else { return Ok(None) };
            Ok(path.value(&all)?.map(Box::from))
        };
        Ok(Configured {
            roles: Roles::read(&self.roles, &all)?,
            tenant: value(&self.tenant)?,
            plan: value(&self.plan)?,
            all,
        })
    }

    /// Returns the identity that a good token stands for.
    pub(super) fn identity(
        &self,
        issuer: &Arc<str>,
        claims: Claims<'_>,
        configured: Configured,
    ) -> IdentityBuilder {
        let subject = claims.subject.as_deref().unwrap_or_default();
        let client_id = claims.client_id.as_deref();
        let party = claims.authorized_party.as_deref();
        let mut identity = Identity::builder(Arc::clone(issuer), subject);
        if let Some(client) = client_id.or(party) {
            identity = identity.client_id(client);
        }
        if let Some(end) = claims.times.expires {
            identity = identity.expires_at(end);
        }
        if let Some(id) = claims.id.as_deref().filter(|id| is_plain(id)) {
            identity = identity.credential_id(id);
        }
        if let Some(Binding::Certificate(digest)) = claims.binding {
            identity = identity.bound_to_certificate(digest);
        }
        let Configured {
            all,
            roles,
            tenant,
            plan,
        } = configured;
        for role in roles.held {
            identity = identity.role(role);
        }
        for text in roles.others {
            identity = identity.other_role(text);
        }
        if let Some(tenant) = tenant {
            identity = identity.tenant(tenant);
        }
        if let Some(plan) = plan {
            identity = identity.plan(plan);
        }
        let (is_application, is_kind_known) = match &self.is_application {
            Some(predicate) => (predicate(&all), true),
            None => {
                let is_application = client_id == Some(subject);
                let mut clients = [client_id, party].into_iter().flatten();
                let names_client = clients.clone().any(|client| !client.is_empty());
                // Under another reading it could be an application, too.
                let is_clear = is_application || !clients.any(|client| mentions(client, subject));
                (is_application, names_client && is_clear)
            }
        };
        let kind = if is_application {
            Kind::Application
        } else {
            Kind::User
        };
        let has_scopes = claims.has_scopes;
        let identity = identity.kind(kind).scopes(ScopeSet::of_text(claims.scopes));
        [
            (IdentityField::Kind, is_kind_known),
            (IdentityField::Roles, roles.are_known),
            (IdentityField::Scopes, has_scopes),
        ]
        .into_iter()
        .fold(identity, |identity, (field, is_known)| match is_known {
            true => identity.known(field),
            false => identity.unknown(field),
        })
    }

    fn needs_all_claims(&self) -> bool {
        self.is_application.is_some()
            || self.tenant.is_some()
            || self.plan.is_some()
            || !self.roles.is_empty()
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("scopes", &self.scopes)
            .field("roles", &self.roles)
            .field("tenant", &self.tenant)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Whether an id can be printed as it is.
fn is_plain(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}
