//! [`Respond`]: another body for rejections, and the headers of responses that scripts may read.
//!
//! A rejection is a response with a status, headers and a problem document; for a client that
//! speaks gRPC or gRPC-Web, it is the `grpc-status` of a response that is trailers only, with
//! `google.rpc.ErrorInfo` and, if there is a wait, `RetryInfo`. The media type of the request
//! decides between them.
//!
//! The parts that a client's security rests on (status, challenge, `Cache-Control`) cannot be
//! changed. The body can be restyled with [`Respond`].

use bytes::Bytes;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};

use crate::grpc;
use crate::limit::{LIMIT, RATELIMIT, RATELIMIT_POLICY, REMAINING, RESET};
use crate::rejection::Rejection;

/// The response header fields of this crate that a browser's script may want to
/// read, those of gRPC-Web included. Give them to the `Access-Control-Expose-Headers` of
/// your CORS layer, and put that layer outside of `AuthLayer`, so that refusals get its fields too.
pub const EXPOSED_HEADERS: [HeaderName; 11] = [
    WWW_AUTHENTICATE,
    RETRY_AFTER,
    CREDENTIAL_EXPIRATION,
    RATELIMIT,
    RATELIMIT_POLICY,
    LIMIT,
    REMAINING,
    RESET,
    grpc::GRPC_STATUS,
    grpc::GRPC_MESSAGE,
    grpc::GRPC_DETAILS,
];

/// When the credential of the request ends, as an HTTP date: see
/// [`AuthLayer::warn_before_expiry`](crate::AuthLayer::warn_before_expiry).
pub const CREDENTIAL_EXPIRATION: HeaderName = HeaderName::from_static("credential-expiration");

/// Gives refusals another body.
///
/// The status, the challenge, `Retry-After` and `Cache-Control` stay as they are. An
/// answer to a gRPC client has no body, so it is not asked about those.
/// Any `Fn(&Rejection) -> Restyled` is one. If it panics, the client gets the
/// problem document.
///
/// ```
/// use http::HeaderValue;
/// use tollgate::respond::Restyled;
/// use tollgate::Rejection;
///
/// let house_style = |rejection: &Rejection| {
///     let code = rejection.reason().code();
///     let json = HeaderValue::from_static("application/json");
///     Restyled::new(json, format!(r#"{{"error":"{code}"}}"#))
/// };
/// # use tollgate::{keys::Peppers, ApiKeys, AuthLayer};
/// # let keys = ApiKeys::in_memory(Peppers::random());
/// let layer = AuthLayer::new(keys).respond_with(house_style);
/// ```
pub trait Respond: Send + Sync + 'static {
    /// The body to send.
    fn restyle(&self, rejection: &Rejection) -> Restyled;
}

impl<F> Respond for F
where
    F: Fn(&Rejection) -> Restyled + Send + Sync + 'static,
{
    fn restyle(&self, rejection: &Rejection) -> Restyled {
        self(rejection)
    }
}

/// A body of your own for a refusal.
#[derive(Clone, Debug)]
pub struct Restyled {
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
}

impl Restyled {
    /// A body with its media type.
    #[must_use]
    pub fn new(content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        Self {
            content_type,
            body: body.into(),
        }
    }
}
