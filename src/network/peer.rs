//! The peer of the connection, as servers put it into the extensions of a request.

use std::net::{IpAddr, SocketAddr};

use http::Extensions;

use crate::network::Transport;

/// Returns the address of the peer.
pub(super) fn address(extensions: &Extensions) -> Option<IpAddr> {
    if let Some(peer) = extensions.get::<SocketAddr>() {
        return Some(peer.ip());
    }
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(peer)) = extensions.get() {
        let peer: &SocketAddr = peer;
        return Some(peer.ip());
    }
    #[cfg(feature = "tonic-tls")]
    if let Some(tls) = extensions.get::<TlsConnectInfo>() {
        return tls.get_ref().remote_addr().map(|peer| peer.ip());
    }
    #[cfg(feature = "tonic")]
    if let Some(tcp) = extensions.get::<TcpConnectInfo>() {
        return tcp.remote_addr().map(|peer| peer.ip());
    }
    None
}

/// Returns how the connection to tonic's server is transported.
pub(super) fn transport(extensions: &Extensions) -> Option<Transport> {
    #[cfg(feature = "tonic-tls")]
    if extensions.get::<TlsConnectInfo>().is_some() {
        return Some(Transport::Tls);
    }
    #[cfg(feature = "tonic")]
    if extensions.get::<TcpConnectInfo>().is_some() {
        return Some(Transport::Plain);
    }
    let _ = extensions;
    None
}

#[cfg(feature = "tonic")]
use ::tonic::transport::server::TcpConnectInfo;

#[cfg(feature = "tonic-tls")]
type TlsConnectInfo = ::tonic::transport::server::TlsConnectInfo<TcpConnectInfo>;
