//! The client of a request: its address, the network that it is counted in, and its transport.
//!
//! Header fields that describe the client can be written by anybody. They are trusted only as far
//! as they were written by configured proxies: [`ClientIp`] starts at the peer of the connection and
//! walks the field from right to left for as long as the address at hand is that of a trusted proxy.
//!
//! # One setting per stack
//!
//! Configure [`ClientIp`] on the outermost layer of this crate, whichever that is. It resolves the
//! client once, and the layers inside use its result unless they are configured themselves.
//!
//! ```
//! # use tollgate::keys::Peppers;
//! use tollgate::limit::{KeyBy, Quota, RateLimitLayer};
//! use tollgate::network::ClientIp;
//! use tollgate::{ApiKeys, AuthLayer};
//! use tower::ServiceBuilder;
//! # use tower::{ServiceExt, service_fn};
//! # use std::net::SocketAddr;
//! # use http::{Request, Response};
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let keys = ApiKeys::in_memory(Peppers::random());
//!
//! let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
//! let service = ServiceBuilder::new()
//!     .layer(AuthLayer::new(keys).optional().client_ip(client_ip))
//!     // Counts clients by the address that the layer above has resolved.
//!     .layer(RateLimitLayer::new([Quota::per_minute(1)]).key(KeyBy::network()))
//!     # .service(service_fn(|_: Request<()>| async {
//!     #     Ok::<_, std::convert::Infallible>(Response::new(()))
//!     # }));
//! # let proxy: SocketAddr = "10.0.0.9:4711".parse()?;
//! # for (client, status) in [("203.0.113.7", 200), ("203.0.113.8", 200), ("203.0.113.7", 429)] {
//! #     let request = Request::get("/").extension(proxy).header("x-forwarded-for", client);
//! #     assert_eq!(service.clone().oneshot(request.body(())?).await?.status(), status);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Mistakes that the log reports
//!
//! Each of these is reported once per [`ClientIp`], and once per layer where none is configured, at
//! level `WARN` with the target `tollgate::network`:
//! - a request with `X-Forwarded-For` or `Forwarded` from a peer that is not a trusted proxy,
//! - a request from a trusted proxy that writes the other of these two fields,
//! - a server that does not say what the peer address is.

mod client;
mod forwarded;
mod origin;
mod peer;
pub(crate) mod special;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::request::Parts;
use http::{Extensions, HeaderMap};
use ipnet::IpNet;

use crate::config::{ConfigError, literal};

pub(crate) use client::Client;
use client::{Proxy, statement};
use forwarded::ProxyFields;
pub(crate) use origin::Origin;
use special::unwrap_nat64;

/// The transport of a request: TLS or cleartext.
///
/// Insert it into the extensions of a request where the server knows, outside of the layers of this
/// crate. Behind a trusted proxy the statement of the proxy counts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a connection is encrypted or it is not"
)]
pub enum Transport {
    /// Encrypted by TLS.
    Tls,
    /// In cleartext.
    Plain,
}

/// Resolves the address of the client, and the network that the client is counted in.
///
/// Without trusted proxies the client is the peer of the connection: a [`std::net::SocketAddr`] in
/// the extensions of the request, axum's `ConnectInfo<SocketAddr>`, or the connect info of tonic's
/// server. A request without any of them, for instance over a Unix socket, has no client address.
///
/// IPv4 addresses inside of IPv6 are IPv4: those of `::ffff:0:0/96` always, and those that a NAT64
/// has put into `64:ff9b::/96` if they are globally routable (RFC 6052 §3.1). Trusted proxies are
/// never recognized by an address of a NAT64.
///
/// Clones share what was reported to the log. Resolving a client without trusted proxies does not
/// allocate.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use http::Request;
/// use tollgate::network::ClientIp;
///
/// let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
/// let proxy: SocketAddr = "10.0.0.9:4711".parse()?;
/// let request = Request::get("/")
///     .extension(proxy)
///     .header("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.8")
///     .body(())?;
/// let client: IpAddr = "203.0.113.7".parse()?;
/// assert_eq!(client_ip.address(&request.into_parts().0), Some(client));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ClientIp {
    trusted: Vec<IpNet>,
    fields: ProxyFields,
    v4_prefix: u8,
    v6_prefix: u8,
    peer: Option<Arc<ReadPeer>>,
    reported: Arc<Reported>,
}

