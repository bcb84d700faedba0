//! [`Mapping`]: what the claims of a token mean here.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::auth::jwt::claims::{Binding, Claims};
use crate::identity::{Identity, IdentityBuilder, Kind};
use crate::scope::ScopeSet;

/// Which claims say what of the caller.
#[derive(Clone)]
pub(super) struct Mapping {
    pub(super) scopes: Vec<Box<str>>,
    pub(super) roles: Vec<Path>,
    pub(super) tenant: Option<Path>,
    pub(super) plan: Option<Path>,
    pub(super) is_application: Option<Arc<IsApplication>>,
}

pub(super) type IsApplication = dyn Fn(&Map<String, Value>) -> bool + Send + Sync;

/// The names of members, from the outside in.
#[derive(Clone, Debug)]
pub(super) struct Path(Vec<Box<str>>);

impl Path {
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(Box::from).collect())
    }

    fn find<'v>(&self, claims: &'v Map<String, Value>) -> Option<&'v Value> {
        let (first, rest) = self.0.split_first()?;
        let first = claims.get(&**first)?;
        rest.iter()
            .try_fold(first, |value, name| value.get(&**name))
    }
}

impl Mapping {
    /// Who a good token is about. `payload` is what the claims were read from.
    pub(super) fn identity(
        &self,
        issuer: &Arc<str>,
        claims: Claims<'_>,
        payload: &str,
    ) -> IdentityBuilder {
        let subject = claims.subject.as_deref().unwrap_or_default();
        let client = claims
            .client_id
            .as_deref()
            .or(claims.authorized_party.as_deref());
        let mut identity = Identity::builder(Arc::clone(issuer), subject);
        let mut is_application = claims.client_id.as_deref() == Some(subject);
        if let Some(client) = client {
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
        if self.needs_all_claims() {
            // It was read once: it is an object.
            let all: Map<String, Value> = serde_json::from_str(payload).unwrap_or_default();
            if let Some(predicate) = &self.is_application {
                is_application = predicate(&all);
            }
            for role in self
                .roles
                .iter()
                .filter_map(|path| path.find(&all))
                .flat_map(texts)
            {
                identity = identity.role(role);
            }
            let text = |path: &Option<Path>| path.as_ref()?.find(&all)?.as_str();
            if let Some(tenant) = text(&self.tenant) {
                identity = identity.tenant(tenant);
            }
            if let Some(plan) = text(&self.plan) {
                identity = identity.plan(plan);
            }
        }
        let kind = if is_application {
            Kind::Application
        } else {
            Kind::User
        };
        identity.kind(kind).scopes(ScopeSet::of_text(claims.scopes))
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

/// A string, or the strings of an array.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether an id can be printed as it is.
fn is_plain(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}
