//! All keys of `mote.toml`. What they mean and their defaults stand in `config/mote.toml`.

use crate::kind::{Field, Key, Kind};
use crate::shapes::{
    ADDRESS, ANY_ADDRESS, CIDR, HOSTNAME, INTERFACE, LABEL, LINE, LISTEN, LOG_TARGET, METADATA_URL, PATH,
    PEM, PUBLIC_KEY, SERVER, V4_NET, V6_NET,
};

/// Most seconds of any time: a year.
const YEAR_S: i64 = 31_536_000;

/// Most of what is counted in mebibytes: an exbibyte.
const MOST_MB: i64 = 1 << 40;

const U16: i64 = u16::MAX as i64;
const U32: i64 = u32::MAX as i64;

const fn int(least: i64, most: i64) -> Kind {
    Kind::Int { least, most }
}

const fn seconds() -> Kind {
    int(0, YEAR_S)
}

const fn number(most: f64) -> Kind {
    Kind::Number { least: 0.0, most }
}

const fn reach(path: &'static str, kind: Kind) -> Key {
    Key { reach: true, ..Key::new(path, kind) }
}

const fn needed(name: &'static str, kind: Kind, said: &'static str) -> Field {
    Field { name, kind, needed: true, said }
}

const fn optional(name: &'static str, kind: Kind, said: &'static str) -> Field {
    Field { name, kind, needed: false, said }
}

/// Most interfaces that are set up by hand.
pub const MAX_INTERFACES: usize = 16;

/// Most tenants of a machine: each has a namespace and as many descriptors as endpoints.
pub const MAX_TENANTS: usize = 256;

/// Most other machines: each is a route, a neighbour and a forwarding entry of every tenant.
pub const MAX_PEERS: usize = 1024;

/// Most resolvers; those of the C library read no more either.
pub const MAX_DNS: usize = 3;

/// Most keys that updates may be signed with.
pub const MAX_UPDATE_KEYS: usize = 8;

const INTERFACES: &[Field] = &[
    optional(
        "name",
        Kind::Text(INTERFACE),
        "which one, by name or hardware address; if missing, the first that appears",
    ),
    optional("addresses", Kind::Texts { each: CIDR, most: 16 }, "its addresses, with prefix length"),
    optional(
        "gateways",
        Kind::Texts { each: ADDRESS, most: 2 },
        "the ways out, at most one IPv4 and one IPv6 address",
    ),
    optional("mtu", int(576, U16), "largest packet, bytes; if missing, the driver's"),
    optional("dhcp", Kind::Bool, "whether it asks a DHCP server for an IPv4 address; if missing, no"),
    optional(
        "dhcp6",
        Kind::Bool,
        "whether it asks a DHCPv6 server where router advertisements say so; if missing, yes",
    ),
];

const PEERS: &[Field] = &[
    needed("node", int(0, U16), "the other machine's number"),
    needed("address", Kind::Text(ANY_ADDRESS), "its address"),
];

const TENANTS: &[Field] = &[
    needed("name", Kind::Text(LABEL), "its name, a part of its sandboxes' names"),
    needed("vni", int(1, (1 << 24) - 1), "its number, the same on all machines"),
    optional(
        "egress",
        Kind::Choice(&["none", "internet", "all"]),
        "where its sandboxes may go: none, internet (public addresses) or all; if missing, none",
    ),
    optional(
        "max_sandboxes",
        int(0, U16),
        "its sandboxes at once on this machine; if missing, as many as there are places",
    ),
    optional("weight", int(0, U32), "its share of memory that is short, against the others'; if missing, 1"),
    optional(
        "max_memory_mb",
        int(0, MOST_MB),
        "memory of its sandboxes that have a call, MiB; if missing, no limit",
    ),
    optional("max_queue", int(0, U32), "its calls that wait at once; if missing, no limit of its own"),
];

