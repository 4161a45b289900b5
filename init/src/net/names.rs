//! `/etc/resolv.conf` and `/etc/hosts`: texts, pure; written in place of the old ones.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::plan::{MAX_DNS, Plan};

/// Text of `/etc/resolv.conf` for all interfaces' plans, in order of preference.
pub fn resolv_conf<'a>(plans: impl IntoIterator<Item = &'a Plan>) -> String {
    let mut servers: Vec<Ipv4Addr> = Vec::new();
    let mut domain = None;
    for plan in plans {
        for server in &plan.dns {
            if !servers.contains(server) && servers.len() < MAX_DNS {
                servers.push(*server);
            }
        }
        domain = domain.or(plan.domain.as_deref());
    }
    let mut text = String::new();
    if let Some(domain) = domain {
        let _ = writeln!(text, "search {domain}");
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text.push_str("options timeout:2 attempts:2\n");
    text
}

/// Text of `/etc/hosts`.
pub fn hosts(hostname: &str, address: Option<Ipv4Addr>) -> String {
    let address = address.unwrap_or(Ipv4Addr::new(127, 0, 1, 1));
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_merged_without_doubles() {
        let plan = |dns: &[[u8; 4]], domain: Option<&str>| Plan {
            address: Ipv4Addr::new(10, 0, 0, 2),
            prefix: 8,
            lifetime_s: None,
            routes: Vec::new(),
            mtu: None,
            dns: dns.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect(),
            domain: domain.map(str::to_owned),
        };
        let plans = [
            plan(&[[10, 0, 0, 1], [10, 0, 0, 3]], None),
            plan(&[[10, 0, 0, 1], [1, 1, 1, 1], [9, 9, 9, 9]], Some("lan")),
        ];
        let text = resolv_conf(&plans);
        assert_eq!(
            text,
            "search lan\nnameserver 10.0.0.1\nnameserver 10.0.0.3\nnameserver 1.1.1.1\noptions timeout:2 attempts:2\n"
        );
        assert!(!resolv_conf([]).contains("nameserver"));
    }

    #[test]
    fn the_machine_finds_itself_with_and_without_address() {
        assert!(hosts("mote", None).contains("127.0.1.1 mote\n"));
        assert!(hosts("mote", Some(Ipv4Addr::new(10, 0, 2, 15))).contains("10.0.2.15 mote\n"));
    }
}
