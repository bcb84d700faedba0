//! The problems that a client can be told of, by their `code`.
//!
//! The `type` of every problem document (RFC 9457) points here, unless
//! [`AuthLayer::problem_base`](crate::AuthLayer::problem_base) sends it elsewhere.
//!
//! ## credentials_missing
//! 401. No credential was sent, or only in schemes that are not accepted. The
//! `WWW-Authenticate` field lists those that are.
//!
//! ## credentials_ambiguous
//! 400. More than one credential was sent, or one twice. Send exactly one.
//!
//! ## request_malformed
//! 400. The field, parameter or cookie that should hold the credential is empty, too
//! long, or has characters that a credential cannot have.
//!
//! ## credential_in_uri
//! 400. A credential stands in the URI, where it ends up in logs. Send it in a header
//! field, and replace it: it has been seen.
//!
//! ## credential_invalid
//! 401. The credential is not one of this API: mistyped, made for another
//! environment, or unknown.
//!
//! ## credential_expired
//! 401. The credential was good, and its time is over. Ask for another one.
//!
//! ## credential_not_yet_valid
//! 401. The credential will be good later.
//!
//! ## credential_revoked
//! 401. The credential was revoked, disabled or replaced.
//!
//! ## source_not_allowed
//! 403. The credential is good, but may not be used from there or in this way.
//!
//! ## insufficient_scope
//! 403. The credential is good and lacks a scope; `required_scopes` lists all that the
//! operation needs.
//!
//! ## forbidden
//! 403. The caller may not do this, whatever their scopes.
//!
//! ## verifier_unavailable
//! 503. The server cannot find out at the moment whether the credential is good. Try
//! again after the `Retry-After` field.
//!
//! ## internal
//! 500. The server failed to decide. Its operator finds the reason in the log.
