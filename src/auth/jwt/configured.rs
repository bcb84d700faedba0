//! Claims whose names are configured: where they are, and in which forms they are read.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::rejection::Fault;

/// The claim that roles are read from, with the forms in which it is read: see
/// [`Issuer::roles_from`](super::Issuer::roles_from).
///
/// A string is one role, an array of strings is a list of roles, and an integer is a role by its
/// decimal digits. Other forms are read only if they are declared here. A claim in any other form
/// makes the token invalid.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::{Request, Response, StatusCode};
/// use serde_json::json;
/// use tollgate::auth::jwt::RolesClaim;
/// use tollgate::testing::TestIssuer;
/// use tollgate::{AuthLayer, Jwt, RequireLayer, role};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// const ROLES: &str = "urn:zitadel:iam:org:project:roles";
/// let authority = TestIssuer::new("https://id.example.com/");
/// let jwt = Jwt::issuer(authority.url())
///     .audience("orders")
///     .keys(authority.keys())
///     .roles_from(RolesClaim::new([ROLES]).object_keys())
///     .build()?;
/// let handler = service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// });
/// let service = AuthLayer::new(jwt).layer(RequireLayer::new(role("clerk")).layer(handler));
///
/// let roles = json!({ "clerk": { "2194": "acme.example.com" } });
/// let token = authority.token("ann").audience("orders").claim(ROLES, roles).sign();
/// let request = Request::get("/").header("authorization", format!("Bearer {token}")).body(())?;
/// assert_eq!(service.oneshot(request).await?.status(), StatusCode::OK);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RolesClaim {
    pub(super) path: ClaimPath,
    object_keys: bool,
    space_separated: bool,
    absent_is_empty: bool,
}

impl RolesClaim {
    /// Creates a claim by its path: the names of members, from the outside in.
    pub fn new(path: impl IntoIterator<Item: AsRef<str>>) -> Self {
        Self {
            path: ClaimPath::new(path),
            object_keys: false,
            space_separated: false,
            absent_is_empty: false,
        }
    }

    /// Also reads an object: its keys are the roles. A key whose value is `false` or `null` is not
    /// a role.
    pub fn object_keys(mut self) -> Self {
        self.object_keys = true;
        self
    }

    /// Also reads several roles from one string, with spaces between. The empty string has no
    /// roles.
    pub fn space_separated(mut self) -> Self {
        self.space_separated = true;
        self
    }

    /// Takes a token without the claim for one without roles, so that it meets `!role("suspended")`.
    ///
    /// By default the roles of such a token are unknown. Call this only if the issuer leaves the
    /// claim out of the tokens of users who have no roles, as Keycloak does.
    pub fn absent_is_empty(mut self) -> Self {
        self.absent_is_empty = true;
        self
    }

    fn read(&self, claims: &Map<String, Value>, roles: &mut Roles) -> Result<(), Fault> {
        let Some(value) = self.path.find(claims)? else {
            roles.are_known &= self.absent_is_empty;
            return Ok(());
        };
        match value {
            Value::Object(members) if self.object_keys => {
                for (name, value) in members {
                    match value {
                        Value::Bool(false) | Value::Null => roles.others.push(name.as_str().into()),
                        value => {
                            roles.add(self.path.readable(plain(name))?);
                            add_texts(value, &mut roles.others);
                        }
                    }
                }
            }
            Value::String(text) if self.space_separated => {
                for word in text.split(' ').filter(|word| !word.is_empty()) {
                    roles.add(self.path.readable(plain(word))?);
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    let role = element.as_str().and_then(plain);
                    roles.add(self.path.readable(role)?);
                }
            }
            value => roles.add(&self.path.readable(scalar(value))?),
        }
        Ok(())
    }
}

impl<I: IntoIterator<Item: AsRef<str>>> From<I> for RolesClaim {
    fn from(path: I) -> Self {
        Self::new(path)
    }
}

