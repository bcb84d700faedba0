//! [`ClientNetwork`]: which network a request comes from, found once and for all.
//!
//! Header fields that name the client are written by anybody. They are believed only
//! as far as they were written by proxies that are configured as trusted: the walk
//! starts at the peer of the connection and goes from the right of the field to the
//! left, for as long as the address it stands on is trusted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::FORWARDED;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::config::{ConfigError, literal};

/// Finds the address of the client, and the network that it is counted as.
///
/// Without trusted proxies it is the peer of the connection: a
/// [`std::net::SocketAddr`] in the request's extensions, axum's
/// `ConnectInfo<SocketAddr>`, or what tonic's server notes down. A request without either, for instance over a Unix
/// socket, has no client address.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use http::Request;
/// use tollgate::network::ClientNetwork;
///
/// let clients = ClientNetwork::peer().trust(["10.0.0.0/8"]);
/// let proxy: SocketAddr = "10.0.0.9:4711".parse()?;
/// let request = Request::get("/")
///     .extension(proxy)
///     .header("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.8")
///     .body(())?;
/// let client: IpAddr = "203.0.113.7".parse()?;
/// assert_eq!(clients.address(&request.into_parts().0), Some(client));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ClientNetwork {
    trusted: Vec<IpNet>,
    field: Field,
    v4_prefix: u8,
    v6_prefix: u8,
    peer: Option<Arc<Peer>>,
}

type Peer = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

#[derive(Clone, Copy, Debug)]
enum Field {
    XForwardedFor,
    Forwarded,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

impl Default for ClientNetwork {
    fn default() -> Self {
        Self::peer()
    }
}

impl ClientNetwork {
    /// The peer of the connection is the client; no field is read.
    #[must_use]
    pub fn peer() -> Self {
        Self {
            trusted: Vec::new(),
            field: Field::XForwardedFor,
            v4_prefix: 32,
            v6_prefix: 64,
            peer: None,
        }
    }

    /// Believes proxies in these networks what they write into `X-Forwarded-For` and
    /// `X-Forwarded-Proto`.
    ///
    /// # Panics
    /// If one is neither an address nor a network in CIDR notation.
    #[must_use]
    #[track_caller]
    pub fn trust<'a>(self, networks: impl IntoIterator<Item = &'a str>) -> Self {
        literal(self.try_trust(networks))
    }

    /// As [`ClientNetwork::trust`], for networks from configuration.
    ///
    /// # Errors
    /// Where `trust` panics.
    pub fn try_trust<'a>(
        mut self,
        networks: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ConfigError> {
        for network in networks {
            self.trusted.push(parse_network(network)?);
        }
        Ok(self)
    }

    /// Reads `Forwarded` (RFC 7239) in place of the `X-Forwarded-…` fields. Only ever
    /// one of both is read: a proxy that writes the one passes the client's other on.
    #[must_use]
    pub fn forwarded(mut self) -> Self {
        self.field = Field::Forwarded;
        self
    }

    /// Counts clients by networks of so many leading bits: 32 of IPv4 and 64 of IPv6
    /// unless set. More than an address has is all of it.
    #[must_use]
    pub fn prefixes(mut self, v4: u8, v6: u8) -> Self {
        (self.v4_prefix, self.v6_prefix) = (v4.min(32), v6.min(128));
        self
    }

    /// Says how to find the peer of the connection, where a server puts it elsewhere.
    #[must_use]
    pub fn peer_from(
        mut self,
        read: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Some(Arc::new(read));
        self
    }

    /// The address of the client. IPv4 in IPv6 is IPv4, judged by its bits.
    ///
    /// An entry that does not parse ends the walk, and the peer is taken for the
    /// client: what stands left of it may be anybody's.
    #[must_use]
    pub fn address(&self, request: &Parts) -> Option<IpAddr> {
        let peer = self.peer_of(request)?;
        Some(self.walk(peer, request).unwrap_or(peer))
    }

    /// Whether the client is on this machine. One that cannot be told from a proxy is not.
    pub(crate) fn is_loopback(&self, request: &Parts) -> bool {
        self.peer_of(request)
            .and_then(|peer| self.walk(peer, request))
            .is_some_and(|client| client.is_loopback())
    }

    /// The network that a client is counted as.
    #[must_use]
    pub fn network(&self, client: IpAddr) -> IpNet {
        let client = client.to_canonical();
        let prefix = if client.is_ipv4() {
            self.v4_prefix
        } else {
            self.v6_prefix
        };
        IpNet::new_assert(client, prefix).trunc()
    }