type ReadPeer = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

/// The mistakes that the log has already.
#[derive(Default)]
struct Reported {
    no_peer: AtomicBool,
    untrusted: AtomicBool,
    other_field: AtomicBool,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientIp {
    /// Creates a resolver for which the client is the peer of the connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trusted: Vec::new(),
            fields: ProxyFields::XForwarded,
            v4_prefix: 32,
            v6_prefix: 64,
            peer: None,
            reported: Arc::default(),
        }
    }

    /// Adds addresses and CIDR blocks of proxies whose `X-Forwarded-For`, `X-Forwarded-Proto` and
    /// `X-Forwarded-Host` are believed.
    ///
    /// A proxy must set or extend these fields on every request. One that passes on what the client
    /// wrote lets the client choose its address.
    ///
    /// # Panics
    /// Panics if one of them is neither an IP address nor a CIDR block.
    #[must_use]
    #[track_caller]
    pub fn trusted_proxies<I>(self, networks: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        literal(self.try_trusted_proxies(networks))
    }

    /// Like [`ClientIp::trusted_proxies`], for values from configuration.
    ///
    /// # Errors
    /// Returns `Err` if one of them is neither an IP address nor a CIDR block.
    pub fn try_trusted_proxies<I>(mut self, networks: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        for network in networks {
            let network = parse_network("ClientIp::trusted_proxies", network.as_ref())?;
            self.trusted.push(network);
        }
        Ok(self)
    }

    /// Reads `Forwarded` (RFC 7239) instead of the `X-Forwarded-…` fields.
    ///
    /// Only one family is read: a proxy that writes one passes on what the client wrote into the
    /// other.
    #[must_use]
    pub const fn forwarded(mut self) -> Self {
        self.fields = ProxyFields::Forwarded;
        self
    }

    /// Sets the number of leading bits by which clients are grouped into networks, for limits and
    /// failure counts. Defaults to 32 for IPv4 and 64 for IPv6.
    ///
    /// Values above 32 (IPv4) or 128 (IPv6) are clamped.
    #[must_use]
    pub fn group_by_prefix(mut self, v4: u8, v6: u8) -> Self {
        (self.v4_prefix, self.v6_prefix) = (v4.min(32), v6.min(128));
        self
    }

    /// Sets a function that reads the address of the peer, for servers that keep it elsewhere.
    #[must_use]
    pub fn peer_from(
        mut self,
        read: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Some(Arc::new(read));
        self
    }

    /// Returns the address of the client, or `None` if the address of the peer is unknown.
    ///
    /// If an entry on the way from the peer to the client is not an address, the result is the
    /// address of the peer: everything left of that entry may have been written by anybody.
    #[must_use]
    pub fn address(&self, request: &Parts) -> Option<IpAddr> {
        self.resolve(request).address
    }

    /// Returns the network that a client with this address is counted in.
    #[must_use]
    pub fn network(&self, client: IpAddr) -> IpNet {
        let client = unwrap_nat64(client);
        let prefix = if client.is_ipv4() {
            self.v4_prefix
        } else {
            self.v6_prefix
        };
        IpNet::new_assert(client, prefix).trunc()
    }

    /// Resolves everything about the client of a request.
    pub(crate) fn resolve(&self, request: &Parts) -> Client {
        let peer = match &self.peer {
            Some(read) => read(request),
            None => peer::address(&request.extensions),
        };
        let peer = peer.map(|peer| peer.to_canonical());
        let fields = peer
            .is_some_and(|peer| self.is_trusted(peer))
            .then_some(self.fields);
        if let Some(peer) = peer {
            self.report_unread_fields(request, peer, fields);
        }
        let proxy = peer.zip(fields).map(|(peer, fields)| {
            let walked = self.walk(peer, fields, &request.headers);
            (fields, walked)
        });
        let client = match &proxy {
            Some((_, (client, _))) => *client,
            None => peer,
        };
        let address = client.or(peer).map(unwrap_nat64);
        Client {
            address,
            network: address.map(|address| self.network(address)),
            is_certain: client.is_some(),
            is_loopback: (proxy.is_some() || !ProxyFields::any_in(&request.headers))
                && [client, peer]
                    .iter()
                    .all(|each| each.is_some_and(|ip| ip.is_loopback())),
            peer,
            proxy: proxy.map(|(fields, (_, hops))| {
                let said = statement(&fields.protocols(&request.headers), hops);
                Proxy { fields, hops, said }
            }),
        }
    }

    /// Walks from the peer to the client. Returns the client, or `None` if an entry on the way is not an
    /// address; and the number of trusted proxies between the peer and the client, or `None` if the
    /// walk ended at an address that is trusted, too, or at none.
    fn walk(
        &self,
        peer: IpAddr,
        fields: ProxyFields,
        headers: &HeaderMap,
    ) -> (Option<IpAddr>, Option<usize>) {
        let (mut client, mut visited, mut hops) = (Some(peer), 0, None);
        fields.visit_addresses(headers, |entry| {
            client = entry.map(|entry| entry.to_canonical());
            let goes_on = client.is_some_and(|client| self.is_trusted(client));
            if client.is_some() && !goes_on {
                hops = Some(visited);
            }
            visited += 1;
            goes_on
        });
        // A proxy that names no client speaks of its own connection.
        let hops = if visited == 0 { Some(0) } else { hops };
        (client, hops)
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }

    fn report_no_peer(&self) {
        if is_first(&self.reported.no_peer) {
            tracing::warn!(
                target: "tollgate::network",
                "no peer address in the request: clients cannot be told apart by address, and \
                 AuthFailureLimitLayer limits none of them; with axum, serve with `into_make_service_with_connect_info::<SocketAddr>()`; with \
                 other servers, insert a `SocketAddr` into the request extensions or set \
                 `ClientIp::peer_from`"
            );
        }
    }

    fn report_unread_fields(&self, request: &Parts, peer: IpAddr, fields: Option<ProxyFields>) {
        let reported = match fields {
            None => &self.reported.untrusted,
            Some(_) => &self.reported.other_field,
        };
        if reported.load(Ordering::Relaxed)
            || fields.is_some_and(|fields| fields.are_in(&request.headers))
        {
            return;
        }
        let mut known = [ProxyFields::XForwarded, ProxyFields::Forwarded].into_iter();
        let Some(unread) = known.find(|fields| fields.are_in(&request.headers)) else {
            return;
        };
        if !is_first(reported) {
            return;
        }
        let field = unread.name();
        match fields {
            None => tracing::warn!(
                target: "tollgate::network", %peer, %field,
                "the peer sent a proxy field and is not a trusted proxy: all clients behind it are \
                 counted as one; if it is your proxy, set `.client_ip(ClientIp::new()\
                 .trusted_proxies([..]))` on the outermost tollgate layer"
            ),
            Some(expected) => tracing::warn!(
                target: "tollgate::network", %peer, %field, expected = %expected.name(),
                "the trusted proxy writes another field than the one that is read: all clients \
                 behind it are counted as one; call `ClientIp::forwarded` if it writes `Forwarded`"
            ),
        }
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIp")
            .field("trusted_proxies", &self.trusted)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// A layer's setting for the client: its own, or what a layer outside has resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientSetting {
    own: Option<ClientIp>,
    /// Used where no layer of the stack is configured.
    peer: ClientIp,
}

