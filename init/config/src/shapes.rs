//! Forms of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::kind::Shape;

/// Longest path, name or line.
const LONGEST: usize = 4096;

/// Any text on one line.
pub(crate) const LINE: Shape = Shape { said: "text on one line", fits: is_line };

/// A path from the root.
pub(crate) const PATH: Shape =
    Shape { said: "a path that begins with /", fits: |text| text.starts_with('/') && is_line(text) };

/// An address to listen on.
pub(crate) const LISTEN: Shape = Shape {
    said: "an address and a port, such as 0.0.0.0:8080 or [::]:8080",
    fits: |text| text.parse::<SocketAddr>().is_ok(),
};

/// An IPv4 network.
pub(crate) const V4_NET: Shape =
    Shape { said: "an IPv4 network, such as 10.64.0.0/10", fits: |text| text.parse::<Ipv4Net>().is_ok() };

/// An IPv6 network.
pub(crate) const V6_NET: Shape = Shape {
    said: "an IPv6 network, such as fd6d:6f74:6500::/48",
    fits: |text| text.parse::<Ipv6Net>().is_ok(),
};

/// The address of a machine.
pub(crate) const ADDRESS: Shape = Shape {
    said: "an address such as 192.0.2.7 or 2001:db8::7",
    fits: |text| text.parse().is_ok_and(|address| is_host(&address)),
};

/// The address of a machine that may be this one.
pub(crate) const ANY_ADDRESS: Shape = Shape {
    said: "an address such as 192.0.2.7 or 2001:db8::7",
    fits: |text| text.parse().is_ok_and(|address| is_host_or_loopback(&address)),
};

/// The address of a machine with its network.
pub(crate) const CIDR: Shape = Shape {
    said: "an address with prefix length, such as 192.0.2.7/24 or 2001:db8::7/64",
    fits: |text| text.parse::<IpNet>().is_ok_and(|net| net.prefix_len() > 0 && is_host(&net.addr())),
};

/// Name of the machine.
pub(crate) const HOSTNAME: Shape =
    Shape { said: "a host name of 1 to 63 letters, digits and hyphens", fits: is_hostname };

/// Name of a tenant.
pub(crate) const LABEL: Shape = Shape {
    said: "1 to 63 small letters, digits and hyphens, and not self",
    fits: |text| is_hostname(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase()) && text != "self",
};

/// An interface.
pub(crate) const INTERFACE: Shape = Shape {
    said: "the name of an interface, such as eth0, or its hardware address, such as 52:54:00:12:34:56",
    fits: |text| is_interface(text) || is_mac(text),
};

/// A public key.
pub(crate) const PUBLIC_KEY: Shape = Shape {
    said: "an ed25519 public key of 64 hexadecimal digits",
    fits: |text| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
};

/// A machine that is asked over the network.
pub(crate) const SERVER: Shape = Shape {
    said: "a host name or address, and a port if it is not the usual one: time.example.net, 192.0.2.9:123, [2001:db8::9]:123",
    fits: is_server,
};

/// Where log lines go.
pub(crate) const LOG_TARGET: Shape = Shape {
    said: "empty, or tcp:// or tls:// with host and port: tls://logs.example.net:6514",
    fits: |text| {
        let rest = ["tcp://", "tls://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        text.is_empty() || rest.is_some_and(|rest| is_server(rest) && has_port(rest))
    },
};

/// Certificates.
pub(crate) const PEM: Shape = Shape {
    said: "empty, or certificates in PEM form",
    fits: |text| {
        let plain = |letter: char| letter == '\n' || letter == '\r' || (' '..='~').contains(&letter);
        text.is_empty()
            || (text.len() <= 64 << 10
                && text.trim_start().starts_with("-----BEGIN CERTIFICATE-----")
                && text.chars().all(plain))
    },
};

/// Where instance metadata is asked for.
pub(crate) const METADATA_URL: Shape = Shape {
    said: "http:// with host or address, and a port if need be: http://169.254.169.254",
    fits: |text| text.strip_prefix("http://").is_some_and(is_server),
};

fn is_line(text: &str) -> bool {
    text.len() <= LONGEST && !text.chars().any(char::is_control)
}

/// An address one machine can have.
pub(crate) fn is_host(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_host_v4(address),
        IpAddr::V6(address) => is_host_v6(address),
    }
}

