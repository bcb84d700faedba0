//! [`Rejection`]: every way to be refused, as one closed list.
//!
//! A [`Reason`] fixes all that a client may learn: status, `code`, challenge and
//! gRPC status. A [`Cause`] says which check failed, for operators only: it goes to
//! logs and metrics, never into a response. Both come from the same value, so that
//! what is answered, logged and counted cannot disagree.

mod cause;
mod facts;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::clock::Timestamp;
use crate::credential::Scheme;
use crate::grpc::Dialect;
use crate::identity::Identity;
use crate::scope::ScopeSet;

use facts::OperatorFacts;

pub use cause::Cause;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub(crate) use facts::Fault;

/// Why a request was refused, and what the client is told.
///
/// A request that carries [`ExposeRejection`] gets it in the extensions of the response.
#[derive(Clone, Debug)]
pub struct Rejection {
    reason: Reason,
    cause: Cause,
    retry_after: Option<Duration>,
    /// Apart, since most refusals have none, and shared, since they are told to several.
    particulars: Option<Arc<Particulars>>,
    /// The scheme that the client used, for the challenge.
    pub(crate) scheme: Option<Scheme>,
    /// It was refused for how it came, and had nothing in it that nobody may see.
    pub(crate) showed_nothing: bool,
    /// A door has told the client, in its own words.
    pub(crate) said: bool,
    /// The language that the client is told in.
    pub(crate) dialect: Dialect,
    /// What else the client is told, over HTTP.
    fields: Vec<(HeaderName, HeaderValue)>,
    holder: Holder,
    /// For operators only.
    facts: Option<Arc<OperatorFacts>>,
}

/// A request extension: if a layer of this crate rejects the request, it puts the [`Rejection`] into
/// the extensions of the response, for layers outside.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use http::{Request, Response};
/// use tollgate::keys::Peppers;
/// use tollgate::rejection::{Cause, ExposeRejection};
/// use tollgate::{ApiKeys, AuthLayer, Rejection};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let service = ServiceBuilder::new()
///     .map_request(|mut request: Request<()>| {
///         request.extensions_mut().insert(ExposeRejection);
///         request
///     })
///     .layer(AuthLayer::new(ApiKeys::in_memory(Peppers::random())))
///     .service(service_fn(|_: Request<()>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(()))
///     }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// let rejection = response.extensions().get::<Rejection>().expect("there is no credential");
/// assert_eq!(rejection.cause(), Cause::NothingShown);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "it has no content")]
pub struct ExposeRejection;

/// Whose credential it was, if its secret was right: for those who count, and nobody else.
#[derive(Clone)]
struct Holder(Option<Box<Identity>>);

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// What sets a refusal apart from others with the same reason.
#[derive(Clone, Debug, Default)]
struct Particulars {
    required_scopes: Option<ScopeSet>,
    policy: Option<Cow<'static, str>>,
    /// Names of quotas, with spaces between.
    violated: Option<Arc<str>>,
    request_id: Option<Arc<str>>,
}

impl Rejection {
    /// A refusal with the reason's own answer.
    #[must_use]
    pub const fn new(reason: Reason, cause: Cause) -> Self {
        Self {
            reason,
            cause,
            retry_after: None,
            particulars: None,
            scheme: None,
            showed_nothing: false,
            said: false,
            dialect: Dialect::Http,
            fields: Vec::new(),
            holder: Holder(None),
            facts: None,
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Which check failed. For operators: never tell a client.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// All scopes that the operation needs, if they are why it was refused or worth
    /// asking for.
    #[must_use]
    pub fn required_scopes(&self) -> Option<&ScopeSet> {
        self.particulars.as_ref()?.required_scopes.as_ref()
    }

    /// The name of the policy that refused, if it was marked public.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.particulars.as_ref()?.policy.as_deref()
    }

    /// The names of the quotas that are used up.
    pub fn violated_quotas(&self) -> impl Iterator<Item = &str> {
        let violated = self
            .particulars
            .as_ref()
            .and_then(|all| all.violated.as_deref());
        violated.into_iter().flat_map(|names| names.split(' '))
    }

    /// How long the client is asked to wait before it tries again. On the wire it
    /// is whole seconds, rounded up.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The wait that the answer names, if there is one.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.retry_after.or_else(|| self.reason.least_wait())
    }

