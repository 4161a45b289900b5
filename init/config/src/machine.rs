//! The sections of the machine itself, as init and those who keep it up take them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::shapes::mac;

/// `[machine]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the machine.
    pub hostname: String,
    /// Interfaces set up by hand; if there are none, all ask a DHCP server.
    pub interfaces: Vec<Interface>,
    /// Name servers; if there are any, those of DHCP servers are not asked.
    pub dns: Vec<IpAddr>,
    /// When user data is asked for.
    pub metadata: Metadata,
    /// Where.
    pub metadata_url: String,
    /// Whether what the API has set counts.
    pub api_layer: bool,
    /// How long a disk may take to appear, seconds.
    pub disk_wait_s: u64,
    /// Let e2fsck repair what `-p` leaves to a person, at the risk of losing files.
    pub data_repair: bool,
}

impl Default for Machine {
    /// As the built-in file has it: for a program whose keys and types disagree.
    fn default() -> Self {
        Self {
            hostname: "mote".to_owned(),
            interfaces: Vec::new(),
            dns: Vec::new(),
            metadata: Metadata::Auto,
            metadata_url: "http://169.254.169.254".to_owned(),
            api_layer: true,
            disk_wait_s: 5,
            data_repair: false,
        }
    }
}

/// One of `machine.interfaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interface {
    /// Its name or hardware address; if missing, it is the first that appears.
    pub name: Option<String>,
    /// Addresses, with prefix length.
    pub addresses: Vec<IpNet>,
    /// The ways out.
    pub gateways: Vec<IpAddr>,
    /// Largest packet, bytes.
    pub mtu: Option<u16>,
    /// Whether it asks a DHCP server for an IPv4 address.
    pub dhcp: bool,
    /// Whether it asks a DHCPv6 server where router advertisements say so; if missing, yes.
    pub dhcp6: Option<bool>,
}

impl Interface {
    /// Whether this is about an interface of that name and hardware address; an entry without a name is about none by
    /// itself.
    pub fn names(&self, name: &str, address: [u8; 6]) -> bool {
        self.name.as_deref().is_some_and(|wanted| wanted == name || mac(wanted) == Some(address))
    }
}

/// When a cloud's instance metadata is asked for user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metadata {
    /// On machines that say they are of EC2.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `[ntp]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ntp {
    /// Who is asked for the time: `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`; none: those built in; `off` alone:
    /// nobody.
    pub servers: Vec<String>,
}

/// `[update]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Public keys, 64 hexadecimal digits each, that updates may be signed with.
    pub keys: Vec<String>,
    /// How long a new system may take to be healthy, seconds.
    pub trial_s: u64,
}
