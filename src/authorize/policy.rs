//! [`Policy`]: a hook of your own that has the last word on a caller.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::identity::Identity;
use crate::pending::Pending;

/// A hook that decides about a known caller and their request, each time anew: so
/// rights can change while the server runs.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use tollgate::authorize::{Policy, RequireLayer, scope};
///
/// let maintenance = Arc::new(AtomicBool::new(false));
/// let open = Arc::clone(&maintenance);
/// let layer = RequireLayer::new(scope("orders:write"))
///     .policy(Policy::new("own-tenant", |identity, parts| {
///         identity.tenant().is_some_and(|tenant| parts.uri.path().starts_with(tenant))
///     }))
///     .policy(Policy::new("maintenance", move |_, _| !open.load(Ordering::Relaxed)).public());
/// ```
///
/// A policy that panics refuses that request with a 500.
#[derive(Clone)]
pub struct Policy {
    name: Cow<'static, str>,
    public: bool,
    hook: Arc<Hook>,
}

type Hook = dyn Fn(&Identity, &Parts) -> Pending<Decision> + Send + Sync;

impl Policy {
    /// A policy that decides at once. The hook answers with a `bool`, a
    /// `Result<bool, _>` or a [`Decision`].
    pub fn new<D>(
        name: impl Into<Cow<'static, str>>,
        hook: impl Fn(&Identity, &Parts) -> D + Send + Sync + 'static,
    ) -> Self
    where
        D: Into<Decision>,
    {
        Self::from_hook(name.into(), move |identity, parts| {
            hook(identity, parts).into().into()
        })
    }

    /// A policy that has to ask. The hook takes what it needs out of the request and
    /// returns a future.
    ///
    /// ```
    /// use tollgate::authorize::{Policy, RequireLayer, authenticated};
    ///
    /// async fn is_suspended(account: String) -> Result<bool, std::io::Error> {
    ///     Ok(account == "acct_9")
    /// }
    ///
    /// let layer = RequireLayer::new(authenticated()).policy(Policy::asynchronous(
    ///     "not-suspended",
    ///     |identity, _| {
    ///         let account = identity.subject().to_owned();
    ///         async move { is_suspended(account).await.map(|suspended| !suspended) }
    ///     },
    /// ));
    /// ```
    pub fn asynchronous<F>(
        name: impl Into<Cow<'static, str>>,
        hook: impl Fn(&Identity, &Parts) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output: Into<Decision>> + Send + 'static,
    {
        Self::from_hook(name.into(), move |identity, parts| {
            let decision = hook(identity, parts);
            Pending::later(async move { decision.await.into() })
        })
    }

    fn from_hook(
        name: Cow<'static, str>,
        hook: impl Fn(&Identity, &Parts) -> Pending<Decision> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            public: false,
            hook: Arc::new(hook),
        }
    }

    /// Tells a client that is refused the name of the policy.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    pub(crate) fn decide(&self, identity: &Identity, parts: &Parts) -> Pending<Decision> {
        (self.hook)(identity, parts)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn public_name(&self) -> Option<Cow<'static, str>> {
        self.public.then(|| self.name.clone())
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// What a [`Policy`] says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a policy has nothing else to say")]
pub enum Decision {
    /// The request may pass.
    Allow,
    /// The client gets 403.
    Deny,
    /// It cannot be decided at the moment: the client gets 503.
    Unavailable,
}

/// `true` allows.
impl From<bool> for Decision {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }
}

/// An error makes it undecidable.
impl<E> From<Result<bool, E>> for Decision {
    fn from(allowed: Result<bool, E>) -> Self {
        allowed.map_or(Self::Unavailable, Self::from)
    }
}