impl ClientSetting {
    pub(crate) fn set(&mut self, client_ip: ClientIp) {
        self.own = Some(client_ip);
    }

    /// Resolves the client if this layer is configured, for itself and for the layers inside.
    pub(crate) fn share(&self, request: &mut Parts) {
        if let Some(own) = &self.own {
            let client = own.resolve(request);
            request.extensions.insert(client);
        }
    }

    /// Returns the client as the nearest configured layer has resolved it: this one or one outside.
    pub(crate) fn client(&self, request: &Parts) -> Client {
        match request.extensions.get::<Client>() {
            Some(client) => *client,
            None => self.peer.resolve(request),
        }
    }

    /// Like [`ClientSetting::client`], for layers that need the address. Reports if it is unknown.
    pub(crate) fn located(&self, request: &Parts) -> Client {
        let client = self.client(request);
        if client.address.is_none() {
            self.own.as_ref().unwrap_or(&self.peer).report_no_peer();
        }
        client
    }

    /// Returns the transport for statistics, without looking for the address of the peer if no layer
    /// is configured.
    pub(crate) fn transport(request: &Parts) -> Option<Transport> {
        match request.extensions.get::<Client>() {
            Some(client) => client.transport(request),
            None => connection(request),
        }
    }
}

/// Returns the address of the client as far as it is known without looking at header fields again.
pub(crate) fn known_address(extensions: &Extensions) -> Option<IpAddr> {
    match extensions.get::<Client>() {
        Some(client) => client.address,
        None => peer::address(extensions).map(unwrap_nat64),
    }
}

