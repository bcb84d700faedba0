//! Web origins (RFC 6454): parsing, comparison, and patterns with a wildcard host.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Authority;

/// A scheme, a host and a port. The scheme and the host are in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    /// `None` if it is the default port of the scheme, or the scheme has none.
    port: Option<u16>,
}

impl Origin {
    /// Returns the origin of an absolute URL, or `None` if the text is no URL with a host.
    ///
    /// A URL with user information has no origin here: browsers never send one, and it is a way to
    /// disguise the host.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let (host, port) = host_and_port(uri.authority()?)?;
        let port = port.filter(|port| Some(*port) != default_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Returns whether the scheme is `http`.
    pub(crate) fn is_http(&self) -> bool {
        self.scheme == "http"
    }

    /// Returns whether the scheme is `http` or `https`.
    pub(crate) fn is_web(&self) -> bool {
        matches!(&*self.scheme, "http" | "https")
    }

    /// Returns whether a request with this authority (`Host`, `:authority`) was sent to this origin.
    ///
    /// An authority without a port has the default port of the origin's scheme.
    pub(crate) fn has_authority(&self, authority: &str) -> bool {
        let parsed = authority.parse::<Authority>().ok();
        let Some((host, port)) = parsed.as_ref().and_then(host_and_port) else {
            return false;
        };
        let port = port.filter(|port| Some(*port) != default_port(&self.scheme));
        host == self.host && port == self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// An origin, or all origins whose host is below a domain: `https://*.example.com`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OriginPattern {
    /// The origin, without `*.` if `subdomains` is set.
    origin: Origin,
    subdomains: bool,
}

impl OriginPattern {
    /// Parses `scheme://host[:port]`, where the host may start with `*.`. A trailing slash is
    /// ignored.
    ///
    /// # Errors
    /// Returns what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("an origin starts with a scheme, such as `https://`")?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err("an origin has no path, query or fragment");
        }
        let (authority, subdomains) = match authority.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (authority, false),
        };
        if authority.contains('*') {
            return Err(
                "a wildcard must be the first label of the host, as in `https://*.example.com`",
            );
        }
        let origin = Origin::of_url(&format!("{scheme}://{authority}"))
            .ok_or("an origin is `scheme://host` or `scheme://host:port`")?;
        check_host(&origin.host, subdomains)?;
        Ok(Self { origin, subdomains })
    }

    /// Returns whether the pattern covers an origin.
    pub(crate) fn matches(&self, origin: &Origin) -> bool {
        if !self.subdomains {
            return self.origin == *origin;
        }
        let below = origin
            .host
            .strip_suffix(&self.origin.host)
            .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'));
        below && origin.scheme == self.origin.scheme && origin.port == self.origin.port
    }

    /// Returns whether the pattern covers all origins that another one covers.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match other.subdomains {
            true => self.subdomains && (self.origin == other.origin || self.matches(&other.origin)),
            false => self.matches(&other.origin),
        }
    }
}

/// The canonical form: lower case, without a default port.
impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subdomains {
            return self.origin.fmt(f);
        }
        let Origin { scheme, host, port } = &self.origin;
        write!(f, "{scheme}://*.{host}")?;
        match port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Refuses hosts that no browser sends, since a pattern with such a host would never match.
fn check_host(host: &str, subdomains: bool) -> Result<(), &'static str> {
    let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    if is_address {
        return match subdomains {
            true => Err("an IP address has no subdomains; write the address without `*.`"),
            false => Ok(()),
        };
    }
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !host.bytes().all(is_host_byte) {
        return Err("a host name has only letters, digits, `-`, `_` and dots");
    }
    // One trailing dot is valid: it makes the name absolute (RFC 1034 §3.1).
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.split('.').any(str::is_empty) {
        return Err("a label of the host is empty; write `https://*.example.com` for subdomains");
    }
    Ok(())
}

