//! [`Client`]: the client of a request, and the statements of trusted proxies about it.

use std::net::IpAddr;

use http::request::Parts;
use ipnet::IpNet;

use crate::network::forwarded::{Member, ProxyFields};
use crate::network::{Transport, connection};

/// The client of a request, as a layer has resolved it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: Option<IpAddr>,
    /// The network that the client is counted in.
    pub(crate) network: Option<IpNet>,
    /// Set if each entry of the proxy field on the way to the client was an address.
    pub(super) is_certain: bool,
    /// Set if the client and the peer are known to be on this machine.
    pub(crate) is_loopback: bool,
    pub(super) peer: Option<IpAddr>,
    /// The trusted proxy that the request came through.
    pub(super) proxy: Option<Proxy>,
}

/// The statements of the trusted proxies about the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proxy {
    pub(super) fields: ProxyFields,
    /// The number of trusted proxies between the peer and the client. `None` if the proxies do not name
    /// a client that is not a proxy itself.
    pub(super) hops: Option<usize>,
    pub(super) said: Option<Said>,
}

/// A statement about the transport between the client and the proxy next to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Said {
    Tls,
    /// Said by the proxy that the client was connected to.
    Plain,
    /// Perhaps about the connection between two proxies.
    PerhapsPlain,
    Unreadable,
}

impl Client {
    /// Returns the address for decisions that grant something. `None` if a proxy field could not be
    /// read: the client is counted as the proxy then, but must not get what the proxy may do.
    pub(crate) fn certain_address(&self) -> Option<IpAddr> {
        self.address.filter(|_| self.is_certain)
    }

    pub(crate) const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Returns the transport, or `None` if nobody said, or the trusted proxy said something unreadable.
    ///
    /// A trusted proxy decides for requests that come through it: the connection to the proxy may be
    /// encrypted and yet carry what reached the proxy in cleartext, and the other way round.
    pub(crate) fn transport(&self, request: &Parts) -> Option<Transport> {
        match self.proxy.and_then(|proxy| proxy.said) {
            Some(Said::Tls) => Some(Transport::Tls),
            Some(Said::Plain | Said::PerhapsPlain) => Some(Transport::Plain),
            Some(Said::Unreadable) => None,
            // Encryption between a silent proxy and the server says nothing about the client.
            None => {
                let known = connection(request);
                known.filter(|known| self.proxy.is_none() || *known == Transport::Plain)
            }
        }
    }

    /// Returns whether a trusted party has explicitly said that the request came in cleartext.
    /// Irreversible actions need this.
    ///
    /// Behind a proxy the application can only know about the connection to the proxy. A request that
    /// says it came through one may have come through a proxy that is not configured.
    pub(crate) fn is_explicitly_plain(&self, request: &Parts) -> bool {
        match self.proxy {
            Some(proxy) => proxy.said == Some(Said::Plain),
            None => {
                request.extensions.get() == Some(&Transport::Plain)
                    && !ProxyFields::any_in(&request.headers)
            }
        }
    }

    /// Returns why the transport of a request is unknown, and the fix.
    pub(crate) fn transport_problem(&self, request: &Parts) -> &'static str {
        let is_forwarded = [ProxyFields::XForwarded, ProxyFields::Forwarded]
            .iter()
            .any(|fields| !fields.protocols(&request.headers).is_empty());
        match (self.peer, self.proxy.map(|proxy| proxy.fields)) {
            (_, Some(ProxyFields::XForwarded)) => {
                "the trusted proxy did not say `https`, `wss`, `http` or `ws` in X-Forwarded-Proto; \
                 with nginx: `proxy_set_header X-Forwarded-Proto $scheme`"
            }
            (_, Some(ProxyFields::Forwarded)) => {
                "the trusted proxy did not say `proto=https` or `proto=http` in Forwarded"
            }
            (None, None) if is_forwarded => {
                "the request has no peer address, so that no proxy can be trusted; with axum, serve \
                 with `into_make_service_with_connect_info::<SocketAddr>()`"
            }
            (Some(_), None) if is_forwarded => {
                "the peer is not a trusted proxy, so that its header is not believed; if it is your \
                 proxy, add it to `ClientIp::trusted_proxies`"
            }
            (_, None) => {
                "the server does not say whether the connection is encrypted; insert `Transport` into \
                 the request extensions, or call `HttpsOnlyLayer::assume`"
            }
        }
    }

    /// The host that the client addressed, as a trusted proxy reports it, else as the request does.
    pub(crate) fn requested_host(&self, request: &Parts) -> Option<String> {
        let forwarded = self
            .proxy
            .and_then(|proxy| proxy.fields.host(&request.headers, proxy.hops.unwrap_or(0)));
        forwarded
            .or_else(|| request.uri.authority().map(ToString::to_string))
            .or_else(|| {
                let host = request.headers.get(http::header::HOST)?;
                host.to_str().ok().map(Into::into)
            })
    }
}

/// Returns the statement about the client out of those of the trusted proxies, from right to left.
///
/// The proxy that is `hops` proxies away from the peer was connected to the client. A list that is
/// shorter was not extended by each proxy. Members beyond may have been written by the client: they
/// count only against it.
pub(super) fn statement(protocols: &[Member<'_>], hops: Option<usize>) -> Option<Said> {
    let protocol = |member: &Member<'_>| {
        let name = member.as_deref()?;
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if is(b"https") || is(b"wss") {
            Some(Transport::Tls)
        } else if is(b"http") || is(b"ws") {
            Some(Transport::Plain)
        } else {
            None
        }
    };
    let last = protocols.len().checked_sub(1)?;
    let at = hops.unwrap_or(0).min(last);
    let is_of_the_client = hops == Some(at);
    Some(match protocol(&protocols[at]) {
        Some(Transport::Tls) => {
            let mut beyond = protocols[at + 1..].iter();
            match beyond.all(|member| protocol(member) == Some(Transport::Tls)) {
                true => Said::Tls,
                false => Said::Unreadable,
            }
        }
        Some(Transport::Plain) if is_of_the_client => Said::Plain,
        Some(Transport::Plain) => Said::PerhapsPlain,
        None => Said::Unreadable,
    })
}