    /// Whether trusted proxies say that the client came over TLS; none if nobody who
    /// is trusted says anything. In a list, every entry must say so, and what cannot be
    /// read does not.
    pub(crate) fn is_https(&self, request: &Parts) -> Option<bool> {
        if self.trusted.is_empty() || !self.is_trusted(self.peer_of(request)?) {
            return None;
        }
        let entries = match self.field {
            Field::XForwardedFor => listed(&request.headers, &X_FORWARDED_PROTO),
            Field::Forwarded => forwarded(&request.headers, "proto"),
        };
        let all = entries
            .iter()
            .all(|entry| entry.eq_ignore_ascii_case(b"https"));
        (!entries.is_empty()).then_some(all)
    }

    /// Walks from the peer to the client; none if an entry on the way does not parse.
    fn walk(&self, peer: IpAddr, request: &Parts) -> Option<IpAddr> {
        if !self.is_trusted(peer) {
            return Some(peer);
        }
        let entries = match self.field {
            Field::XForwardedFor => listed(&request.headers, &X_FORWARDED_FOR),
            Field::Forwarded => forwarded(&request.headers, "for"),
        };
        let mut client = peer;
        for entry in entries.iter().rev() {
            client = parse_address(entry)?;
            if !self.is_trusted(client) {
                break;
            }
        }
        Some(client)
    }

    fn peer_of(&self, request: &Parts) -> Option<IpAddr> {
        let peer = match &self.peer {
            Some(read) => read(request),
            None => peer_address(request),
        };
        peer.map(|peer| peer.to_canonical())
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }
}

impl fmt::Debug for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientNetwork")
            .field("trusted", &self.trusted)
            .field("field", &self.field)
            .finish_non_exhaustive()
    }
}

/// A network in CIDR notation, or a single address. IPv4 in IPv6 is IPv4.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, ConfigError> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network
        .map(canonical)
        .map_err(|_| ConfigError::new(format!("{text:?} is neither an address nor a network")))
}

fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(address) = network.addr().to_canonical() else {
        return network;
    };
    let bits = match network {
        IpNet::V4(_) => return network,
        IpNet::V6(network) => network.prefix_len(),
    };
    // A prefix that is shorter than that of all mapped addresses is of more than those.
    bits.checked_sub(96)
        .map_or(network, |bits| IpNet::new_assert(address.into(), bits))
}

fn peer_address(request: &Parts) -> Option<IpAddr> {
    if let Some(peer) = request.extensions.get::<SocketAddr>() {
        return Some(peer.ip());
    }
    #[cfg(feature = "axum")]
    if let Some(peer) = crate::axum::connect_info(&request.extensions) {
        return Some(peer.ip());
    }
    #[cfg(feature = "tonic")]
    if let Some(peer) = crate::tonic::connect_info(&request.extensions) {
        return Some(peer.ip());
    }
    None
}

/// The entries of all lines of a list field.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect()
}

/// The values of a parameter in all elements of `Forwarded` (RFC 7239 §4), an empty one
/// where an element has none.
fn forwarded<'a>(headers: &'a HeaderMap, parameter: &str) -> Vec<&'a [u8]> {
    let mut values = Vec::new();
    for line in headers.get_all(FORWARDED) {
        match unquoted_split(line.as_bytes(), b',') {
            Some(elements) => values.extend(
                elements
                    .into_iter()
                    .map(|element| value_of(element, parameter).unwrap_or_default()),
            ),
            // Nobody knows where the elements of this line end, so it is a single one.
            None => values.push(&[][..]),
        }
    }
    values
}

/// The value of a parameter. One with an escape in it is left as it is: no address and
/// no scheme needs any.
fn value_of<'a>(element: &'a [u8], parameter: &str) -> Option<&'a [u8]> {
    unquoted_split(element, b';')?.into_iter().find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let inner = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        name.eq_ignore_ascii_case(parameter.as_bytes())
            .then_some(inner.unwrap_or(value))
    })
}

