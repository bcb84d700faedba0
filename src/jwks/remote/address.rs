//! [`Address`]: a URL that keys may be fetched from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Authority;

use crate::config::ConfigError;
use crate::network::special::is_for_special_purposes;

/// A URL with `https`, or with `http` where that is allowed, without a user and without a
/// fragment.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Address {
    uri: Uri,
}

/// The hosts that keys may be fetched from without TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlainHttp {
    pub(crate) loopback: bool,
    hosts: Vec<Host>,
}

impl PlainHttp {
    pub(crate) const fn new(loopback: bool) -> Self {
        Self {
            loopback,
            hosts: Vec::new(),
        }
    }

    /// Adds a host by its name or address.
    pub(crate) fn add(&mut self, host: &str) -> Result<(), ConfigError> {
        let authority: Option<Authority> = host.parse().ok();
        let alone = authority.filter(|authority| authority.host() == host);
        let Some(host) = alone.as_ref().and_then(Host::of) else {
            return Err(ConfigError::new(format!(
                "`RemoteKeys::dangerous_allow_http_hosts`: {:?} is not a host name or an IP \
                 address; write it without scheme, port and path, and IPv6 in brackets",
                shown(host),
            )));
        };
        self.hosts.push(host);
        Ok(())
    }

    fn allows(&self, host: &Host) -> bool {
        (self.loopback && host.is_loopback()) || self.hosts.contains(host)
    }
}

/// Why a URL is not one that keys may be fetched from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    Because(&'static str),
    /// It is not `https`.
    PlainHttp {
        host: String,
        is_loopback: bool,
    },
}

impl From<&'static str> for Refused {
    fn from(reason: &'static str) -> Self {
        Self::Because(reason)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Because(reason) => f.write_str(reason),
            Self::PlainHttp { .. } => f.write_str("it is not https"),
        }
    }
}

impl Address {
    /// A URL that was configured.
    pub(crate) fn parse(text: &str, plain: &PlainHttp) -> Result<Self, Refused> {
        let address = Self::read(text)?;
        if address.is_https() {
            return Ok(address);
        }
        let authority = address.uri.authority().map_or("", Authority::host);
        if address.has_scheme("http") && !plain.allows(&address.host()) {
            return Err(Refused::PlainHttp {
                host: shown(authority),
                is_loopback: address.host().is_loopback(),
            });
        }
        if !address.has_scheme("http") {
            return Err("its scheme is not https".into());
        }
        Ok(address)
    }

