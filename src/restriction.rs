//! [`Restrictions`]: from where and how a credential may be used.

use std::net::IpAddr;

use http::header::{ORIGIN, REFERER};
use http::request::Parts;
use http::{Method, Version};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::origin::{Origin, OriginPattern};

/// The methods of the IANA registry, and `PURGE` of the common caches. All are in upper case. Any
/// other spelling is a mistake, since methods are case-sensitive (RFC 9110 §9.1).
const STANDARD_METHODS: [&str; 40] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "PURGE",
];

/// Returns the standard method that the text names in any case.
pub(crate) fn standard_method(text: &str) -> Option<&'static str> {
    let is_named = |name: &&str| name.eq_ignore_ascii_case(text);
    STANDARD_METHODS.into_iter().find(is_named)
}

/// The networks, methods and origins that a credential is restricted to. An empty list restricts
/// nothing. If several lists have entries, all of them must be met.
///
/// [`ApiKeys::issue`](crate::ApiKeys::issue) and [`ApiKeys::update`](crate::ApiKeys::update) store
/// entries in their canonical form. An entry that a store returns in another form never permits more
/// than the canonical form: methods in lower case permit nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must be able to build one from columns"
)]
pub struct Restrictions {
    /// The networks that the client must be in, one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// The methods that may be used. `GET` does not allow `HEAD`. It allows to open a WebSocket, over
    /// HTTP/2 too, where that is a `CONNECT` (RFC 8441).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The origins that a browser's request must come from: `https://app.example.com`,
    /// or `https://*.example.com` for all hosts below. They are read from `Origin` or
    /// `Referer`, which anything but a browser can forge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<String>,
}

impl Restrictions {
    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.methods.is_empty() && self.referrers.is_empty()
    }

    /// Whether a request may be made. A client whose address is not known is in no
    /// network.
    #[must_use]
    pub fn admit(&self, client: Option<IpAddr>, request: &Parts) -> bool {
        self.unmet(client, request).is_none()
    }

    /// Returns the name of the first list that a request does not meet.
    pub(crate) fn unmet(&self, client: Option<IpAddr>, request: &Parts) -> Option<&'static str> {
        let network = |net: &IpNet| client.is_some_and(|client| net.contains(&client));
        // A stored `get` must not permit requests with the method `get`, which is not `GET`.
        let is_canonical = |method: &String| standard_method(method).is_none_or(|m| m == method);
        let asked = [request.method.as_str(), rule_method(request).as_str()];
        let method = |method: &String| asked.contains(&&**method) && is_canonical(method);
        if !self.networks.is_empty() && !self.networks.iter().any(network) {
            return Some("networks");
        }
        if !self.methods.is_empty() && !self.methods.iter().any(method) {
            return Some("methods");
        }
        if !self.referrers.is_empty() && !self.admits_referrer(request) {
            return Some("referrers");
        }
        None
    }

    fn admits_referrer(&self, request: &Parts) -> bool {
        // `Origin` decides if it is there: a browser that sends `null` hides where it comes from.
        let field = request
            .headers
            .get(ORIGIN)
            .or_else(|| request.headers.get(REFERER));
        let url = field.and_then(|value| value.to_str().ok());
        let Some(from) = url.and_then(Origin::of_url) else {
            return false;
        };
        // Most patterns are canonical origins, and need not be parsed.
        let canonical = from.to_string();
        self.referrers.iter().any(|pattern| {
            *pattern == canonical
                || OriginPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(&from))
        })
    }
}

/// Returns the method that a rule about methods may name for a request: its own, but `GET` for a
/// `CONNECT` with a path, by which HTTP/2 and HTTP/3 open a WebSocket (RFC 8441 §5, RFC 9220). Over
/// HTTP/1.1 a WebSocket is opened by `GET`.
pub(crate) fn rule_method(request: &Parts) -> &Method {
    let is_extended = request.method == Method::CONNECT
        && request.version >= Version::HTTP_2
        && request.uri.path().starts_with('/');
    if is_extended {
        &Method::GET
    } else {
        &request.method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, fields: &[(&'static str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_client_must_be_in_one_of_the_networks() {
        let networks = ["10.0.0.0/8", "2001:db8::/32"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        let restrictions = Restrictions {
            networks,
            ..Restrictions::default()
        };
        let admit = |ip: &str| restrictions.admit(Some(ip.parse().unwrap()), &request("GET", &[]));
        assert!(admit("10.255.0.1") && admit("2001:db8:1::1"));
        assert!(!admit("11.0.0.1") && !admit("2001:db9::1"));
        assert!(
            !restrictions.admit(None, &request("GET", &[])),
            "unknown is in none"
        );
    }

    #[test]
    fn methods_are_matched_exactly() {
        let methods = vec!["GET".to_owned()];
        let restrictions = Restrictions {
            methods,
            ..Restrictions::default()
        };
        assert!(restrictions.admit(None, &request("GET", &[])));
        for other in ["HEAD", "POST", "get"] {
            assert!(!restrictions.admit(None, &request(other, &[])), "{other}");
        }
    }

    #[test]
    fn key_for_get_opens_a_websocket_over_http_2() {
        let restrictions = Restrictions {
            methods: vec!["GET".to_owned()],
            ..Restrictions::default()
        };
        let connect = |version, uri: &str| {
            let mut request = request("CONNECT", &[]);
            (request.version, request.uri) = (version, uri.parse().unwrap());
            restrictions.admit(None, &request)
        };
        assert!(connect(Version::HTTP_2, "https://api.example.com/ws"));
        assert!(!connect(Version::HTTP_11, "https://api.example.com/ws"));
        assert!(!connect(Version::HTTP_2, "api.example.com:443"));
    }

    #[test]
    fn referrers_are_matched_by_origin() {
        let referrers = ["https://app.example.com", "https://*.example.org"];
        let referrers = referrers.map(str::to_owned).to_vec();
        let restrictions = Restrictions {
            referrers,
            ..Restrictions::default()
        };
        let admit = |name, value: &str| restrictions.admit(None, &request("GET", &[(name, value)]));
        assert!(admit("referer", "https://app.example.com/page?x=1"));
        assert!(admit("origin", "https://APP.example.com"));
        assert!(admit("referer", "https://a.b.example.org/"));
        for bad in [
            "http://app.example.com/",
            "https://app.example.com:8443/",
            "https://app.example.com.evil.example/",
            "https://evil.example/?https://app.example.com",
            "https://app.example.com@evil.example/",
            "https://example.org/",
            "https://.example.org/",
            "https://evilexample.org/",
            "app.example.com",
            "null",
        ] {
            assert!(!admit("referer", bad), "{bad}");
        }
        assert!(!restrictions.admit(None, &request("GET", &[])));
        let hidden = [("origin", "null"), ("referer", "https://app.example.com/")];
        assert!(!restrictions.admit(None, &request("GET", &hidden)));
    }
}
