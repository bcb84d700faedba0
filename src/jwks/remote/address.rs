//! [`Address`]: a URL that keys may be fetched from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Authority;

/// A URL with `https`, or with `http` on this machine where that is allowed, without a
/// user and without a fragment.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Address {
    uri: Uri,
}

impl Address {
    /// One that was configured.
    pub(crate) fn parse(text: &str, loopback_http: bool) -> Result<Self, &'static str> {
        if text.contains('#') {
            return Err("it has a fragment");
        }
        let uri: Uri = text.parse().map_err(|_| "it is no URL")?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("it is no absolute URL");
        };
        if authority.as_str().contains('@') {
            return Err("it has a user in it");
        }
        check_port(authority)?;
        let host = Host::of(authority).ok_or("its host is none")?;
        let is_http = scheme.eq_ignore_ascii_case("http") && loopback_http && host.is_loopback();
        if !scheme.eq_ignore_ascii_case("https") && !is_http {
            return Err("it is not https");
        }
        Ok(Self { uri })
    }

    /// One that stands in a document which came from this one. It may be of another
    /// host, but not of one that only we can reach (RFC 8725bis §3.10): who writes the
    /// document is not to choose whom we talk to in our own network.
    pub(crate) fn lead_to(&self, text: &str, loopback_http: bool) -> Result<Self, &'static str> {
        let found = Self::parse(text, loopback_http)?;
        let (ours, theirs) = (self.host(), found.host());
        let is_allowed = theirs.is_public() || (loopback_http && theirs.is_loopback());
        if ours != theirs && !is_allowed {
            return Err("it is not a public host");
        }
        Ok(found)
    }

    /// Where a redirect leads (RFC 9110 §10.2.2, RFC 3986 §5.2): nowhere else but to the
    /// same origin.
    pub(crate) fn redirected(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next()?;
        let text = if let Some(authority) = location.strip_prefix("//") {
            format!("{}://{authority}", self.uri.scheme_str()?)
        } else if has_scheme(location) {
            location.to_owned()
        } else {
            format!("{}{}", self.origin(), self.path_of(location))
        };
        // Whether http is allowed was decided when this address was: the origin is the same.
        let next = Self::parse(&text, true).ok()?;
        self.has_origin_of(&next).then_some(next)
    }

    /// The same origin, with this path.
    pub(crate) fn at(&self, path: &str) -> Result<Self, &'static str> {
        Self::parse(&format!("{}{path}", self.origin()), true)
    }

    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    pub(crate) fn has_query(&self) -> bool {
        self.uri.query().is_some()
    }

    pub(crate) const fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(crate) fn is_https(&self) -> bool {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        scheme.eq_ignore_ascii_case("https")
    }

    fn has_origin_of(&self, other: &Self) -> bool {
        self.is_https() == other.is_https()
            && self.host() == other.host()
            && self.port() == other.port()
    }

    fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(default)
    }

    fn host(&self) -> Host {
        let host = self.uri.authority().and_then(Host::of);
        host.unwrap_or_else(|| Host::Name(String::new()))
    }

    fn origin(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map_or("", Authority::as_str);
        format!("{scheme}://{authority}")
    }

    /// A reference without an authority, from the root (RFC 3986 §5.2.3 and §5.2.4).
    fn path_of(&self, reference: &str) -> String {
        if reference.is_empty() || reference.starts_with('?') {
            return format!("{}{reference}", self.path());
        }
        let (path, query) = match reference.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (reference, None),
        };
        let directory = self
            .path()
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent);
        let whole = match path.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None => format!("{}/{path}", directory.trim_start_matches('/')),
        };
        let mut segments = Vec::new();
        for segment in whole.trim_start_matches('/').split('/') {
            match segment {
                "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("/{}{query}", segments.join("/"))
    }
}

/// Without the query, which may be a secret.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path())
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Host {
    fn of(authority: &Authority) -> Option<Self> {
        let host = authority.host();
        if let Some(v6) = host.strip_prefix('[') {
            let v6: Ipv6Addr = v6.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Ip(IpAddr::V6(v6).to_canonical()));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let last = name.rsplit('.').next().unwrap_or_default();
        // `127.1`, `0x7f.1` and `2130706433` are addresses to many a resolver: here they
        // are nothing.
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
        if is_number || last.starts_with("0x") || last.starts_with("0X") {
            let v4: Ipv4Addr = host.parse().ok()?;
            return Some(Self::Ip(v4.into()));
        }
        // What some decode before they resolve it is another name to them than to us.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let name = name.to_ascii_lowercase();
        name.bytes().all(is_plain).then_some(Self::Name(name))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Of an address, whether it is one of the Internet. Of a name nobody can tell
    /// before it is resolved.
    fn is_public(&self) -> bool {
        match self {
            Self::Ip(IpAddr::V4(ip)) => is_public_v4(*ip),
            Self::Ip(IpAddr::V6(ip)) => is_public_v6(*ip),
            Self::Name(_) => !self.is_loopback(),
        }
    }
}

/// What is not for special purposes (RFC 6890).
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [first, second, third, _] = ip.octets();
    let is_shared = first == 100 && second & 0xc0 == 64;
    let is_special = (first, second, third) == (192, 0, 0);
    let is_for_benchmarks = first == 198 && second & 0xfe == 18;
    !(ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        || first == 0
        || first >= 224
        || is_shared
        || is_special
        || is_for_benchmarks)
}

