//! [`ProtectedResource`]: what a client needs to know to log in (RFC 9728).
//!
//! A 401 of [`AuthLayer`](crate::AuthLayer) names the URL of this document, the document
//! names the authorization server, and so a client that knows nothing but the URL of the
//! API can get a token: it is how those of MCP do.
//!
//! ```
//! use tollgate::auth::ProtectedResource;
//!
//! let resource = ProtectedResource::new("https://api.example.com/v1")
//!     .authorization_server("https://id.example.com/")
//!     .scopes(["orders:read", "orders:write"]);
//! assert_eq!(resource.path(), "/.well-known/oauth-protected-resource/v1");
//!
//! # let kit = tollgate::testing::TestKeys::new("acme");
//! let layer = tollgate::AuthLayer::new(kit.keys()).protected_resource(&resource);
//! let app = axum::Router::<()>::new()
//!     // … the routes of the API …
//!     .layer(layer)
//!     // After the layer, so that everybody may read it.
//!     .route_service(resource.path(), resource.clone());
//! ```

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE,
};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde::Serialize;
use tower_service::Service;

use crate::config::{ConfigError, literal};
use crate::scope::ScopeSet;

/// The metadata of an API, and the service that answers with it: see the
/// [module](self).
///
/// The service answers `GET` and `HEAD` with the document, `OPTIONS` with 204, and other methods with
/// 405. Every response has `Access-Control-Allow-Origin: *`, and `OPTIONS` answers the preflight of a
/// browser: MCP clients send `MCP-Protocol-Version`. A CORS layer outside is not needed for it.
#[derive(Clone, Debug, Serialize)]
pub struct ProtectedResource {
    resource: Box<str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorization_servers: Vec<Box<str>>,
    bearer_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_documentation: Option<Box<str>>,
    #[serde(skip_serializing_if = "is_false")]
    tls_client_certificate_bound_access_tokens: bool,
    #[serde(skip)]
    origin: Box<str>,
    #[serde(skip)]
    path: Box<str>,
}

impl ProtectedResource {
    /// The API at this URL, exactly as its clients write it (RFC 9728 §3.3).
    ///
    /// # Panics
    /// If it is not an absolute `https` URL without a fragment. `http` is for `localhost`
    /// and loopback addresses.
    #[must_use]
    #[track_caller]
    pub fn new(resource: &str) -> Self {
        literal(Self::try_new(resource))
    }

    /// As [`ProtectedResource::new`], for a URL from configuration.
    ///
    /// # Errors
    /// Where `new` panics.
    pub fn try_new(resource: &str) -> Result<Self, ConfigError> {
        let uri = resource
            .parse::<Uri>()
            .ok()
            .filter(|_| is_plain_url(resource));
        let parts = uri
            .as_ref()
            .and_then(|uri| Some((uri, uri.scheme()?, uri.authority()?)));
        let Some((uri, scheme, authority)) = parts else {
            return Err(ConfigError::new(
                "a resource is an absolute URL in plain characters, without user and fragment",
            ));
        };
        if *scheme != Scheme::HTTPS && !(*scheme == Scheme::HTTP && is_loopback(authority.host())) {
            return Err(ConfigError::new("a resource has an https URL"));
        }
        // RFC 9728 §3.1: between the host and the path, of which a lone slash goes.
        let rest = uri.path_and_query().map_or("", |rest| rest.as_str());
        let rest = match rest.strip_prefix('/') {
            Some(after) if after.is_empty() || after.starts_with('?') => after,
            _ => rest,
        };
        Ok(Self {
            resource: resource.into(),
            authorization_servers: Vec::new(),
            bearer_methods_supported: ["header"],
            scopes_supported: Vec::new(),
            resource_name: None,
            resource_documentation: None,
            tls_client_certificate_bound_access_tokens: false,
            origin: format!("{scheme}://{authority}").into(),
            path: format!("{WELL_KNOWN}{rest}").into(),
        })
    }

    /// Adds an authorization server, by its issuer identifier.
    #[must_use]
    pub fn authorization_server(mut self, issuer: &str) -> Self {
        self.authorization_servers.push(issuer.into());
        self
    }