/// In the order of `config/mote.toml`.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    Key::new("machine.hostname", Kind::Text(HOSTNAME)),
    reach("machine.interfaces", Kind::Tables { fields: INTERFACES, most: MAX_INTERFACES }),
    reach("machine.dns", Kind::Texts { each: ADDRESS, most: MAX_DNS }),
    Key::new("machine.metadata", Kind::Choice(&["auto", "on", "off"])),
    Key::new("machine.metadata_url", Kind::Text(METADATA_URL)),
    Key::new("machine.api_layer", Kind::Bool),
    Key::new("machine.disk_wait_s", int(0, 600)),
    Key::new("machine.data_repair", Kind::Bool),

    Key::new("ntp.servers", Kind::Texts { each: SERVER, most: 8 }),

    Key::new("update.keys", Kind::Texts { each: PUBLIC_KEY, most: MAX_UPDATE_KEYS }),
    Key::new("update.trial_s", int(10, 3600)),

    Key::new("api.listen", Kind::Text(LISTEN)),
    Key::new("api.max_connections", int(1, 1_000_000)),
    Key::new("api.drain_s", seconds()),

    Key::new("sandbox.vcpus", int(1, 32)),
    Key::new("sandbox.boot_timeout_s", seconds()),
    Key::new("sandbox.init_timeout_s", seconds()),
    Key::new("sandbox.restore_timeout_s", seconds()),
    Key::new("sandbox.idle_timeout_s", seconds()),
    Key::new("sandbox.reclaim_s", seconds()),
    Key::new("sandbox.blanks", int(0, 10_000)),
    Key::new("sandbox.max_sandboxes", int(0, 1_000_000)),
    Key::new("sandbox.memory_reserve_mb", int(0, MOST_MB)),
    Key::new("sandbox.queue_s", seconds()),
    Key::new("sandbox.guest_cmdline", Kind::Text(LINE)),

    Key::new("scheduling.warm", Kind::Choice(&["max-available", "sticky", "none"])),
    Key::new("scheduling.placement", Kind::Choice(&["min-cost", "max-available", "sticky-random", "random", "sticky-max-available"])),
    Key::new("scheduling.eviction", Kind::Choice(&["greedy-dual", "min-cost", "lru"])),
    Key::new("scheduling.keep_alive", Kind::Choice(&["hybrid-histogram", "fixed"])),
    Key::new("scheduling.binding", Kind::Choice(&["late", "early"])),
    Key::new("scheduling.lambda", number(1e6)),
    Key::new("scheduling.alpha", number(1.0)),
    Key::new("scheduling.histogram_bin_s", number(86_400.0)),
    Key::new("scheduling.histogram_bins", int(1, 100_000)),
    Key::new("scheduling.max_queue", int(0, U32)),
    Key::new("scheduling.max_queue_function", int(0, U32)),
    Key::new("scheduling.starts_at_once", int(0, U32)),
    Key::new("scheduling.fair_wait_ms", int(0, 3_600_000)),
    Key::new("scheduling.headroom", number(1.0)),

    Key::new("snapshot.kind", Kind::Choice(&["init", "warm"])),
    Key::new("snapshot.mode", Kind::Choice(&["faasnap", "reap", "lazy", "cached"])),
    Key::new("snapshot.own_pages", Kind::Choice(&["auto", "all", "written"])),
    Key::new("snapshot.layered", Kind::Bool),
    Key::new("snapshot.scrub_ms", int(0, 600_000)),

    Key::new("network.v4", Kind::Text(V4_NET)),
    Key::new("network.v6", Kind::Text(V6_NET)),
    Key::new("network.node_prefix", int(22, 24)),
    Key::new("network.node", int(0, U16)),
    Key::new("network.endpoints", int(1, 1022)),
    Key::new("network.quarantine_s", seconds()),
    Key::new("network.blanks", int(0, 16)),
    Key::new("network.mtu", int(576, U16)),
    Key::new("network.packets_per_s", int(0, U32)),
    Key::new("network.bytes_per_s", int(0, i64::MAX)),
    Key::new("network.resolvers", Kind::Texts { each: ANY_ADDRESS, most: 8 }),
    Key::new("network.peers", Kind::Tables { fields: PEERS, most: MAX_PEERS }),
    Key::new("network.tenants", Kind::Tables { fields: TENANTS, most: MAX_TENANTS }),

    Key::new("paths.data", Kind::Text(PATH)),
    Key::new("paths.run", Kind::Text(PATH)),
    Key::new("paths.guest_kernel", Kind::Text(PATH)),
    Key::new("paths.runtimes", Kind::Text(PATH)),

    Key::new("store.reserve_mb", int(0, MOST_MB)),

    Key::new("package.max_unpacked_mb", int(0, MOST_MB)),
    Key::new("package.max_entries", int(0, U32)),

    Key::new("log.level", Kind::Text(LINE)),
    Key::new("log.function_lines", int(0, 100_000_000)),
    Key::new("log.remote", Kind::Text(LOG_TARGET)),
    Key::new("log.remote_ca", Kind::Text(PEM)),
];

/// Words of the kernel command line from before there were sections, and the keys they set.
pub(crate) const SHORT: &[(&str, &str)] = &[
    ("hostname", "machine.hostname"),
    ("dns", "machine.dns"),
    ("ntp", "ntp.servers"),
    ("metadata", "machine.metadata"),
    ("metadata_url", "machine.metadata_url"),
    ("disk_wait_s", "machine.disk_wait_s"),
    ("data_repair", "machine.data_repair"),
];

/// What the API cannot set: where its own layer is, and whether it counts.
pub(crate) const NOT_BY_API: &[&str] = &["machine.api_layer", "paths.data"];

/// Words that together are one entry of `machine.interfaces`.
pub(crate) const INTERFACE_WORDS: &[&str] = &["address", "gateway", "interface"];

/// Words that are no settings: the boot loader tells which slot it booted, by what that is verified, and what of its menu was
/// chosen.
pub const FOREIGN: &[&str] = &["slot", "verity", "reset"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_there_once_and_sections_in_one_piece() {
        let paths: BTreeSet<_> = KEYS.iter().map(|key| key.path).collect();
        assert_eq!(paths.len(), KEYS.len());
        let mut sections: Vec<_> = KEYS.iter().map(|key| key.parts().0).collect();
        sections.dedup();
        assert_eq!(sections.iter().collect::<BTreeSet<_>>().len(), sections.len());
        for path in SHORT.iter().map(|(_, path)| path).chain(NOT_BY_API) {
            assert!(paths.contains(path), "{path}");
        }
    }
}