/// Global unicast (RFC 4291), and of what has an address of IPv4 in it, that one too.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        // NAT64 (RFC 6052), 6to4 (RFC 3056), mapped.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        // Teredo, and what is for documentation.
        [0x2001, 0 | 0xdb8, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

fn check_port(authority: &Authority) -> Result<(), &'static str> {
    let after_host = authority.as_str().get(authority.host().len()..);
    let is_good = after_host.is_some_and(str::is_empty) || authority.port_u16().is_some();
    is_good.then_some(()).ok_or("its port is none")
}

/// RFC 3986 §3.1.
fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else {
        return false;
    };
    !scheme.contains(['/', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_or_http_on_this_machine_if_that_is_allowed() {
        let table = [
            ("https://id.example.com/jwks.json", true, true),
            ("HTTPS://id.example.com", true, true),
            ("https://10.0.0.5:8443/keys?set=1", true, true),
            ("http://id.example.com/", false, false),
            ("http://127.0.0.1:80/", false, true),
            ("http://[::1]:8080/", false, true),
            ("http://LOCALHOST/", false, true),
            ("http://id.localhost/", false, true),
            ("http://127.0.0.1.example.com/", false, false),
            ("http://localhost.example.com/", false, false),
            ("http://169.254.169.254/", false, false),
            ("http://127.1/", false, false),
            ("https://0x7f000001/", false, false),
            ("https://2130706433/", false, false),
            ("https://127.0.0.%31/", false, false),
            ("https://%6cocalhost/", false, false),
            ("https://user@id.example.com/", false, false),
            ("https://id.example.com/#keys", false, false),
            ("https://id.example.com:/", false, false),
            ("https://id.example.com:99999/", false, false),
            ("https:///jwks", false, false),
            ("https://", false, false),
            ("/jwks", false, false),
            ("id.example.com", false, false),
            ("file:///etc/passwd", false, false),
            ("ftp://id.example.com/", false, false),
            ("", false, false),
        ];
        for (text, strict, with_loopback) in table {
            assert_eq!(Address::parse(text, false).is_ok(), strict, "{text}");
            assert_eq!(Address::parse(text, true).is_ok(), with_loopback, "{text}");
        }
    }

    #[test]
    fn a_redirect_stays_at_its_origin() {
        let from = Address::parse("https://id.example.com/a/b?c", false).unwrap();
        let table = [
            ("/keys", Some("https://id.example.com/keys")),
            ("keys?x=1#y", Some("https://id.example.com/a/keys?x=1")),
            ("../../keys/./1", Some("https://id.example.com/keys/1")),
            ("?d", Some("https://id.example.com/a/b?d")),
            (
                "//ID.example.com:443/k",
                Some("https://ID.example.com:443/k"),
            ),
            (
                "https://id.example.com/k:1",
                Some("https://id.example.com/k:1"),
            ),
            ("http://id.example.com/keys", None),
            ("https://id.example.com:8443/keys", None),
            ("https://id.example.com.evil.example/", None),
            ("https://id.example.com@evil.example/", None),
            ("//evil.example/", None),
            ("https:\\\\evil.example/", None),
            ("file:///etc/passwd", None),
            ("https://127.0.0.1/", None),
            ("http://169.254.169.254/latest/meta-data/", None),
            ("javascript:1", None),
        ];
        for (location, expected) in table {
            let next = from.redirected(location);
            let next = next.map(|next| next.uri.to_string());
            assert_eq!(next.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn a_document_leads_to_no_host_that_only_we_can_reach() {
        let from = Address::parse("https://id.example.com/", false).unwrap();
        let allowed = |text| from.lead_to(text, false).is_ok();
        assert!(allowed("https://www.googleapis.com/oauth2/v3/certs"));
        assert!(allowed("https://id.example.com/keys"));
        assert!(allowed("https://93.184.216.34/"));
        for private in [
            "https://127.0.0.1/",
            "https://localhost/",
            "https://localhost./",
            "https://10.1.2.3/",
            "https://192.168.1.1/",
            "https://172.16.0.1/",
            "https://100.64.0.1/",
            "https://169.254.169.254/",
            "https://0.0.0.0/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "http://id.example.com/",
        ] {
            assert!(!allowed(private), "{private}");
        }
        let inside = Address::parse("https://10.0.0.5/", false).unwrap();
        assert!(inside.lead_to("https://10.0.0.5/keys", false).is_ok());
        assert!(inside.lead_to("https://10.0.0.6/keys", false).is_err());
        let here = Address::parse("http://127.0.0.1:1/", true).unwrap();
        assert!(here.lead_to("http://localhost:2/keys", true).is_ok());
    }

    #[test]
    fn what_is_printed_has_no_query() {
        let address = Address::parse("https://id.example.com/keys?token=1", false).unwrap();
        assert_eq!(format!("{address:?}"), "https://id.example.com/keys");
    }
}