/// Splits where the separator does not stand in quotes (RFC 9110 §5.6.4); none if a quote
/// is left open.
fn unquoted_split(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
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

/// An address as proxies write it: bare, in brackets, with a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<IpAddr>()
            .ok()
    };
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse().ok().or_else(with_port).or_else(bracketed)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(peer: &str, fields: &[(&'static str, &[u8])]) -> Parts {
        let mut request = http::Request::new(());
        if let Ok(peer) = peer.parse::<IpAddr>() {
            request.extensions_mut().insert(SocketAddr::new(peer, 4711));
        }
        for (name, value) in fields {
            request
                .headers_mut()
                .append(*name, (*value).try_into().unwrap());
        }
        request.into_parts().0
    }

    fn address(network: &ClientNetwork, peer: &str, fields: &[(&'static str, &[u8])]) -> String {
        let address = network.address(&request(peer, fields));
        address.map_or_else(|| "none".into(), |address| address.to_string())
    }

    #[test]
    fn nobody_is_believed_unless_trusted() {
        let xff: &[(&'static str, &[u8])] = &[("x-forwarded-for", b"1.2.3.4")];
        assert_eq!(address(&ClientNetwork::peer(), "9.9.9.9", xff), "9.9.9.9");
        let trusting = ClientNetwork::peer().trust(["10.0.0.0/8"]);
        assert_eq!(address(&trusting, "9.9.9.9", xff), "9.9.9.9");
        assert_eq!(address(&trusting, "10.0.0.1", xff), "1.2.3.4");
        assert_eq!(address(&trusting, "::ffff:10.0.0.1", xff), "1.2.3.4");
        assert_eq!(address(&trusting, "no address", xff), "none");
        assert_eq!(
            address(&trusting.clone().forwarded(), "10.0.0.1", xff),
            "10.0.0.1"
        );
    }

    #[test]
    fn the_walk_goes_from_the_right_over_all_lines_and_stops_at_the_first_stranger() {
        let network = ClientNetwork::peer().trust(["10.0.0.0/8", "2001:db8::1"]);
        for (lines, client) in [
            (&["6.6.6.6, 1.2.3.4, 10.0.0.2"][..], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4", "10.0.0.2, 10.0.0.3"], "1.2.3.4"),
            (&["1.2.3.4:8080"], "1.2.3.4"),
            (&["[2001:db8::7]:443"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["1.2.3.4, 2001:db8::1"], "1.2.3.4"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["10.0.0.5, 10.0.0.6"], "10.0.0.5"),
            // What does not parse ends the walk at the peer.
            (&["1.2.3.4, garbage"], "10.0.0.1"),
            (&["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.1"),
            (&["1.2.3.4, "], "10.0.0.1"),
            (&["1.2.3.4, 10.0.0.999"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            let fields: Vec<(&'static str, &[u8])> = lines
                .iter()
                .map(|line| ("x-forwarded-for", line.as_bytes()))
                .collect();
            assert_eq!(address(&network, "10.0.0.1", &fields), client, "{lines:?}");
        }
    }

    #[test]
    fn what_stands_left_of_the_client_may_be_anything() {
        let network = ClientNetwork::peer().trust(["10.0.0.0/8"]);
        let walk = |field: &'static str, lines: &[&[u8]]| {
            let fields: Vec<(&'static str, &[u8])> =
                lines.iter().map(|line| (field, *line)).collect();
            let network = match field {
                "forwarded" => network.clone().forwarded(),
                _ => network.clone(),
            };
            address(&network, "10.0.0.1", &fields)
        };
        assert_eq!(walk("x-forwarded-for", &[b"\xff, 1.2.3.4"]), "1.2.3.4");
        assert_eq!(walk("x-forwarded-for", &[b"\xff", b"1.2.3.4"]), "1.2.3.4");
        assert_eq!(walk("x-forwarded-for", &[b"1.2.3.4, \xff"]), "10.0.0.1");
        assert_eq!(walk("forwarded", &[b"for=\xff, for=1.2.3.4"]), "1.2.3.4");
        assert_eq!(walk("forwarded", &[b"for=\"", b"for=1.2.3.4"]), "1.2.3.4");
        assert_eq!(walk("forwarded", &[b"for=1.2.3.4, for=\xff"]), "10.0.0.1");
    }

    #[test]
    fn quotes_of_a_client_do_not_hide_what_the_proxy_has_written() {
        let network = ClientNetwork::peer().trust(["10.0.0.1"]).forwarded();
        for (line, client) in [
            (r#"for=10.1.1.1;x="\"", for=1.2.3.4"#, "1.2.3.4"),
            (r#"for=10.1.1.1;x="\\", for=1.2.3.4"#, "1.2.3.4"),
            (r#"for=10.1.1.1;x="a\",\"b", for=1.2.3.4"#, "1.2.3.4"),
            // A quote that is left open makes one element of all, and it has no address.
            (r#"for=10.1.1.1;x=", for=1.2.3.4"#, "10.0.0.1"),
            (r#"for=10.1.1.1;x=", for="1.2.3.4""#, "10.0.0.1"),
            (r#"for=10.1.1.1;x=\", for=1.2.3.4"#, "10.0.0.1"),
            (r#"for=10.1.1.1;x="\, for=1.2.3.4"#, "10.0.0.1"),
            (r#"for=10.1.1.1;x="\, for="1.2.3.4""#, "10.0.0.1"),
        ] {
            let fields: &[(&'static str, &[u8])] = &[("forwarded", line.as_bytes())];
            assert_eq!(address(&network, "10.0.0.1", fields), client, "{line}");
        }
    }

    #[test]
    fn networks_of_mapped_addresses_are_those_of_ipv4() {
        for (trusted, client) in [
            ("::ffff:10.0.0.1", "1.2.3.4"),
            ("::ffff:10.0.0.0/104", "1.2.3.4"),
            ("::ffff:0:0/96", "1.2.3.4"),
            ("::ffff:11.0.0.0/104", "10.0.0.1"),
            ("::/0", "10.0.0.1"),
        ] {
            let network = ClientNetwork::peer().trust([trusted]);
            let xff: &[(&'static str, &[u8])] = &[("x-forwarded-for", b"1.2.3.4, 10.0.0.1")];
            assert_eq!(address(&network, "10.0.0.1", xff), client, "{trusted}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let network = ClientNetwork::peer().trust(["10.0.0.0/8"]).forwarded();
        for (line, client) in [
            ("for=1.2.3.4", "1.2.3.4"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            (
                "for=6.6.6.6, for=1.2.3.4;proto=https;by=10.0.0.1",
                "1.2.3.4",
            ),
            ("by=\"a,b;for=6.6.6.6\" ; for = 1.2.3.4", "1.2.3.4"),
            ("for=1.2.3.4, for=_hidden", "10.0.0.1"),
            ("for=1.2.3.4, for=unknown", "10.0.0.1"),
            ("for=1.2.3.4, proto=https", "10.0.0.1"),
        ] {
            let fields: &[(&'static str, &[u8])] = &[("forwarded", line.as_bytes())];
            assert_eq!(address(&network, "10.0.0.1", fields), client, "{line}");
        }
    }

    #[test]
    fn clients_are_counted_by_network_and_mapped_addresses_by_their_bits() {
        let network = ClientNetwork::peer();
        let count = |ip: &str| network.network(ip.parse().unwrap()).to_string();
        assert_eq!(count("1.2.3.4"), "1.2.3.4/32");
        assert_eq!(count("::ffff:1.2.3.4"), "1.2.3.4/32");
        assert_eq!(count("::ffff:102:304"), "1.2.3.4/32");
        assert_eq!(count("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        let wide = ClientNetwork::peer().prefixes(24, 48);
        assert_eq!(
            wide.network("2001:db8:1:2::1".parse().unwrap()).to_string(),
            "2001:db8:1::/48"
        );
        assert_eq!(
            wide.network("1.2.3.4".parse().unwrap()).to_string(),
            "1.2.3.0/24"
        );
    }

    #[test]
    fn the_transport_is_what_every_trusted_hop_says() {
        let network = ClientNetwork::peer().trust(["10.0.0.0/8"]);
        let proto = |peer, value: &str| {
            network.is_https(&request(peer, &[("x-forwarded-proto", value.as_bytes())]))
        };
        assert_eq!(proto("10.0.0.1", "https"), Some(true));
        assert_eq!(proto("10.0.0.1", "HTTPS, https"), Some(true));
        assert_eq!(proto("10.0.0.1", "https, http"), Some(false));
        assert_eq!(proto("10.0.0.1", "garbage"), Some(false));
        assert_eq!(proto("9.9.9.9", "https"), None, "nobody asked them");
        assert_eq!(network.is_https(&request("10.0.0.1", &[])), None);
        let odd: &[(&'static str, &[u8])] = &[("x-forwarded-proto", b"\xff, https")];
        assert_eq!(network.is_https(&request("10.0.0.1", odd)), Some(false));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in ["", "10.0.0.0/33", "example.com", "10.0.0.0/8/8"] {
            assert!(ClientNetwork::peer().try_trust([bad]).is_err(), "{bad:?}");
        }
    }
}
