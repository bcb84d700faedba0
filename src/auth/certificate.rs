//! [`ClientCertificate`]: what a token can be bound to.

use http::Extensions;
use subtle::ConstantTimeEq;

use crate::identity::Identity;

/// The SHA-256 of the certificate (its DER) that the client has shown in the TLS handshake.
///
/// Put it into the extensions of a request, where your server knows it: tokens that are
/// bound to a certificate (RFC 8705 §3) are good only with the right one there. Behind a
/// proxy that ends TLS, take it from what the proxy says, and only if it is the proxy that
/// says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "it is what it is named")]
pub struct ClientCertificate(pub [u8; 32]);

/// Whether the caller has what their token is bound to, if it is bound.
pub(super) fn is_proved(identity: &Identity, extensions: &Extensions) -> bool {
    let Some(bound) = identity.certificate() else {
        return true;
    };
    let shown = extensions.get::<ClientCertificate>();
    shown.is_some_and(|ClientCertificate(shown)| bound.ct_eq(shown).into())
}
