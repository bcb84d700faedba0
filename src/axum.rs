//! For axum: [`Identity`] as an extractor, [`Rejection`] as a response.
//!
//! `Identity` is for handlers that need to know who calls; `Option<Identity>` is for
//! those behind an optional door, and is `None` for anonymous callers. A handler that
//! no `AuthLayer` covers answers 500 to both, and the log names the fix.

use axum::extract::{
    FromRequestParts, MatchedPath, NestedPath, OptionalFromRequestParts, OriginalUri,
};
use axum::response::IntoResponse;
use http::request::Parts;
use http::{Extensions, Response, Uri};
use serde::de::DeserializeOwned;

use crate::auth::with_query;
use crate::body::Body;
use crate::context::{Anonymous, caller};
use crate::grpc::Dialect;
use crate::identity::Identity;
use crate::rejection::{Cause, Reason, Rejection};
use crate::rejection_log;
use crate::respond::Voice;

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        caller(&parts.extensions, "a handler")
            .cloned()
            .map_err(|rejection| rejection.spoken(Dialect::of(parts)))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Rejection> {
        match caller(&parts.extensions, "a handler") {
            Ok(identity) => Ok(Some(identity.clone())),
            Err(_) if parts.extensions.get::<Anonymous>().is_some() => Ok(None),
            Err(rejection) => Err(rejection.spoken(Dialect::of(parts))),
        }
    }
}

/// The claims of the caller's token, as a type of yours: an extractor, where
/// [`Identity::claims`] is a method.
///
/// Refuses a caller that has shown a key, or a token with other claims, with 403. With
/// `Option<Claims<C>>` these are `None`, and so is an anonymous one.
///
/// ```
/// use serde::Deserialize;
/// use tollgate::Claims;
///
/// #[derive(Deserialize)]
/// struct Profile {
///     email: String,
/// }
///
/// async fn whoami(Claims(profile): Claims<Profile>) -> String {
///     profile.email
/// }
/// # axum::Router::<()>::new().route("/", axum::routing::get(whoami));
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "an extractor is taken apart")]
pub struct Claims<C>(pub C);

impl<S: Sync, C: DeserializeOwned> FromRequestParts<S> for Claims<C> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let identity = <Identity as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        identity.claims().map(Self).map_err(|_| {
            let other = Rejection::new(Reason::Forbidden, Cause::ClaimsMissing);
            other.spoken(Dialect::of(parts))
        })
    }
}

impl<S: Sync, C: DeserializeOwned> OptionalFromRequestParts<S> for Claims<C> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Rejection> {
        let identity =
            <Identity as OptionalFromRequestParts<S>>::from_request_parts(parts, state).await?;
        Ok(identity
            .and_then(|identity| identity.claims().ok())
            .map(Self))
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> axum::response::Response {
        rejection_log::log(&self, &Extensions::new());
        let response: Response<_> = Voice::standard().answer(self);
        response.map(Body::<axum::body::Body>::full).into_response()
    }
}

/// Redacts the copy of the URI that the router keeps, which has the prefixes of
/// nested routers and the same query.
pub(crate) fn redact_uri(extensions: &mut Extensions, redacted: &Uri) {
    if let Some(OriginalUri(original)) = extensions.get_mut::<OriginalUri>() {
        *original = with_query(original, redacted.query().unwrap_or_default());
    }
}

/// Returns the prefix under which the router that handles the request is nested.
pub(crate) fn nested_path(extensions: &Extensions) -> Option<&str> {
    extensions.get::<NestedPath>().map(NestedPath::as_str)
}

/// The template of the route that the router has found.
pub(crate) fn matched_path(extensions: &Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}