fn is_host_v4(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240)
        && address.octets()[0] != 0
}

fn is_host_v6(address: &Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
        && address.to_ipv4_mapped().is_none()
}

fn is_hostname(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

/// The bytes of a hardware address; none if it is no such text.
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+')))
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn is_mac(text: &str) -> bool {
    mac(text).is_some()
}

fn is_domain(text: &str) -> bool {
    // Else an address that does not fit would be a name.
    let named = text.rsplit('.').next().is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()));
    (1..=253).contains(&text.len()) && named && text.split('.').all(is_hostname)
}

fn is_server(text: &str) -> bool {
    if text
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.port() > 0 && is_host_or_loopback(&address.ip()))
    {
        return true;
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if bare.parse().is_ok_and(|address| is_host_or_loopback(&address)) {
        return true;
    }
    match text.rsplit_once(':') {
        Some((host, port)) => is_domain(host) && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => is_domain(text),
    }
}

fn is_host_or_loopback(address: &IpAddr) -> bool {
    is_host(address) || address.is_loopback()
}

fn has_port(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
        || text.rsplit_once(':').is_some_and(|(host, port)| is_domain(host) && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_take_what_they_say_and_nothing_else() {
        for (shape, good, bad) in [
            (HOSTNAME, &["a", "mote", "a-b", "A9"][..], &["", "-a", "a-", "a.b", "a b", "ä"][..]),
            (LABEL, &["blue", "a-1"], &["Blue", "self", "Blue sky", "-"]),
            (
                ADDRESS,
                &["192.0.2.7", "2001:db8::7", "fe80::1"],
                &[
                    "",
                    "0.0.0.0",
                    "127.0.0.1",
                    "224.0.0.1",
                    "::",
                    "::1",
                    "ff02::1",
                    "::ffff:1.2.3.4",
                    "255.255.255.255",
                ],
            ),
            (
                CIDR,
                &["192.0.2.7/24", "2001:db8::7/64", "192.0.2.7/32"],
                &["10.0.0.1", "10.0.0.1/0", "10.0.0.1/33", "x/8", "127.0.0.1/8", "0.0.0.0/8", "::1/128"],
            ),
            (
                INTERFACE,
                &["eth0", "52:54:00:12:34:56"],
                &["", ".", "a/b", "a:b", "a name", "52:54:00:12:34", "+2:54:00:12:34:56", "sixteen-letters-"],
            ),
            (
                SERVER,
                &[
                    "time.example.net",
                    "host:1123",
                    "192.0.2.9",
                    "192.0.2.9:123",
                    "2001:db8::9",
                    "[2001:db8::9]:123",
                    "127.0.0.1:123",
                ],
                &["", "a b", "http://x", "host:0", "host:99999", ":123", "0.0.0.0"],
            ),
            (
                LOG_TARGET,
                &["", "tcp://192.0.2.9:514", "tls://logs.example.net:6514", "tcp://[2001:db8::9]:514"],
                &["tcp://host", "udp://host:514", "host:514", "http://x:1", "tcp://:5"],
            ),
            (
                METADATA_URL,
                &["http://169.254.169.254", "http://10.0.2.2:8000"],
                &["https://x", "http://", "http://a/b", "http://a@b"],
            ),
            (
                PUBLIC_KEY,
                &["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"],
                &["", "00", "zz112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"],
            ),
            (PATH, &["/data"], &["", "data", "/a\nb"]),
        ] {
            for text in good {
                assert!((shape.fits)(text), "{text:?} is {}", shape.said);
            }
            for text in bad {
                assert!(!(shape.fits)(text), "{text:?} is not {}", shape.said);
            }
        }
        assert!(!is_hostname(&"a".repeat(64)));
    }
}
