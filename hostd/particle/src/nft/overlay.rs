//! Who may speak by the overlay: machines of the cluster alone, each for sandboxes of its own subnet.

use std::net::IpAddr;

use super::socket::{Nft, NftError};
use super::table::{Chain, FILTER, Key, Place, RAW, Rule, Set, Table, Test, Then, protocol};
use super::when::{Family, when};
use crate::overlay::{self, Peer};
use crate::plan::{Node, Plan, PlanError, Tenant};

/// A machine's part of an address is the same for all tenants.
const ANY: Tenant = Tenant::FIRST;

const NAME: &str = "mote_overlay";
const UNKNOWN: &str = "unknown_peer";
const LIE: &str = "lie";

/// Machines a guard knows at most.
const PEERS: usize = 4096;

/// Before filters the machine may have.
const EARLY: i32 = FILTER - 5;

// Bytes of the headers between the outer IP packet and the inner one.
const UDP: u8 = 8;
const VXLAN: u8 = 8;
const ETHERNET: u8 = 14;

const ETHERTYPE: Key = Key::Transport { at: UDP + VXLAN + 12, length: 2 };
const INNER_V4: Key = Key::Transport { at: UDP + VXLAN + ETHERNET + 12, length: 4 };

/// What of an IPv6 address tells the machine is in its first half.
const INNER_V6: Key = Key::Transport { at: UDP + VXLAN + ETHERNET + 8, length: 8 };

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// For each protocol of outer packets: machines, and which inner sources each has.
const FAMILIES: [Names; 2] = [
    Names {
        family: Family::V4,
        peers: "peers4",
        v4: "peers4_inner4",
        v6: "peers4_inner6",
        chain: "from_peer4",
    },
    Names {
        family: Family::V6,
        peers: "peers6",
        v4: "peers6_inner4",
        v6: "peers6_inner6",
        chain: "from_peer6",
    },
];

struct Names {
    family: Family,
    peers: &'static str,
    v4: &'static str,
    v6: &'static str,
    chain: &'static str,
}

/// A guard that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// Too many machines.
    #[error("Cannot guard the overlay: {peers} machines are more than {PEERS}")]
    Peers {
        /// Machines.
        peers: usize,
    },
    /// A machine has no subnet.
    #[error("Cannot guard the overlay")]
    Plan(#[from] PlanError),
    /// The kernel refused.
    #[error("Cannot guard the overlay")]
    Filter(#[from] NftError),
}

/// Packets of the overlay that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayDrops {
    /// Of no machine of the cluster.
    pub unknown_peer: u64,
    /// Of a machine, from a sandbox that is another's.
    pub lie: u64,
}

/// The filter for what comes by the overlay, in the namespace whose addresses other machines send to. It stays when this
/// is dropped: what is left of it after a crash lets less through, not more.
#[derive(Debug)]
pub struct OverlayGuard {
    plan: Plan,
    nft: Nft,
}

impl OverlayGuard {
    /// Places the guard in the calling thread's namespace, instead of any that is left there. Counters begin at 0.
    ///
    /// # Errors
    /// When there are too many machines, the plan has no room for one, or the kernel refuses.
    pub fn place(plan: Plan, peers: &[Peer]) -> Result<Self, GuardError> {
        let table = table(&plan, peers)?;
        let mut nft = Nft::open()?;
        nft.replace(&table)?;
        Ok(Self { plan, nft })
    }

    /// Lets these machines speak, and no others. Counters go on.
    ///
    /// # Errors
    /// As for [`place`](Self::place); then nothing has changed.
    pub fn set_peers(&mut self, peers: &[Peer]) -> Result<(), GuardError> {
        Ok(self.nft.refill(NAME, &sets(&self.plan, peers)?)?)
    }

    /// Packets dropped since the guard was placed.
    ///
    /// # Errors
    /// When somebody took the filter away.
    pub fn drops(&mut self) -> Result<OverlayDrops, GuardError> {
        let unknown_peer = self.nft.count(NAME, UNKNOWN)?.packets;
        Ok(OverlayDrops { unknown_peer, lie: self.nft.count(NAME, LIE)?.packets })
    }
}

pub(super) fn table(plan: &Plan, peers: &[Peer]) -> Result<Table, GuardError> {
    // Tells one machine's IPv4 subnet from another's.
    let mask = plan.subnet(Node(0), ANY)?.v4().netmask().octets().to_vec();
    let port = || when().protocol(protocol::UDP).port_to(overlay::PORT);
    let known = |names: &Names| match names.family {
        Family::V4 => when().v4().known_source(names.family, names.peers),
        Family::V6 => when().v6().known_source(names.family, names.peers),
    };
    let mut vxlan: Vec<_> = FAMILIES.iter().map(|names| known(names).then(Then::Goto(names.chain))).collect();
    vxlan.push(when().count(UNKNOWN).then(Then::Drop));
    let mut chains = vec![
        // A flow of a cluster's machine is nothing connection tracking need remember.
        Chain::at("raw", Place::Prerouting, RAW, vec![port().for_this_machine().then(Then::Untracked)]),
        Chain::at("raw_out", Place::Output, RAW, vec![port().then(Then::Untracked)]),
        Chain::at("input", Place::Input, EARLY, vec![port().then(Then::Goto("vxlan"))]),
        Chain::plain("vxlan", vxlan),
    ];
    chains.extend(FAMILIES.iter().map(|names| Chain::plain(names.chain, from_peer(names, &mask))));
    Ok(Table { name: NAME, counters: vec![UNKNOWN, LIE], sets: sets(plan, peers)?, chains })
}

fn from_peer(names: &Names, mask: &[u8]) -> Vec<Rule> {
    let inner = |ethertype: u16, key, mask, set| {
        let keys = vec![(names.family.source(), None), (key, mask)];
        let is = Test::Is { key: ETHERTYPE, mask: None, value: ethertype.to_be_bytes().to_vec(), not: false };
        when().test(is).test(Test::Known { keys, set }).then(Then::Accept)
    };
    vec![
        inner(IPV4, INNER_V4, Some(mask.to_vec()), names.v4),
        inner(IPV6, INNER_V6, None, names.v6),
        when().count(LIE).then(Then::Drop),
    ]
}

fn sets(plan: &Plan, peers: &[Peer]) -> Result<Vec<Set>, GuardError> {
    if peers.len() > PEERS {
        return Err(GuardError::Peers { peers: peers.len() });
    }
    let set = |name, length| Set { name, length, keys: Vec::new() };
    let mut sets = FAMILIES.map(|names| {
        let address = if names.family == Family::V4 { 4 } else { 16 };
        [set(names.peers, address), set(names.v4, address + 4), set(names.v6, address + 8)]
    });
    for peer in peers {
        let subnet = plan.subnet(peer.node, ANY)?;
        let (address, family) = match peer.address.to_canonical() {
            IpAddr::V4(address) => (address.octets().to_vec(), 0),
            IpAddr::V6(address) => (address.octets().to_vec(), 1),
        };
        let inner_v4 = subnet.v4().network().octets().to_vec();
        let inner_v6 = subnet.v6().network().octets().into_iter().take(8).collect();
        let parts = [Vec::new(), inner_v4, inner_v6];
        for (set, part) in sets.iter_mut().skip(family).take(1).flatten().zip(parts) {
            set.keys.push(address.iter().copied().chain(part).collect());
        }
    }
    Ok(sets.into_iter().flatten().collect())
}