    pub(crate) const fn spoken(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// The HTTP status of the answer. That of gRPC is 200, whatever happens.
    pub(crate) const fn wire_status(&self) -> StatusCode {
        match self.dialect {
            Dialect::Http => self.reason.status(),
            Dialect::Grpc(_) => StatusCode::OK,
        }
    }

    /// The id that the server gave to the request: see
    /// [`AuthLayer::request_id`](crate::AuthLayer::request_id).
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.particulars.as_ref()?.request_id.as_deref()
    }

    /// The required scopes or the violated quotas, if the answer depends on nothing else
    /// but the reason: few texts, that the operator has written.
    pub(crate) fn only_text(&self) -> Option<&str> {
        let particulars = self.particulars.as_ref()?;
        if particulars.policy.is_some() || particulars.request_id.is_some() {
            return None;
        }
        match (&particulars.required_scopes, &particulars.violated) {
            (Some(scopes), None) => Some(scopes.as_str()),
            (None, Some(violated)) => Some(violated),
            _ => None,
        }
    }

    /// Whether the answer depends on more than the reason.
    pub(crate) const fn has_particulars(&self) -> bool {
        self.particulars.is_some()
    }

    pub(crate) fn with_request_id(mut self, id: Option<Arc<str>>) -> Self {
        if id.is_some() {
            self.particulars().request_id = id;
        }
        self
    }

    pub(crate) fn set_request_id(&mut self, id: Option<&Arc<str>>) {
        if let Some(id) = id {
            self.particulars().request_id = Some(Arc::clone(id));
        }
    }

    /// Names all scopes that the operation needs: for
    /// [`Reason::InsufficientScope`], and for the challenge of
    /// [`Reason::CredentialsMissing`].
    #[must_use]
    pub fn with_required_scopes(mut self, required: ScopeSet) -> Self {
        self.particulars().required_scopes = Some(required);
        self
    }

    pub(crate) fn with_policy(mut self, name: Cow<'static, str>) -> Self {
        self.particulars().policy = Some(name);
        self
    }

    pub(crate) fn with_fields(mut self, fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.fields = fields;
        self
    }

    pub(crate) fn take_fields(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        std::mem::take(&mut self.fields)
    }

    /// The credential is not good, and it is known whose it is.
    pub(crate) fn with_holder(mut self, holder: Identity) -> Self {
        self.holder = Holder(Some(Box::new(holder)));
        self
    }

    pub(crate) fn holder(&self) -> Option<&Identity> {
        self.holder.0.as_deref()
    }

    /// Whose credential it was. No response that is made of the rest says so.
    pub(crate) fn take_holder(&mut self) -> Option<Identity> {
        self.holder.0.take().map(|holder| *holder)
    }

    pub(crate) fn with_violated(mut self, names: Arc<str>) -> Self {
        self.particulars().violated = Some(names);
        self
    }

    fn particulars(&mut self) -> &mut Particulars {
        Arc::make_mut(self.particulars.get_or_insert_default())
    }

    /// Asks the client to wait for that long. An answer that has to name a wait names
    /// one second unless told otherwise.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Something that is needed to decide cannot be asked. The wait is one to three
    /// seconds, so that clients do not come back all at once.
    pub(crate) fn unavailable(cause: Cause, now: Timestamp) -> Self {
        let jitter = Duration::from_secs(now.unix_nanos() / 1_000 % 3);
        Self::new(Reason::VerifierUnavailable, cause)
            .with_retry_after(Duration::from_secs(1) + jitter)
    }

    /// A mistake in how the layers were put together. The log names the fix; in a process without a
    /// `tracing` subscriber the first one is printed to standard error.
    pub(crate) fn misconfigured(fix: &str) -> Self {
        tracing::error!(target: "tollgate", fix, "tollgate is not set up right");
        if !tracing::dispatcher::has_been_set() {
            // Without a subscriber nobody would learn why each request is a 500.
            static PRINTED: Once = Once::new();
            PRINTED.call_once(|| eprintln!("tollgate is not set up right: {fix}"));
        }
        Self::new(Reason::Internal, Cause::Misconfigured)
    }

    pub(crate) fn panicked() -> Self {
        Self::new(Reason::Internal, Cause::Panicked)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.detail())
    }
}