/// The roles that the configured claims of a token hold.
pub(super) struct Roles {
    pub(super) held: Vec<Box<str>>,
    /// Texts that are roles under another reading of the claims.
    pub(super) others: Vec<Box<str>>,
    /// All the claims are there.
    pub(super) are_known: bool,
}

impl Roles {
    pub(super) fn read(claims: &[RolesClaim], payload: &Map<String, Value>) -> Result<Self, Fault> {
        let mut roles = Self {
            held: Vec::new(),
            others: Vec::new(),
            are_known: !claims.is_empty(),
        };
        for claim in claims {
            claim.read(payload, &mut roles)?;
        }
        Ok(roles)
    }

    fn add(&mut self, role: &str) {
        if !self.held.iter().any(|held| **held == *role) {
            self.held.push(role.into());
        }
    }
}

/// The names of members, from the outside in.
#[derive(Clone, Debug)]
pub(super) struct ClaimPath {
    names: Box<[Box<str>]>,
    /// The names with dots between, for operators.
    label: Arc<str>,
}

impl ClaimPath {
    pub(super) fn new(names: impl IntoIterator<Item: AsRef<str>>) -> Self {
        let names: Box<[Box<str>]> = names.into_iter().map(|name| name.as_ref().into()).collect();
        let label = names.join(".").into();
        Self { names, label }
    }

    /// Returns whether the path cannot lead to a claim.
    pub(super) fn is_invalid(&self) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name.is_empty())
    }

    /// Reads a claim with one value: a string, an integer, or an array of exactly one string.
    pub(super) fn value<'v>(
        &self,
        claims: &'v Map<String, Value>,
    ) -> Result<Option<Cow<'v, str>>, Fault> {
        let Some(found) = self.find(claims)? else {
            return Ok(None);
        };
        let value = match found {
            Value::Array(elements) => match &elements[..] {
                [Value::String(only)] => plain(only).map(Cow::Borrowed),
                _ => None,
            },
            value => scalar(value),
        };
        self.readable(value).map(Some)
    }

    /// Returns `None` if a member on the path is missing or `null`. One that is not an object
    /// cannot be read.
    fn find<'v>(&self, claims: &'v Map<String, Value>) -> Result<Option<&'v Value>, Fault> {
        let Some((last, outer)) = self.names.split_last() else {
            return Ok(None);
        };
        let mut members = claims;
        for name in outer {
            members = match members.get(&**name) {
                None | Some(Value::Null) => return Ok(None),
                Some(value) => self.readable(value.as_object())?,
            };
        }
        Ok(members.get(&**last).filter(|value| !value.is_null()))
    }

    fn readable<T>(&self, value: Option<T>) -> Result<T, Fault> {
        value.ok_or_else(|| Fault::Configured(Arc::clone(&self.label)))
    }
}

/// Reads a string or an integer.
fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => plain(text).map(Cow::Borrowed),
        // A fraction, an exponent or more than 64 bits: its text would depend on the reader.
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            Some(Cow::Owned(number.to_string()))
        }
        _ => None,
    }
}

/// Returns the text if it can be a key of limits, a label and a field of a log.
fn plain(text: &str) -> Option<&str> {
    let is_plain = (1..=MAX_TEXT).contains(&text.len())
        && !text.contains(char::is_control)
        && text.trim() == text;
    is_plain.then_some(text)
}

/// Adds all texts of a value: strings, integers and names of members.
fn add_texts(value: &Value, texts: &mut Vec<Box<str>>) {
    match value {
        Value::String(text) => texts.push(text.as_str().into()),
        Value::Number(number) => texts.push(number.to_string().into()),
        Value::Array(elements) => elements.iter().for_each(|inner| add_texts(inner, texts)),
        Value::Object(members) => {
            for (name, inner) in members {
                texts.push(name.as_str().into());
                add_texts(inner, texts);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// The maximum length of a tenant, plan or role in bytes.
const MAX_TEXT: usize = 256;
