//! The problems that a client can be told of, by their `code`.
//!
//! The `type` of every problem document (RFC 9457) points here, unless
//! [`AuthLayer::problem_base`](crate::AuthLayer::problem_base) sends it elsewhere.
//!
//! ## credentials_missing
//! Status 401: No credential was sent, or only in schemes that are not accepted. The
//! `WWW-Authenticate` field lists those that are.
//!
//! ## credentials_ambiguous
//! Status 400: More than one credential was sent, or one twice. Send exactly one.
//!
//! ## request_malformed
//! Status 400: The field, parameter or cookie that should hold the credential is empty, too
//! long, or has characters that a credential cannot have.
//!
//! ## credential_in_uri
//! Status 400: A credential stands in the URI, where it ends up in logs. Send it in a header
//! field, and replace it: it has been seen.
//!
//! ## credential_invalid
//! Status 401: The credential is not one of this API: mistyped, made for another
//! environment, or unknown.
//!
//! ## credential_expired
//! Status 401: The credential was good, and its time is over. Ask for another one.
//!
//! ## credential_not_yet_valid
//! Status 401: The credential will be good later.
//!
//! ## credential_revoked
//! Status 401: The credential was revoked, disabled or replaced.
//!
//! ## credential_exposed
//! Status 401: The credential was good until it was sent over plain HTTP, where anybody on the
//! way can read it. Ask for another one, and find out what sent it.
//!
//! ## token_invalid
//! Status 401: The access token is not good: malformed, of another issuer or for another
//! audience, signed by nobody that is known here, or revoked. Ask for another one.
//!
//! ## token_expired
//! Status 401: The access token was good, and its time is over. Ask for another one.
//!
//! ## token_binding_failed
//! Status 401: The access token may only be used with the certificate or the key that it was
//! issued for (RFC 8705, RFC 9449), and the request does not prove that.
//!
//! ## too_many_failures
//! Status 429: Too many credentials from your network were wrong. Try again after the
//! `Retry-After` field. The `type` is the one that is registered for this.
//!
//! ## insecure_transport
//! Status 403: The request came over plain HTTP, or the server cannot tell how it came. Send it over
//! HTTPS. Replace a credential that was sent over plain HTTP, since others may have read it. If the
//! request was sent over HTTPS, the proxy in front of the server does not say so: its operator has to
//! set `X-Forwarded-Proto`, and name the proxy as trusted.
//!
//! ## source_not_allowed
//! Status 403: The credential is good, but may not be used from there or in this way.
//!
//! ## insufficient_scope
//! Status 403: The credential is good and lacks a scope; `required_scopes` lists all that the
//! operation needs.
//!
//! ## forbidden
//! Status 403: The caller may not do this, whatever their scopes.
//!
//! ## rate_limited
//! Status 429: You have used up a quota; `violated-policies` names it, as `RateLimit-Policy`
//! does. Try again after the `Retry-After` field; without one, the request costs more than
//! you can ever have at once. The `type` is the one that is registered for this.
//!
//! ## limiter_unavailable
//! Status 503: The server cannot find out at the moment whether you have a quota left. Try
//! again after the `Retry-After` field. The `type` is the one that is registered for this.
//!
//! ## verifier_unavailable
//! Status 503: The server cannot find out at the moment whether the credential is good. Try
//! again after the `Retry-After` field.
//!
//! ## internal
//! Status 500: The server failed to decide. Its operator finds the reason in the log.