impl std::error::Error for Rejection {}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident {
        status: $status:ident, code: $code:literal, detail: $detail:literal,
        challenge: $challenge:expr, grpc: $grpc:ident, reason: $reason:literal,
    })*) => {
        /// What a client is told when it is refused.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The stable `code` member of the problem document.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The fixed text for people.
            #[must_use]
            pub const fn detail(self) -> &'static str {
                match self { $(Self::$name => $detail,)* }
            }

            /// The `error` of the challenge (RFC 6750 §3.1), where there is one.
            #[must_use]
            pub const fn challenge_error(self) -> Option<&'static str> {
                match self { $(Self::$name => $challenge,)* }
            }

            /// The gRPC status.
            #[must_use]
            pub const fn grpc_code(self) -> GrpcCode {
                match self { $(Self::$name => GrpcCode::$grpc,)* }
            }

            /// The `reason` of `google.rpc.ErrorInfo`.
            #[must_use]
            pub const fn grpc_reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }
        }
    };
}

reasons! {
    /// No credential was shown, or one in a scheme that is not accepted.
    CredentialsMissing {
        status: UNAUTHORIZED, code: "credentials_missing",
        detail: "This resource needs a credential.",
        challenge: None, grpc: Unauthenticated, reason: "CREDENTIALS_MISSING",
    }
    /// More than one credential was shown (RFC 6750 §2).
    CredentialsAmbiguous {
        status: BAD_REQUEST, code: "credentials_ambiguous",
        detail: "Exactly one credential may be sent, once.",
        challenge: Some("invalid_request"), grpc: Unauthenticated, reason: "OVERLOADED_CREDENTIALS",
    }
    /// What carries the credential does not parse.
    RequestMalformed {
        status: BAD_REQUEST, code: "request_malformed",
        detail: "The credential is not well-formed.",
        challenge: Some("invalid_request"), grpc: Unauthenticated, reason: "CREDENTIALS_MALFORMED",
    }
    /// A credential stands in the URI, where none is accepted.
    CredentialInUri {
        status: BAD_REQUEST, code: "credential_in_uri",
        detail: "A credential must not be sent in the URI.",
        challenge: Some("invalid_request"), grpc: Unauthenticated, reason: "CREDENTIALS_MALFORMED",
    }
    /// The key is not one of ours.
    CredentialInvalid {
        status: UNAUTHORIZED, code: "credential_invalid",
        detail: "The credential is not valid.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "API_KEY_INVALID",
    }
    /// The key is right, but its time is over.
    CredentialExpired {
        status: UNAUTHORIZED, code: "credential_expired",
        detail: "The credential has expired.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "API_KEY_EXPIRED",
    }
    /// The key is right, but its time has not come.
    CredentialNotYetValid {
        status: UNAUTHORIZED, code: "credential_not_yet_valid",
        detail: "The credential is not valid yet.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "API_KEY_EXPIRED",
    }
    /// The key is right, but was revoked, disabled or replaced.
    CredentialRevoked {
        status: UNAUTHORIZED, code: "credential_revoked",
        detail: "The credential was revoked.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "API_KEY_REVOKED",
    }
    /// The key was right, until it was sent over plain HTTP.
    CredentialExposed {
        status: UNAUTHORIZED, code: "credential_exposed",
        detail: "The credential was ended because it was sent over an insecure connection.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "API_KEY_REVOKED",
    }
    /// The token is not one of ours, or not good: which check failed is not told.
    TokenInvalid {
        status: UNAUTHORIZED, code: "token_invalid",
        detail: "The access token is invalid.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "JWT_TOKEN_INVALID",
    }
    /// The token is right, but its time is over.
    TokenExpired {
        status: UNAUTHORIZED, code: "token_expired",
        detail: "The access token expired.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "ACCESS_TOKEN_EXPIRED",
    }
    /// The token is bound to a certificate or a key that the caller has not proved to
    /// have (RFC 8705 §3).
    TokenBindingFailed {
        status: UNAUTHORIZED, code: "token_binding_failed",
        detail: "The access token is bound to another sender.",
        challenge: Some("invalid_token"), grpc: Unauthenticated, reason: "TOKEN_BINDING_FAILED",
    }
    /// Too many credentials from the client's network failed.
    TooManyFailures {
        status: TOO_MANY_REQUESTS, code: "too_many_failures",
        detail: "Too many credentials from this network failed. Try again later.",
        challenge: None, grpc: ResourceExhausted, reason: "ABNORMAL_USAGE_DETECTED",
    }
    /// The request came over plain HTTP.
    InsecureTransport {
        status: FORBIDDEN, code: "insecure_transport",
        detail: "This resource is served over HTTPS only.",
        challenge: None, grpc: PermissionDenied, reason: "INSECURE_TRANSPORT",
    }
    /// The key is right, but may not be used from there or like that.
    SourceNotAllowed {
        status: FORBIDDEN, code: "source_not_allowed",
        detail: "The credential may not be used in this way.",
        challenge: None, grpc: PermissionDenied, reason: "API_KEY_IP_ADDRESS_BLOCKED",
    }
    /// The caller is known and lacks a scope.
    InsufficientScope {
        status: FORBIDDEN, code: "insufficient_scope",
        detail: "The credential lacks a scope that this operation needs.",
        challenge: Some("insufficient_scope"), grpc: PermissionDenied,
        reason: "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
    }
    /// The caller is known and may not do this, whatever their scopes.
    Forbidden {
        status: FORBIDDEN, code: "forbidden",
        detail: "The caller may not do this.",
        challenge: None, grpc: PermissionDenied, reason: "SECURITY_POLICY_VIOLATED",
    }
    /// The caller has used up a quota.
    RateLimited {
        status: TOO_MANY_REQUESTS, code: "rate_limited",
        detail: "The caller has used up a quota. Try again later.",
        challenge: None, grpc: ResourceExhausted, reason: "RATE_LIMIT_EXCEEDED",
    }
    /// Whether the caller has a quota left cannot be found out at the moment.
    LimiterUnavailable {
        status: SERVICE_UNAVAILABLE, code: "limiter_unavailable",
        detail: "The server has reduced capacity at the moment. Try again later.",
        challenge: None, grpc: Unavailable, reason: "SERVICE_NOT_AVAILABLE",
    }
    /// Whether the credential is good cannot be found out at the moment.
    VerifierUnavailable {
        status: SERVICE_UNAVAILABLE, code: "verifier_unavailable",
        detail: "The credential cannot be verified at the moment. Try again later.",
        challenge: None, grpc: Unavailable, reason: "SERVICE_NOT_AVAILABLE",
    }
    /// The server is not set up right, or a hook of it panicked.
    Internal {
        status: INTERNAL_SERVER_ERROR, code: "internal",
        detail: "The server failed to decide on this request.",
        challenge: None, grpc: Internal, reason: "INTERNAL",
    }
}

