//! [`OperatorFacts`]: the part of a credential that is at fault, and its issuer.

use std::sync::Arc;

use crate::rejection::Rejection;

/// The part of a credential that is at fault, and the issuer of the credential.
#[derive(Clone, Debug, Default)]
pub(super) struct OperatorFacts {
    fault: Option<Fault>,
    issuer: Option<Arc<str>>,
}

/// The name of a claim or header member: one of this crate's, or one from the configuration. Never
/// a name from a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Named(&'static str),
    #[cfg_attr(
        not(any(feature = "jwt", feature = "jwt-rust-crypto")),
        expect(dead_code, reason = "only claims of tokens are configured")
    )]
    Configured(Arc<str>),
}

impl From<&'static str> for Fault {
    fn from(name: &'static str) -> Self {
        Self::Named(name)
    }
}

impl Rejection {
    /// Returns the claim or header member of the token that is at fault, such as `exp` or `kid`.
    ///
    /// A configured claim is named by its path: `realm_access.roles`. A segment of the token that
    /// cannot be read is `header`, `payload` or `signature`, and `token` stands for its overall
    /// structure. `None` if the credential is not a token, or no part of it is at fault.
    ///
    /// For operators: never send it to a client.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use http::{Request, Response};
    /// use tollgate::rejection::ExposeRejection;
    /// use tollgate::testing::TestIssuer;
    /// use tollgate::{AuthLayer, Jwt, Rejection};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let authority = TestIssuer::new("https://id.example.com/");
    /// let jwt = Jwt::issuer(authority.url()).audience("orders").keys(authority.keys()).build()?;
    /// let service = AuthLayer::new(jwt).layer(service_fn(|_: Request<()>| async {
    ///     Ok::<_, std::convert::Infallible>(Response::new(()))
    /// }));
    ///
    /// let token = authority.token("ann").audience("orders").without("exp").sign();
    /// let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    /// let request = request.extension(ExposeRejection).body(())?;
    /// let response = service.oneshot(request).await?;
    /// let rejection = response.extensions().get::<Rejection>().expect("the token never expires");
    /// assert_eq!(rejection.fault(), Some("exp"));
    /// assert_eq!(rejection.issuer(), Some("https://id.example.com/"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        match self.facts.as_ref()?.fault.as_ref()? {
            Fault::Named(name) => Some(name),
            Fault::Configured(name) => Some(name),
        }
    }

    /// Returns the configured issuer that the rejected token names, or `None` if it names another
    /// or the credential is not a token.
    ///
    /// The signature need not have been verified: anybody can send a token that names an issuer.
    /// For operators: never send it to a client.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.facts.as_ref()?.issuer.as_deref()
    }

    pub(crate) fn with_fault(mut self, fault: impl Into<Fault>) -> Self {
        self.facts().fault = Some(fault.into());
        self
    }

    #[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
    pub(crate) fn with_issuer(mut self, issuer: &Arc<str>) -> Self {
        self.facts().issuer = Some(Arc::clone(issuer));
        self
    }

    fn facts(&mut self) -> &mut OperatorFacts {
        Arc::make_mut(self.facts.get_or_insert_default())
    }
}