/// Returns whether the flag was not set yet, and sets it.
fn is_first(flag: &AtomicBool) -> bool {
    !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::Relaxed)
}

/// Returns the transport of the connection, as the server says.
fn connection(request: &Parts) -> Option<Transport> {
    let inserted = request.extensions.get::<Transport>().copied();
    inserted.or_else(|| peer::transport(&request.extensions))
}

/// Parses a CIDR block or a single address. IPv4 in IPv6 is IPv4. `setting` starts the error text.
pub(crate) fn parse_network(setting: &str, text: &str) -> Result<IpNet, ConfigError> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(canonical).map_err(|_| {
        let trimmed = text.trim();
        let address = text.split_once('/').map(|(address, _)| address.parse());
        let problem = if trimmed.is_empty() {
            "leave it out, or write an address such as `192.0.2.7` or a block such as `10.0.0.0/8`"
        } else if trimmed.contains(|c: char| c == ',' || c == ';' || c.is_whitespace()) {
            "pass each network on its own, without spaces and commas"
        } else if trimmed.len() < text.len() {
            "remove the spaces around it"
        } else if text.parse::<std::net::SocketAddr>().is_ok() {
            "leave the port out"
        } else if text.starts_with('[') {
            "write it without brackets"
        } else {
            match address {
                Some(Ok(IpAddr::V4(_))) => "the prefix length must be a number up to 32",
                Some(Ok(IpAddr::V6(_))) => "the prefix length must be a number up to 128",
                _ => "write an address such as `192.0.2.7` or a block such as `10.0.0.0/8`",
            }
        };
        ConfigError::new(format!(
            "{setting}: {text:?} is not an IP address or CIDR block; {problem}"
        ))
    })
}

fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(address) = network.addr().to_canonical() else {
        return network;
    };
    let bits = match network {
        IpNet::V4(_) => return network,
        IpNet::V6(network) => network.prefix_len(),
    };
    // A shorter prefix than that of the mapped addresses covers more than those.
    bits.checked_sub(96)
        .map_or(network, |bits| IpNet::new_assert(address.into(), bits))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

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

    fn address(network: &ClientIp, peer: &str, fields: &[(&'static str, &[u8])]) -> String {
        let address = network.address(&request(peer, fields));
        address.map_or_else(|| "none".into(), |address| address.to_string())
    }

    #[test]
    fn nobody_is_believed_unless_trusted() {
        let xff: &[(&'static str, &[u8])] = &[("x-forwarded-for", b"1.2.3.4")];
        assert_eq!(address(&ClientIp::new(), "9.9.9.9", xff), "9.9.9.9");
        let trusting = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
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
    fn client_is_the_first_untrusted_address_from_the_right() {
        let network = ClientIp::new().trusted_proxies(["10.0.0.0/8", "2001:db8::1"]);
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
            (&["1.2.3.4, "], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4", "", ","], "1.2.3.4"),
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
        let network = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
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
        let network = ClientIp::new().trusted_proxies(["10.0.0.1"]).forwarded();
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
            let network = ClientIp::new().trusted_proxies([trusted]);
            let xff: &[(&'static str, &[u8])] = &[("x-forwarded-for", b"1.2.3.4, 10.0.0.1")];
            assert_eq!(address(&network, "10.0.0.1", xff), client, "{trusted}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let network = ClientIp::new().trusted_proxies(["10.0.0.0/8"]).forwarded();
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
    fn clients_are_grouped_by_prefix() {
        let network = ClientIp::new();
        let count = |ip: &str| network.network(ip.parse().unwrap()).to_string();
        assert_eq!(count("1.2.3.4"), "1.2.3.4/32");
        assert_eq!(count("::ffff:1.2.3.4"), "1.2.3.4/32");
        assert_eq!(count("::ffff:102:304"), "1.2.3.4/32");
        assert_eq!(count("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        let wide = ClientIp::new().group_by_prefix(24, 48);
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
    fn nat64_addresses_are_the_ipv4_inside_if_it_is_global() {
        let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8", "203.0.113.9"]);
        for (peer, client) in [
            ("64:ff9b::203.0.113.1", "203.0.113.1"),
            ("64:ff9b::8.8.8.8", "8.8.8.8"),
            // RFC 6052 §3.1: not for addresses that are not global.
            ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
            ("64:ff9b::127.0.0.1", "64:ff9b::7f00:1"),
            ("64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe"),
            ("64:ff9b::100.64.0.1", "64:ff9b::6440:1"),
            ("64:ff9b::224.0.0.1", "64:ff9b::e000:1"),
            // Other prefixes: the local one of RFC 8215, and a longer one.
            ("64:ff9b:1::203.0.113.1", "64:ff9b:1::cb00:7101"),
            ("64:ff9b::1:203.0.113.1", "64:ff9b::1:cb00:7101"),
            // Not a trusted proxy, whatever is inside.
            ("64:ff9b::203.0.113.9", "203.0.113.9"),
        ] {
            let fields: &[(&'static str, &[u8])] = &[("x-forwarded-for", b"6.6.6.6")];
            assert_eq!(address(&client_ip, peer, fields), client, "{peer}");
            let hop = format!("6.6.6.6, {peer}");
            let fields: &[(&'static str, &[u8])] = &[("x-forwarded-for", hop.as_bytes())];
            assert_eq!(
                address(&client_ip, "10.0.0.1", fields),
                client,
                "hop {peer}"
            );
        }
        let network = |ip: &str| client_ip.network(ip.parse().unwrap()).to_string();
        assert_eq!(network("64:ff9b::203.0.113.1"), "203.0.113.1/32");
        assert_eq!(network("64:ff9b::10.0.0.1"), "64:ff9b::/64");
    }

    #[test]
    fn transport_is_what_the_trusted_proxy_says() {
        let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
        let resolve = |peer: &str, value: &str, inserted: Option<Transport>| {
            let client = ("x-forwarded-for", &b"203.0.113.7"[..]);
            let fields: &[(&'static str, &[u8])] = match value {
                "" => &[client],
                value => &[client, ("x-forwarded-proto", value.as_bytes())],
            };
            let mut request = request(peer, fields);
            if let Some(inserted) = inserted {
                request.extensions.insert(inserted);
            }
            let client = client_ip.resolve(&request);
            (
                client.transport(&request),
                client.is_explicitly_plain(&request),
            )
        };
        let (tls, plain) = (Some(Transport::Tls), Some(Transport::Plain));
        for (value, transport, is_explicitly_plain) in [
            ("https", tls, false),
            ("HTTPS, https", tls, false),
            ("https,", tls, false),
            ("wss", tls, false),
            ("WSS", tls, false),
            ("http", plain, true),
            ("ws", plain, true),
            // The proxy itself wrote the last one.
            ("https, http", plain, true),
            ("http, https", None, false),
            ("garbage", None, false),
            ("garbage, https", None, false),
            ("https, garbage", None, false),
            ("h2", None, false),
            ("on", None, false),
            ("httpss", None, false),
        ] {
            let expected = (transport, is_explicitly_plain);
            assert_eq!(resolve("10.0.0.1", value, None), expected, "{value:?}");
            // It is about the connection to the proxy.
            for inserted in [tls, plain] {
                assert_eq!(resolve("10.0.0.1", value, inserted), expected, "{value:?}");
            }
            assert_eq!(resolve("9.9.9.9", value, None), (None, false), "{value:?}");
        }
        assert_eq!(resolve("10.0.0.1", "", None), (None, false));
        assert_eq!(
            resolve("10.0.0.1", "", plain),
            (plain, false),
            "the proxy said nothing"
        );
        assert_eq!(
            resolve("10.0.0.1", "", tls),
            (None, false),
            "the proxy said nothing"
        );
        // It looks like a proxy that is not configured.
        assert_eq!(resolve("9.9.9.9", "https", plain), (plain, false));
        assert_eq!(resolve("9.9.9.9", "http", tls), (tls, false));
    }

    /// `X-Forwarded-For` says how many trusted proxies there are between the peer and the client.
    #[test]
    fn transport_is_that_of_the_connection_of_the_client() {
        let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
        let forwarded = client_ip.clone().forwarded();
        let (tls, plain) = (Some(Transport::Tls), Some(Transport::Plain));
        for (addresses, protocols, transport, is_explicitly_plain) in [
            ("203.0.113.7", "http", plain, true),
            ("203.0.113.7, 10.0.0.2", "https, http", tls, false),
            ("203.0.113.7, 10.0.0.2", "http, https", plain, true),
            ("203.0.113.7, 10.0.0.2", "http, http", plain, true),
            // One value for both: about either connection.
            ("203.0.113.7, 10.0.0.2", "https", tls, false),
            ("203.0.113.7, 10.0.0.2", "http", plain, false),
            ("203.0.113.7, 10.0.0.2", "http, https, http", None, false),
            ("203.0.113.7, 10.0.0.2", "garbage, https", None, false),
            ("203.0.113.7, garbage", "http", plain, false),
            // No client that is not a proxy: about the connection of an inner proxy, perhaps.
            ("10.0.0.2", "http", plain, false),
            // A proxy that names no client speaks of its own connection.
            ("", "http", plain, true),
            ("", "https", tls, false),
            ("203.0.113.7, garbage", "https, http", plain, false),
        ] {
            let fields: &[(&'static str, &[u8])] = &[
                ("x-forwarded-for", addresses.as_bytes()),
                ("x-forwarded-proto", protocols.as_bytes()),
            ];
            let request = request("10.0.0.1", fields);
            let client = client_ip.resolve(&request);
            let found = (
                client.transport(&request),
                client.is_explicitly_plain(&request),
            );
            assert_eq!(
                found,
                (transport, is_explicitly_plain),
                "{addresses} {protocols}"
            );
        }
        for (line, transport, is_explicitly_plain) in [
            (
                "for=203.0.113.7;proto=https, for=10.0.0.2;proto=http",
                tls,
                false,
            ),
            (
                "for=203.0.113.7;proto=http, for=10.0.0.2;proto=https",
                plain,
                true,
            ),
            ("for=203.0.113.7, for=10.0.0.2;proto=https", None, false),
        ] {
            let fields: &[(&'static str, &[u8])] = &[("forwarded", line.as_bytes())];
            let request = request("10.0.0.1", fields);
            let client = forwarded.resolve(&request);
            let found = (
                client.transport(&request),
                client.is_explicitly_plain(&request),
            );
            assert_eq!(found, (transport, is_explicitly_plain), "{line}");
        }
    }

    #[test]
    fn only_a_client_of_this_machine_is_local() {
        let remote = ClientIp::new().trusted_proxies(["10.0.0.0/8"]);
        let local = ClientIp::new().trusted_proxies(["127.0.0.0/8"]);
        for (client_ip, peer, addresses, is_loopback) in [
            (&remote, "127.0.0.1", "", true),
            (&remote, "::1", "", true),
            (&remote, "10.0.0.1", "127.0.0.1", false),
            (&remote, "10.0.0.1", "127.0.0.1, 10.0.0.2", false),
            (&local, "127.0.0.1", "127.0.0.1", true),
            // A proxy on this machine that is not configured.
            (&remote, "127.0.0.1", "203.0.113.7", false),
            (&remote, "127.0.0.1", "127.0.0.1", false),
            (&local, "127.0.0.1", "203.0.113.7", false),
            (&local, "127.0.0.1", "203.0.113.7, garbage", false),
        ] {
            let fields: &[(&'static str, &[u8])] = match addresses {
                "" => &[],
                addresses => &[("x-forwarded-for", addresses.as_bytes())],
            };
            let client = client_ip.resolve(&request(peer, fields));
            assert_eq!(client.is_loopback, is_loopback, "{peer} {addresses}");
        }
    }

    #[test]
    fn transport_in_forwarded_needs_the_parameter_of_the_proxy() {
        let client_ip = ClientIp::new().trusted_proxies(["10.0.0.0/8"]).forwarded();
        let (tls, plain) = (Some(Transport::Tls), Some(Transport::Plain));
        for (line, transport, is_explicitly_plain) in [
            ("for=203.0.113.1;proto=https", tls, false),
            ("for=203.0.113.1;proto=\"wss\"", tls, false),
            ("for=203.0.113.1;Proto=WS", plain, true),
            ("for=203.0.113.1", None, false),
            ("for=203.0.113.1;proto=https, for=10.0.0.2", tls, false),
            ("proto=http, for=203.0.113.1;proto=https", None, false),
            ("for=203.0.113.1;proto=http, proto=https", None, false),
            ("proto=https;proto=http", None, false),
            ("proto=\"http", None, false),
        ] {
            let fields: &[(&'static str, &[u8])] = &[("forwarded", line.as_bytes())];
            let request = request("10.0.0.1", fields);
            let client = client_ip.resolve(&request);
            let found = (
                client.transport(&request),
                client.is_explicitly_plain(&request),
            );
            assert_eq!(found, (transport, is_explicitly_plain), "{line}");
        }
    }

    #[test]
    fn errors_name_the_network_and_the_fix() {
        for (bad, fix) in [
            ("", "10.0.0.0/8"),
            ("10.0.0.0/33", "up to 32"),
            ("2001:db8::/129", "up to 128"),
            ("example.com", "10.0.0.0/8"),
            ("10.0.0.0/8/8", "up to 32"),
        ] {
            let error = ClientIp::new()
                .try_trusted_proxies([bad])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("ClientIp::trusted_proxies: "), "{error}");
            assert!(
                error.contains(&format!("{bad:?}")) && error.contains(fix),
                "{error}"
            );
        }
    }
}
