//! [`Origin`]: what is kept of a request to derive the network of its client later.

use std::net::IpAddr;

use http::request::Parts;
use ipnet::IpNet;

use super::{Client, ClientSetting, peer};

/// The address of a client, and its network if a layer has resolved it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    address: Option<IpAddr>,
    network: Option<IpNet>,
}

impl ClientSetting {
    /// Takes from a request what [`ClientSetting::network_of`] needs when the request is gone.
    pub(crate) fn origin(&self, request: &Parts) -> Origin {
        if let Some(client) = request.extensions.get::<Client>() {
            return Origin {
                address: client.address,
                network: client.network,
            };
        }
        let address = peer::address(&request.extensions).map(|peer| peer.to_canonical());
        if let Some(peer) = address {
            self.peer.report_unread_fields(request, peer, None);
        }
        Origin {
            address,
            network: None,
        }
    }

    /// Returns the network that the client is counted in. Reports if its address is unknown.
    pub(crate) fn network_of(&self, origin: Origin) -> Option<IpNet> {
        if origin.address.is_none() {
            self.own.as_ref().unwrap_or(&self.peer).report_no_peer();
        }
        let by_peer = || Some(self.peer.network(origin.address?));
        origin.network.or_else(by_peer)
    }
}
