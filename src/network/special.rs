//! IPv4 networks for special purposes (RFC 6890), and NAT64 addresses.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// The networks without hosts on the Internet. The networks for documentation are not in the list:
/// examples and tests use them as Internet.
const SPECIAL: [Ipv4Net; 10] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    // Multicast, reserved and broadcast.
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Returns whether an IPv4 address is never that of a host on the Internet.
pub(crate) fn is_for_special_purposes(ip: Ipv4Addr) -> bool {
    SPECIAL.iter().any(|network| network.contains(&ip))
}

/// Returns the IPv4 address that a NAT64 has put into `64:ff9b::/96`, if it is one of the Internet,
/// and any other address as it is (RFC 6052 §2.1 and §3.1).
pub(super) fn unwrap_nat64(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = v6.segments() else {
        return address;
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    let v4 = Ipv4Addr::new(a, b, c, d);
    if is_for_special_purposes(v4) {
        return address;
    }
    v4.into()
}

/// Returns the block that clients in `network` are in once the addresses of a NAT64 are replaced with
/// the IPv4 addresses inside.
///
/// # Errors
/// Returns the IPv4 block inside if only a part of its addresses is replaced.
pub(crate) fn unwrap_nat64_block(network: IpNet) -> Result<IpNet, Ipv4Net> {
    let IpNet::V6(block) = network else {
        return Ok(network);
    };
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = block.addr().segments() else {
        return Ok(network);
    };
    let Some(bits) = block.prefix_len().checked_sub(96) else {
        return Ok(network);
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    let inside = Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits).trunc();
    if SPECIAL.iter().any(|special| special.contains(&inside)) {
        return Ok(network);
    }
    if SPECIAL.iter().any(|special| inside.contains(special)) {
        return Err(inside);
    }
    Ok(inside.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_addresses_of_special_networks_are_special() {
        for (address, is_special) in [
            ("0.255.255.255", true),
            ("1.0.0.0", false),
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("11.0.0.0", false),
            ("100.63.255.255", false),
            ("100.64.0.0", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("127.0.0.1", true),
            ("169.254.169.254", true),
            ("169.255.0.0", false),
            ("172.15.255.255", false),
            ("172.16.0.0", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.0.0.255", true),
            ("192.0.2.1", false),
            ("192.168.0.0", true),
            ("192.169.0.0", false),
            ("198.17.255.255", false),
            ("198.18.0.0", true),
            ("198.19.255.255", true),
            ("198.20.0.0", false),
            ("203.0.113.1", false),
            ("223.255.255.255", false),
            ("224.0.0.0", true),
            ("255.255.255.255", true),
        ] {
            let ip = address.parse().unwrap();
            assert_eq!(is_for_special_purposes(ip), is_special, "{address}");
        }
    }
}
