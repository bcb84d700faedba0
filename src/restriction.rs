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

    /// Returns the restrictions that admit what both admit.
    pub(crate) fn both(&self, other: &Self) -> Self {
        let narrower_network = |a: &IpNet, b: &IpNet| {
            let a_is = b.contains(a).then_some(*a);
            a_is.or_else(|| a.contains(b).then_some(*b))
        };
        let same_method = |a: &String, b: &String| (a == b).then(|| a.clone());
        let narrower_referrer = |a: &String, b: &String| {
            let patterns = (OriginPattern::parse(a).ok()?, OriginPattern::parse(b).ok()?);
            match patterns {
                (pattern, other) if other.covers(&pattern) => Some(a.clone()),
                (pattern, other) if pattern.covers(&other) => Some(b.clone()),
                _ => None,
            }
        };
        let merged = || {
            Some(Self {
                networks: overlap(&self.networks, &other.networks, narrower_network)?,
                methods: overlap(&self.methods, &other.methods, same_method)?,
                referrers: overlap(&self.referrers, &other.referrers, narrower_referrer)?,
            })
        };
        // An empty list would restrict nothing. No request has the empty method.
        merged().unwrap_or_else(|| Self {
            methods: vec![String::new()],
            ..Self::default()
        })
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

/// Returns the entries for what is in both lists, where an empty list has everything in it, or `None`
/// if there is nothing. `narrower` returns what is in both of two entries.
fn overlap<T: Clone>(
    list: &[T],
    other: &[T],
    narrower: impl Fn(&T, &T) -> Option<T>,
) -> Option<Vec<T>> {
    if list.is_empty() || other.is_empty() {
        return Some([list, other].concat());
    }
    let pairs = list.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    let both: Vec<_> = pairs.filter_map(|(a, b)| narrower(a, b)).collect();
    (!both.is_empty()).then_some(both)
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

    #[test]
    fn merged_restrictions_admit_what_both_admit() {
        let lists = [
            Restrictions::default(),
            of(&["10.0.0.0/8"], &[], &[]),
            of(&["10.1.0.0/16", "2001:db8::/32"], &["GET"], &[]),
            of(&["192.0.2.0/24"], &["GET", "POST"], &[]),
            of(&[], &["POST"], &["https://*.example.com"]),
            of(&[], &["get"], &[]),
            of(&[], &[], &["https://*.b.example.com", "not an origin"]),
            of(&[], &[], &["https://a.example.com"]),
            of(
                &[],
                &[],
                &["https://example.com", "https://*.b.example.com"],
            ),
        ];
        let clients = [
            "10.1.2.3",
            "10.9.9.9",
            "192.0.2.1",
            "2001:db8::1",
            "9.9.9.9",
        ];
        let referrers = [
            "a.example.com",
            "b.example.com",
            "c.b.example.com",
            "example.com",
        ];
        let mut admitted = 0;
        for (first, second) in lists.iter().flat_map(|a| lists.iter().map(move |b| (a, b))) {
            let both = first.both(second);
            for client in clients
                .map(|client| client.parse().ok())
                .into_iter()
                .chain([None])
            {
                for referrer in referrers {
                    for method in ["GET", "POST", "get"] {
                        let origin = format!("https://{referrer}");
                        let request = request(method, &[("origin", &origin)]);
                        let admit = |it: &Restrictions| it.admit(client, &request);
                        let expected = admit(first) && admit(second);
                        assert_eq!(admit(&both), expected, "{both:?} {client:?} {request:?}");
                        admitted += usize::from(expected);
                    }
                }
            }
        }
        assert!(admitted > 100, "{admitted}");
    }

    fn of(networks: &[&str], methods: &[&str], referrers: &[&str]) -> Restrictions {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Restrictions {
            networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
            methods: texts(methods),
            referrers: texts(referrers),
        }
    }
}
