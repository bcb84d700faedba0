//! Parsing of the header fields in which proxies describe the client: `Forwarded` (RFC 7239) and
//! the `X-Forwarded-…` family.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use http::header::FORWARDED;
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
type Member<'a> = Option<Cow<'a, [u8]>>;

impl ProxyFields {
    /// The addresses in the field, in the order in which the proxies wrote them. The last one was
    /// written by the peer.
    pub(super) fn addresses(self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let nodes = self.members(headers, &X_FORWARDED_FOR, "for");
        nodes
            .iter()
            .map(|node| parse_node(node.as_deref()?))
            .collect()
    }

    /// The protocols that the client used with each proxy, such as `https` or `ws`.
    pub(super) fn protocols(self, headers: &HeaderMap) -> Vec<Member<'_>> {
        self.members(headers, &X_FORWARDED_PROTO, "proto")
    }

    /// The host that the client asked the proxy next to it for, if that proxy says so.
    pub(super) fn host(self, headers: &HeaderMap) -> Option<String> {
        let hosts = self.members(headers, &X_FORWARDED_HOST, "host");
        let last = hosts.into_iter().next_back()??;
        String::from_utf8(last.into_owned()).ok()
    }

    pub(super) fn are_in(self, headers: &HeaderMap) -> bool {
        headers.contains_key(self.name())
    }

    /// The field that carries the addresses.
    pub(super) const fn name(self) -> HeaderName {
        match self {
            Self::XForwarded => X_FORWARDED_FOR,
            Self::Forwarded => FORWARDED,
        }
    }

    fn members<'a>(
        self,
        headers: &'a HeaderMap,
        x_forwarded: &HeaderName,
        parameter: &str,
    ) -> Vec<Member<'a>> {
        match self {
            Self::XForwarded => list_members(headers, x_forwarded),
            Self::Forwarded => forwarded_members(headers, parameter),
        }
    }
}

/// The members of a list field. Empty members do not count (RFC 9110 §5.6.1.2).
fn list_members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<Member<'a>> {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
        .map(|member| Some(Cow::Borrowed(member)))
        .collect()
}

/// A parameter of each element of `Forwarded` (RFC 7239 §4). Empty elements do not count.
fn forwarded_members<'a>(headers: &'a HeaderMap, parameter: &str) -> Vec<Member<'a>> {
    let mut members = Vec::new();
    for line in headers.get_all(FORWARDED) {
        match split_unquoted(line.as_bytes(), b',') {
            Some(elements) => {
                let elements = elements.into_iter().filter(|element| !element.is_empty());
                members.extend(elements.map(|element| parameter_of(element, parameter)));
            }
            // An unclosed quote: it is unknown where the elements of this line end.
            None => members.push(None),
        }
    }
    members
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
            let found: Vec<String> = fields
                .addresses(&headers(&lines))
                .into_iter()
                .map(|address| address.map_or_else(|| "?".into(), |address| address.to_string()))
                .collect();
            assert_eq!(found.join(" "), expected, "{lines:?}");
        }
    }

    #[test]
    fn host_is_that_of_the_last_proxy() {
        let both = headers(&[
            ("x-forwarded-host", b"evil.example, api.example.com"),
            (
                "forwarded",
                b"host=evil.example, for=_a;host=\"api.example.com:8443\"",
            ),
        ]);
        let x_forwarded = ProxyFields::XForwarded.host(&both);
        assert_eq!(x_forwarded.as_deref(), Some("api.example.com"));
        let forwarded = ProxyFields::Forwarded.host(&both);
        assert_eq!(forwarded.as_deref(), Some("api.example.com:8443"));
        let none = headers(&[("forwarded", b"host=a.example, for=192.0.2.1")]);
        assert_eq!(ProxyFields::Forwarded.host(&none), None);
        assert_eq!(ProxyFields::XForwarded.host(&none), None);
    }
}
