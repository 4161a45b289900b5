//! `/etc/resolv.conf` and `/etc/hosts`: texts, pure; written in place of the old ones.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::plan::{MAX_DNS, Plan};

/// Text of `/etc/resolv.conf`: the servers given by hand, or those of all interfaces' plans, in order of preference.
pub fn resolv_conf<'a>(by_hand: &[IpAddr], plans: impl IntoIterator<Item = &'a Plan>) -> String {
    let mut servers: Vec<IpAddr> = by_hand.iter().copied().take(MAX_DNS).collect();
    let mut domain = None;
    for plan in plans {
        for server in plan.dns.iter().filter(|_| by_hand.is_empty()) {
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
pub fn hosts(hostname: &str, address: Option<IpAddr>) -> String {
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)));
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_merged_without_doubles() {
        let plan = |dns: &[[u8; 4]], domain: Option<&str>| Plan {
            dns: dns.iter().map(|bytes| IpAddr::from(*bytes)).collect(),
            domain: domain.map(str::to_owned),
            ..Plan::default()
        };
        let plans = [
            plan(&[[10, 0, 0, 1], [10, 0, 0, 3]], None),
            plan(&[[10, 0, 0, 1], [1, 1, 1, 1], [9, 9, 9, 9]], Some("lan")),
        ];
        assert_eq!(
            resolv_conf(&[], &plans),
            "search lan\nnameserver 10.0.0.1\nnameserver 10.0.0.3\nnameserver 1.1.1.1\noptions timeout:2 attempts:2\n"
        );
        assert_eq!(
            resolv_conf(&["2001:db8::53".parse().unwrap()], &plans),
            "search lan\nnameserver 2001:db8::53\noptions timeout:2 attempts:2\n"
        );
        assert!(!resolv_conf(&[], []).contains("nameserver"));
    }

    #[test]
    fn the_machine_finds_itself_with_and_without_address() {
        assert!(hosts("mote", None).contains("127.0.1.1 mote\n"));
        assert!(hosts("mote", Some(IpAddr::from([10, 0, 2, 15]))).contains("10.0.2.15 mote\n"));
    }
}