impl Reason {
    /// The `error_description` of the challenge (RFC 6750 §3), where there is one.
    #[must_use]
    pub const fn challenge_description(self) -> Option<&'static str> {
        match self {
            Self::TokenInvalid => Some("The access token is invalid"),
            Self::TokenExpired => Some("The access token expired"),
            _ => None,
        }
    }

    /// The registered type of the problem, where there is one: an absolute URI.
    #[must_use]
    pub const fn registered_type(self) -> Option<&'static str> {
        match self {
            Self::TooManyFailures => {
                Some("https://iana.org/assignments/http-problem-types#abnormal-usage-detected")
            }
            Self::RateLimited => {
                Some("https://iana.org/assignments/http-problem-types#quota-exceeded")
            }
            Self::LimiterUnavailable => {
                Some("https://iana.org/assignments/http-problem-types#temporary-reduced-capacity")
            }
            _ => None,
        }
    }

    /// The wait that an answer names where nobody said how long.
    pub(crate) const fn least_wait(self) -> Option<Duration> {
        match self {
            Self::LimiterUnavailable | Self::TooManyFailures | Self::VerifierUnavailable => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }

    /// The position in [`Reason::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The gRPC statuses that a refusal can have, with their numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
#[repr(u8)]
pub enum GrpcCode {
    /// `PERMISSION_DENIED`
    PermissionDenied = 7,
    /// `RESOURCE_EXHAUSTED`
    ResourceExhausted = 8,
    /// `INTERNAL`
    Internal = 13,
    /// `UNAVAILABLE`
    Unavailable = 14,
    /// `UNAUTHENTICATED`
    Unauthenticated = 16,
}