/// `None` if there is user information, no host, an invalid IPv6 address, or a port that is not a
/// number.
fn host_and_port(authority: &Authority) -> Option<(String, Option<u16>)> {
    let host = authority.host();
    if host.is_empty() || authority.as_str().contains('@') {
        return None;
    }
    let port = match authority.as_str().strip_prefix(host)? {
        "" | ":" => None,
        _ => Some(authority.port_u16()?),
    };
    let host = match host.strip_prefix('[') {
        // An address has several spellings; browsers send the shortest.
        Some(rest) => format!("[{}]", rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => host.to_ascii_lowercase(),
    };
    Some((host, port))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_compare_without_case_and_default_port() {
        let origin = |url: &str| Origin::of_url(url).map(|origin| origin.to_string());
        for (url, expected) in [
            (
                "https://API.Example.com:443/a?b",
                Some("https://api.example.com"),
            ),
            ("http://api.example.com:80", Some("http://api.example.com")),
            (
                "https://api.example.com:80",
                Some("https://api.example.com:80"),
            ),
            (
                "https://[2001:DB8::1]:8443",
                Some("https://[2001:db8::1]:8443"),
            ),
            (
                "chrome-extension://abcdef",
                Some("chrome-extension://abcdef"),
            ),
            ("https://user@api.example.com", None),
            ("https://api.example.com:99999", None),
            ("api.example.com", None),
            ("null", None),
            ("", None),
        ] {
            assert_eq!(origin(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn authority_without_port_has_the_default_port() {
        for (origin, authority, same) in [
            ("https://api.example.com", "api.example.com", true),
            ("https://api.example.com", "API.example.com:443", true),
            ("https://api.example.com", "api.example.com:80", false),
            ("https://api.example.com", "api.example.com:8443", false),
            ("https://api.example.com:8443", "api.example.com:8443", true),
            ("https://api.example.com:8443", "api.example.com", false),
            ("http://api.example.com", "api.example.com:80", true),
            ("http://api.example.com", "api.example.com:443", false),
            ("https://[::1]", "[::1]:443", true),
            ("https://api.example.com", "user@api.example.com", false),
            (
                "https://api.example.com",
                "api.example.com.evil.example",
                false,
            ),
            ("https://api.example.com", "", false),
        ] {
            let origin = Origin::of_url(origin).unwrap();
            assert_eq!(
                origin.has_authority(authority),
                same,
                "{origin} {authority}"
            );
        }
    }

    #[test]
    fn patterns_are_normalized_or_refused() {
        for (text, expected) in [
            ("https://App.Example.com", Some("https://app.example.com")),
            (
                "HTTPS://app.example.com:443/",
                Some("https://app.example.com"),
            ),
            (
                "https://*.Example.com:8443",
                Some("https://*.example.com:8443"),
            ),
            (
                "https://[2001:DB8:0:0::1]:443",
                Some("https://[2001:db8::1]"),
            ),
            ("http://127.0.0.1:3000", Some("http://127.0.0.1:3000")),
            ("https://app.example.com.", Some("https://app.example.com.")),
            (
                "chrome-extension://abcdef",
                Some("chrome-extension://abcdef"),
            ),
            ("app.example.com", None),
            ("https://app.example.com/path", None),
            ("https://app.example.com//", None),
            ("https://app.example.com?a", None),
            (" https://app.example.com", None),
            ("https://app.example.com ", None),
            ("https://.example.com", None),
            ("https://a..example.com", None),
            ("https://a,b", None),
            ("https://b\u{fc}cher.example", None),
            ("https://[::1", None),
            ("https://[example.com]", None),
            ("https://*.[::1]", None),
            ("https://*.10.0.0.1", None),
            ("https://app.example.com:99999", None),
            ("*://app.example.com", None),
            ("https://app.*.com", None),
            ("https://*", None),
            ("https://*.", None),
            ("https://", None),
            ("https://user@app.example.com", None),
            ("*", None),
            ("null", None),
            ("", None),
        ] {
            let parsed = OriginPattern::parse(text);
            let canonical = parsed.as_ref().ok().map(ToString::to_string);
            assert_eq!(canonical.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn wildcard_covers_subdomains_only() {
        let pattern = OriginPattern::parse("https://*.example.com").unwrap();
        for (origin, covered) in [
            ("https://a.example.com", true),
            ("https://a.b.example.com", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://evilexample.com", false),
            ("http://a.example.com", false),
            ("https://a.example.com:8443", false),
        ] {
            let origin = Origin::of_url(origin).unwrap();
            assert_eq!(pattern.matches(&origin), covered, "{origin}");
        }
    }
}
