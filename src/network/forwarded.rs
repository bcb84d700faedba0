//! Parsing of the header fields in which proxies describe the client: `Forwarded` (RFC 7239) and
//! the `X-Forwarded-…` family.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{FORWARDED, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The family of header fields that the trusted proxies write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProxyFields {
    XForwarded,
    Forwarded,
}

/// One member of a list field, or `None` if it does not have the parameter or does not parse.
pub(super) type Member<'a> = Option<Cow<'a, [u8]>>;

impl ProxyFields {
    /// Calls `visit` with the addresses in the field until it returns `false`, from right to left: the
    /// first one was written by the peer, each other one by the proxy that the one before names.
    pub(super) fn visit_addresses(
        self,
        headers: &HeaderMap,
        mut visit: impl FnMut(Option<IpAddr>) -> bool,
    ) {
        match self {
            Self::XForwarded => {
                let _ = list_members(headers, &X_FORWARDED_FOR).all(|node| visit(parse_node(node)));
            }
            Self::Forwarded => {
                let mut nodes = forwarded_members(headers, "for");
                let _ = nodes.all(|node| visit(node.as_deref().and_then(parse_node)));
            }
        }
    }

    /// The protocols that clients used with the proxies, such as `https` or `ws`, from right to left.
    pub(super) fn protocols(self, headers: &HeaderMap) -> Vec<Member<'_>> {
        match self {
            Self::XForwarded => members(headers, &X_FORWARDED_PROTO),
            Self::Forwarded => forwarded_members(headers, "proto").collect(),
        }
    }

    /// The host that the client asked for, as the proxy says that is `hops` proxies away from the
    /// peer. A list that is shorter was not extended by each proxy: its first member counts then.
    pub(super) fn host(self, headers: &HeaderMap, hops: usize) -> Option<String> {
        let mut hosts = match self {
            Self::XForwarded => members(headers, &X_FORWARDED_HOST),
            Self::Forwarded => forwarded_members(headers, "host").collect(),
        };
        let host = match self {
            Self::XForwarded => hosts.swap_remove(hops.min(hosts.len().checked_sub(1)?)),
            Self::Forwarded => hosts.into_iter().nth(hops)?,
        };
        String::from_utf8(host?.into_owned()).ok()
    }

    pub(super) fn are_in(self, headers: &HeaderMap) -> bool {
        headers.contains_key(self.name())
    }

    /// Returns whether a request says that it came through a proxy (RFC 7239, RFC 9110 §7.6.3).
    pub(super) fn any_in(headers: &HeaderMap) -> bool {
        [
            FORWARDED,
            VIA,
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_FORWARDED_HOST,
        ]
        .iter()
        .any(|name| headers.contains_key(name))
    }

    /// The field that carries the addresses.
    pub(super) const fn name(self) -> HeaderName {
        match self {
            Self::XForwarded => X_FORWARDED_FOR,
            Self::Forwarded => FORWARDED,
        }
    }
}

fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<Member<'a>> {
    let members = list_members(headers, name);
    members.map(|member| Some(Cow::Borrowed(member))).collect()
}

/// The members of a list field, from right to left. Empty members do not count (RFC 9110 §5.6.1.2).
fn list_members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let lines = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .rev();
    lines
        .flat_map(|line| line.rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// A parameter of each element of `Forwarded` (RFC 7239 §4), from right to left. Empty elements do not
/// count.
fn forwarded_members<'a>(
    headers: &'a HeaderMap,
    parameter: &'static str,
) -> impl Iterator<Item = Member<'a>> + use<'a> {
    let lines = headers.get_all(FORWARDED).iter().rev();
    lines.flat_map(move |line| match split_unquoted(line.as_bytes(), b',') {
        Some(elements) => {
            let elements = elements.into_iter().rev();
            let elements = elements.filter(|element| !element.is_empty());
            elements
                .map(|element| parameter_of(element, parameter))
                .collect()
        }
        // An unclosed quote: it is unknown where the elements of this line end.
        None => vec![None],
    })
}

/// The value of a parameter. One that appears twice is ambiguous (RFC 7239 §4 forbids it).
fn parameter_of<'a>(element: &'a [u8], parameter: &str) -> Member<'a> {
    let pairs = split_unquoted(element, b';')?;
    let mut values = pairs.into_iter().filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        name.eq_ignore_ascii_case(parameter.as_bytes())
            .then_some(value)
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    unquote(value)
}