    /// A URL of any scheme.
    fn read(text: &str) -> Result<Self, &'static str> {
        if text.contains('#') {
            return Err("it has a fragment");
        }
        let uri: Uri = text.parse().map_err(|_| "it is not a URL")?;
        let (Some(_), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("it is not an absolute URL");
        };
        if authority.as_str().contains('@') {
            return Err("it has a user name in it");
        }
        check_port(authority)?;
        Host::of(authority).ok_or("its host is not a host name or an IP address")?;
        Ok(Self { uri })
    }

    /// One that stands in a document which came from this one. It may be of another
    /// host, but not of one that only we can reach (RFC 8725bis §3.10): who writes the
    /// document is not to choose whom we talk to in our own network.
    pub(crate) fn lead_to(&self, text: &str, plain: &PlainHttp) -> Result<Self, Refused> {
        let found = Self::parse(text, plain)?;
        let (ours, theirs) = (self.host(), found.host());
        let is_allowed = theirs.is_public() || (plain.loopback && theirs.is_loopback());
        if ours != theirs && !is_allowed {
            return Err("it is not a public host".into());
        }
        Ok(found)
    }

    /// Where a redirect leads (RFC 9110 §10.2.2, RFC 3986 §5.2): nowhere else but to the
    /// same origin.
    pub(crate) fn redirected(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next()?;
        let text = if let Some(authority) = location.strip_prefix("//") {
            format!("{}://{authority}", self.uri.scheme_str()?)
        } else if is_absolute(location) {
            location.to_owned()
        } else {
            format!("{}{}", self.origin(), self.path_of(location))
        };
        // Whether http is allowed was decided when this address was: the origin is the same.
        let next = Self::read(&text).ok()?;
        self.has_origin_of(&next).then_some(next)
    }

    /// The same origin, with this path.
    pub(crate) fn at(&self, path: &str) -> Result<Self, &'static str> {
        Self::read(&format!("{}{path}", self.origin()))
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
        self.has_scheme("https")
    }

    fn has_scheme(&self, name: &str) -> bool {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        scheme.eq_ignore_ascii_case(name)
    }

    fn has_origin_of(&self, other: &Self) -> bool {
        other.has_scheme(self.uri.scheme_str().unwrap_or_default())
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

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Host {
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

/// Returns whether an IPv4 address may be that of a host on the Internet.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    !(ip.is_documentation() || is_for_special_purposes(ip))
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

/// A URL as errors may show it: without a user name and without its query, which may be
/// secrets, and not at any length.
pub(crate) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let url = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    url.chars().take(MOST_SHOWN).collect()
}

const MOST_SHOWN: usize = 200;

/// RFC 3986 §3.1.
fn is_absolute(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else {
        return false;
    };
    !scheme.contains(['/', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: PlainHttp = PlainHttp {
        loopback: false,
        hosts: Vec::new(),
    };
    const LOOPBACK: PlainHttp = PlainHttp {
        loopback: true,
        hosts: Vec::new(),
    };

    fn hosts(names: &[&str]) -> PlainHttp {
        let mut plain = PlainHttp::default();
        for name in names {
            plain.add(name).unwrap();
        }
        plain
    }

    #[test]
    fn http_is_for_the_hosts_that_are_listed() {
        let plain = hosts(&["keycloak", "10.0.0.5", "[fd00::1]", "ID.svc.cluster.local"]);
        for (text, is_allowed) in [
            ("http://keycloak:8080/realms/a", true),
            ("HTTP://KEYCLOAK/", true),
            ("http://keycloak./", true),
            ("http://10.0.0.5/", true),
            ("http://[fd00::1]:8080/", true),
            ("http://[fd00:0::1]/", true),
            ("http://id.svc.cluster.local/", true),
            ("https://other.example.com/", true),
            ("http://keycloak.example.com/", false),
            ("http://a.keycloak/", false),
            ("http://10.0.0.6/", false),
            ("http://localhost/", false),
            ("http://169.254.169.254/", false),
            ("http://user@keycloak/", false),
            ("ftp://keycloak/", false),
        ] {
            let parsed = Address::parse(text, &plain);
            assert_eq!(parsed.is_ok(), is_allowed, "{text}");
        }
        let from = Address::parse("http://keycloak:8080/", &plain).unwrap();
        let to = |text| from.lead_to(text, &plain).is_ok();
        assert!(to("http://keycloak:8080/certs") && to("http://keycloak/certs"));
        assert!(to("http://id.svc.cluster.local/certs"));
        // A list of hosts for http is not one of private addresses.
        assert!(!to("http://10.0.0.5/") && !to("https://10.0.0.5/"));
        assert!(!to("http://localhost/") && !to("http://id.example.com/"));
        assert!(from.redirected("/keys").is_some());
        assert!(from.redirected("https://keycloak:8080/keys").is_none());
        assert!(from.redirected("http://10.0.0.5/keys").is_none());
    }

    #[test]
    fn list_of_hosts_has_names_and_addresses_only() {
        for bad in [
            "",
            "http://keycloak:8080",
            "keycloak:8080",
            "keycloak/",
            "user@keycloak",
            "*.example.com",
            "fd00::1",
            "127.1",
            "10.0.0.0/8",
            "a b",
        ] {
            let error = PlainHttp::default().add(bad).unwrap_err().to_string();
            assert!(error.contains("dangerous_allow_http_hosts"), "{error}");
        }
    }

    #[test]
    fn shown_url_has_no_secrets() {
        for (url, expected) in [
            (
                "https://id.example.com/a?token=1#b",
                "https://id.example.com/a",
            ),
            ("https://u:p@id.example.com/", "id.example.com/"),
            ("u:p@x@id", "id"),
            ("", ""),
        ] {
            assert_eq!(shown(url), expected);
        }
        assert_eq!(shown(&"é".repeat(1000)).chars().count(), 200);
    }

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
            assert_eq!(Address::parse(text, &STRICT).is_ok(), strict, "{text}");
            let loopback = Address::parse(text, &LOOPBACK);
            assert_eq!(loopback.is_ok(), with_loopback, "{text}");
        }
    }

    #[test]
    fn a_redirect_stays_at_its_origin() {
        let from = Address::parse("https://id.example.com/a/b?c", &STRICT).unwrap();
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
        let from = Address::parse("https://id.example.com/", &STRICT).unwrap();
        let allowed = |text| from.lead_to(text, &STRICT).is_ok();
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
        let inside = Address::parse("https://10.0.0.5/", &STRICT).unwrap();
        assert!(inside.lead_to("https://10.0.0.5/keys", &STRICT).is_ok());
        assert!(inside.lead_to("https://10.0.0.6/keys", &STRICT).is_err());
        let here = Address::parse("http://127.0.0.1:1/", &LOOPBACK).unwrap();
        assert!(here.lead_to("http://localhost:2/keys", &LOOPBACK).is_ok());
    }

    #[test]
    fn what_is_printed_has_no_query() {
        let address = Address::parse("https://id.example.com/keys?token=1", &STRICT).unwrap();
        assert_eq!(format!("{address:?}"), "https://id.example.com/keys");
    }
}
