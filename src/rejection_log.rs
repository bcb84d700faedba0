//! The log event of a rejection.

use std::net::IpAddr;

use http::Extensions;

use crate::identity::Identity;
use crate::network;
use crate::rejection::{Cause, Reason, Rejection};

/// Logs a rejection, with what is known about the request: once per rejection, by what makes the
/// response.
///
/// Fields: `kind`, `cause`, `fault` (the claim at fault), `issuer`, `credential_id`, `route`, `client`.
/// Nothing in them is made up by the client: the issuer is a configured one, the id is that of a
/// credential whose secret or signature was right, and the route is the template that the router has
/// matched.
pub(crate) fn log(rejection: &Rejection, extensions: &Extensions) {
    let request = Request {
        rejection,
        caller: rejection.holder().or_else(|| extensions.get()),
        extensions,
    };
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "tollgate::rejection",
                kind = rejection.reason().code(),
                cause = rejection.cause().as_str(),
                fault = rejection.fault(),
                issuer = request.issuer(),
                credential_id = request.credential_id(),
                route = request.route(),
                client = request.client(),
                "request rejected"
            )
        };
    }
    match rejection.reason() {
        Reason::Internal => event!(error),
        // Anybody can send tokens with unknown `kid`s. What fetches the keys logs when its budget is
        // spent, and not for each token.
        // The same goes for credentials that wait too long for their verification.
        Reason::VerifierUnavailable
            if matches!(
                rejection.cause(),
                Cause::TokenKeyUnavailable | Cause::TooManyVerifications
            ) =>
        {
            event!(debug);
        }
        Reason::LimiterUnavailable | Reason::VerifierUnavailable => event!(warn),
        _ => event!(debug),
    }
}

/// The facts that a request adds to the event. Computed only if the event is enabled.
#[derive(Clone, Copy)]
struct Request<'a> {
    rejection: &'a Rejection,
    caller: Option<&'a Identity>,
    extensions: &'a Extensions,
}

impl<'a> Request<'a> {
    fn issuer(self) -> Option<&'a str> {
        let caller = self.caller.map(|caller| caller.principal().source());
        self.rejection.issuer().or(caller)
    }

    fn credential_id(self) -> Option<&'a str> {
        self.caller.and_then(Identity::credential_id)
    }

    fn route(self) -> Option<&'a str> {
        #[cfg(feature = "axum")]
        return crate::axum::matched_path(self.extensions);
        #[cfg(not(feature = "axum"))]
        None
    }

    fn client(self) -> Option<tracing::field::DisplayValue<IpAddr>> {
        network::known_address(self.extensions).map(tracing::field::display)
    }
}