/// A token as it is, or the content of a quoted string (RFC 9110 §5.6.4).
fn unquote(value: &[u8]) -> Member<'_> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return Some(Cow::Borrowed(value));
    };
    let inner = rest.strip_suffix(b"\"")?;
    if !inner.contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut unescaped = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        unescaped.push(if *byte == b'\\' {
            *bytes.next()?
        } else {
            *byte
        });
    }
    Some(Cow::Owned(unescaped))
}

/// Splits at separators outside of quoted strings. Returns `None` if a quote is left open.
fn split_unquoted(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text
        .split(|byte| {
            if escaped {
                escaped = false;
            } else if quoted && *byte == b'\\' {
                escaped = true;
            } else if *byte == b'"' {
                quoted = !quoted;
            }
            *byte == separator && !quoted
        })
        .map(<[u8]>::trim_ascii)
        .collect();
    (!quoted).then_some(parts)
}

/// Parses the node name of RFC 7239 §6 in the forms that proxies write: an address, with brackets
/// or without, with a port or an obfuscated port or without. `unknown` and obfuscated names are no
/// addresses.
fn parse_node(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        return address.parse().ok();
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (address, port) = text.split_once(':')?;
    let address: Ipv4Addr = address.parse().ok()?;
    is_port(port).then_some(address.into())
}