    /// Names scopes that a client may ask for. `offline_access` is left out: it is between
    /// the client and the authorization server.
    ///
    /// # Panics
    /// If one of them is none: see [`ScopeSet::try_new`].
    #[must_use]
    #[track_caller]
    pub fn scopes<'a>(self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        literal(self.try_scopes(scopes))
    }

    /// As [`ProtectedResource::scopes`], for scopes from configuration.
    ///
    /// # Errors
    /// Where `scopes` panics.
    pub fn try_scopes<'a>(
        mut self,
        scopes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ConfigError> {
        let scopes = ScopeSet::try_new(scopes);
        let scopes = scopes.map_err(|error| ConfigError::new(error.to_string()))?;
        let scopes = scopes.iter().filter(|scope| *scope != "offline_access");
        self.scopes_supported = scopes.map(Box::from).collect();
        Ok(self)
    }

    /// Names the API for people.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.resource_name = Some(name.into());
        self
    }

    /// Says where the API is described for developers.
    #[must_use]
    pub fn documentation(mut self, url: &str) -> Self {
        self.resource_documentation = Some(url.into());
        self
    }

    /// Says that tokens may be bound to certificates (RFC 8705): see
    /// [`ClientCertificate`](crate::auth::ClientCertificate).
    #[must_use]
    pub fn certificate_bound_tokens(mut self) -> Self {
        self.tls_client_certificate_bound_access_tokens = true;
        self
    }

    /// The path that the document is to be served at.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The URL of the document: the `resource_metadata` of challenges.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.origin, self.path)
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and a flag: there is nothing in it that could fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<B> Service<Request<B>> for ProtectedResource {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut response = Response::new(String::new());
        let headers = response.headers_mut();
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        // The document is public, so the pages of every origin may read it. The value does not
        // depend on the request, and needs no `Vary`.
        set(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        match *request.method() {
            Method::GET | Method::HEAD => {
                set(CONTENT_TYPE, "application/json");
                set(CACHE_CONTROL, "public, max-age=3600");
                if request.method() == Method::GET {
                    *response.body_mut() = self.to_json();
                }
            }
            Method::OPTIONS => {
                set(ALLOW, METHODS);
                set(ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD");
                // The wildcard does not cover `Authorization`, and older browsers do not know it.
                set(
                    ACCESS_CONTROL_ALLOW_HEADERS,
                    "*, Authorization, MCP-Protocol-Version",
                );
                set(ACCESS_CONTROL_MAX_AGE, "7200");
                *response.status_mut() = StatusCode::NO_CONTENT;
            }
            _ => {
                set(ALLOW, METHODS);
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
        }
        ready(Ok(response))
    }
}

/// Whether it can stand in a challenge, and leads where it seems to lead.
fn is_plain_url(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"#@\"\\".contains(&byte))
}

/// Whether that host is this machine, by its name.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands it over like that"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

const METHODS: &str = "GET, HEAD, OPTIONS";

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_stands_between_the_host_and_the_path() {
        for (resource, url) in [
            (
                "https://api.example.com",
                "https://api.example.com/.well-known/oauth-protected-resource",
            ),
            (
                "https://api.example.com/",
                "https://api.example.com/.well-known/oauth-protected-resource",
            ),
            (
                "https://a.example:8443/v1",
                "https://a.example:8443/.well-known/oauth-protected-resource/v1",
            ),
            (
                "https://a.example/v1/?k=1",
                "https://a.example/.well-known/oauth-protected-resource/v1/?k=1",
            ),
            (
                "http://127.0.0.1:3000",
                "http://127.0.0.1:3000/.well-known/oauth-protected-resource",
            ),
            (
                "http://[::1]/",
                "http://[::1]/.well-known/oauth-protected-resource",
            ),
        ] {
            assert_eq!(ProtectedResource::new(resource).url(), url);
        }
        let slash = ProtectedResource::new("https://a.example/?k=1");
        assert_eq!(slash.path(), "/.well-known/oauth-protected-resource");
        for bad in [
            "https://a.example/\"b",
            "https://a.example/ü",
            "https://user@a.example/",
            "",
            "/v1",
            "api.example.com",
            "http://api.example.com",
            "https://a/#f",
            "ftp://a/",
        ] {
            assert!(ProtectedResource::try_new(bad).is_err(), "{bad}");
        }
    }
}