/// RFC 7239 §6.3: up to five digits, or an obfuscated port.
fn is_port(text: &str) -> bool {
    if let Some(obfuscated) = text.strip_prefix('_') {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        return !obfuscated.is_empty() && obfuscated.bytes().all(is_part);
    }
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn node_forms_of_rfc_7239() {
        for (node, address) in [
            ("192.0.2.43", Some("192.0.2.43")),
            ("192.0.2.43:47011", Some("192.0.2.43")),
            ("192.0.2.43:_port", Some("192.0.2.43")),
            ("[2001:db8:cafe::17]", Some("2001:db8:cafe::17")),
            ("[2001:db8:cafe::17]:4711", Some("2001:db8:cafe::17")),
            ("[2001:db8:cafe::17]:_x.y-z", Some("2001:db8:cafe::17")),
            ("[192.0.2.43]:80", Some("192.0.2.43")),
            ("2001:db8:cafe::17", Some("2001:db8:cafe::17")),
            ("::ffff:192.0.2.43", Some("::ffff:192.0.2.43")),
            ("64:ff9b::192.0.2.43", Some("64:ff9b::c000:22b")),
            ("unknown", None),
            ("_hidden", None),
            ("_SEVKISEK", None),
            ("", None),
            ("192.0.2.43:", None),
            ("192.0.2.43:123456", None),
            ("192.0.2.43:_", None),
            ("192.0.2.43:8o", None),
            ("192.0.2", None),
            ("192.0.2.256", None),
            ("192.0.2.43 198.51.100.17", None),
            ("[2001:db8:cafe::17", None),
            ("[2001:db8:cafe::17]4711", None),
            ("[2001:db8:cafe::17]:", None),
            ("2001:db8:cafe::17%eth0", None),
            ("example.com", None),
        ] {
            let parsed = parse_node(node.as_bytes()).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), address, "{node}");
        }
        assert_eq!(parse_node(b"\xff"), None);
    }

    /// One table for both families (RFC 7239 §4, RFC 9110 §5.6.1 and §5.6.4).
    #[test]
    fn lists_of_addresses() {
        let x_forwarded = |lines: &[&'static str]| {
            lines
                .iter()
                .map(|line| ("x-forwarded-for", line.as_bytes()))
                .collect::<Vec<_>>()
        };
        let forwarded = |lines: &[&'static str]| {
            lines
                .iter()
                .map(|line| ("forwarded", line.as_bytes()))
                .collect::<Vec<_>>()
        };
        let table = [
            (x_forwarded(&["203.0.113.1"]), "203.0.113.1"),
            (x_forwarded(&["203.0.113.1,"]), "203.0.113.1"),
            (x_forwarded(&[", ,203.0.113.1 , ,"]), "203.0.113.1"),
            (x_forwarded(&["", "203.0.113.1", ""]), "203.0.113.1"),
            (
                x_forwarded(&["203.0.113.1", "198.51.100.7:80"]),
                "203.0.113.1 198.51.100.7",
            ),
            (x_forwarded(&["203.0.113.1, garbage"]), "203.0.113.1 ?"),
            (x_forwarded(&[""]), ""),
            (forwarded(&["for=203.0.113.1"]), "203.0.113.1"),
            (
                forwarded(&["For=\"[2001:db8::1]:47\";proto=https;by=_x"]),
                "2001:db8::1",
            ),
            (
                forwarded(&["for=203.0.113.1, for=198.51.100.7"]),
                "203.0.113.1 198.51.100.7",
            ),
            (
                forwarded(&["for=203.0.113.1,", ",for=198.51.100.7,,"]),
                "203.0.113.1 198.51.100.7",
            ),
            (forwarded(&["for=\"203\\.0.113.1\""]), "203.0.113.1"),
            (
                forwarded(&["for = 203.0.113.1 ; proto=http"]),
                "203.0.113.1",
            ),
            (
                forwarded(&["host=\"a,b;for=6.6.6.6\";for=203.0.113.1"]),
                "203.0.113.1",
            ),
            (forwarded(&["proto=https"]), "?"),
            (
                forwarded(&["for=unknown, for=203.0.113.1"]),
                "? 203.0.113.1",
            ),
            (forwarded(&["for=6.6.6.6;for=203.0.113.1"]), "?"),
            (forwarded(&["for=\"203.0.113.1"]), "?"),
            (forwarded(&["for=\"203.0.113.1\\"]), "?"),
            (forwarded(&["for=203.0.113.1\""]), "?"),
            (forwarded(&[""]), ""),
        ];
        for (lines, expected) in table {
            let fields = match lines[0].0 {
                "forwarded" => ProxyFields::Forwarded,
                _ => ProxyFields::XForwarded,
            };
            let mut found: Vec<String> = Vec::new();
            fields.visit_addresses(&headers(&lines), |address| {
                found.push(address.map_or_else(|| "?".into(), |address| address.to_string()));
                true
            });
            found.reverse();
            assert_eq!(found.join(" "), expected, "{lines:?}");
        }
    }

    #[test]
    fn host_is_that_of_the_proxy_next_to_the_client() {
        let x_forwarded = |line: &'static str, hops| {
            ProxyFields::XForwarded.host(&headers(&[("x-forwarded-host", line.as_bytes())]), hops)
        };
        for (line, hops, host) in [
            ("evil.example, api.example.com", 0, Some("api.example.com")),
            (
                "api.example.com, inner.internal",
                1,
                Some("api.example.com"),
            ),
            (
                "evil.example, api.example.com, inner.internal",
                1,
                Some("api.example.com"),
            ),
            ("api.example.com", 1, Some("api.example.com")),
            ("api.example.com,", 0, Some("api.example.com")),
            ("", 0, None),
        ] {
            assert_eq!(x_forwarded(line, hops).as_deref(), host, "{line} {hops}");
        }
        let forwarded = |line: &'static str, hops| {
            ProxyFields::Forwarded.host(&headers(&[("forwarded", line.as_bytes())]), hops)
        };
        for (line, hops, host) in [
            (
                "host=evil.example, for=_a;host=\"api.example.com:8443\"",
                0,
                Some("api.example.com:8443"),
            ),
            (
                "for=_a;host=api.example.com, for=_b;host=inner.internal",
                1,
                Some("api.example.com"),
            ),
            (
                "for=_a;host=api.example.com, for=_b",
                1,
                Some("api.example.com"),
            ),
            ("host=evil.example, for=_b", 0, None),
            ("for=_a;host=api.example.com", 1, None),
        ] {
            assert_eq!(forwarded(line, hops).as_deref(), host, "{line} {hops}");
        }
    }

    #[test]
    fn addresses_are_visited_from_the_right_until_told_to_stop() {
        let all = headers(&[
            ("x-forwarded-for", b"a, b, 192.0.2.1"),
            ("x-forwarded-for", b"192.0.2.2"),
        ]);
        let mut visited = 0;
        ProxyFields::XForwarded.visit_addresses(&all, |address| {
            visited += 1;
            address == "192.0.2.2".parse().ok()
        });
        assert_eq!(visited, 2);
    }
}
