//! The filter of a tenant's namespace.

use super::networks::{self, Egress, GLOBAL_V6, NEVER, PRIVATE};
use super::table::{Chain, Device, FILTER, Net, Place, RAW, Rule, Table, Then, protocol, state};
use super::when::{When, when};
use crate::overlay;
use crate::plan::{Addresses, Plan, Tenant};
use crate::uplink;

/// Counts what was for the gateway or for another endpoint, and is not permitted.
pub const REFUSED: &str = "refused";

/// Counts flows to the world that were too many.
pub const TOO_MANY: &str = "too_many";

const NAME: &str = "mote_tenant";

const TAPS: Device = Device::Like("tap");
const OVERLAY: Device = Device::Named(overlay::DEVICE);
const UPLINK: Device = Device::Named(uplink::INNER);
const LOOPBACK: Device = Device::Named("lo");

/// Where names are answered.
const NAMES: u16 = 53;

const ECHO: u8 = 8;
const UNREACHABLE: u8 = 3;
const ECHO6: u8 = 128;
const UNREACHABLE6: u8 = 1;
const TOO_BIG6: u8 = 2;

/// What a tenant's filter is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantRules {
    /// The cluster's addresses.
    pub plan: Plan,
    /// Whose.
    pub tenant: Tenant,
    /// Addresses of the namespace itself.
    pub gateway: Addresses,
    /// Where its sandboxes may connect to.
    pub egress: Egress,
    /// Flows to the world at a time, of all its sandboxes on this machine: each costs memory of the machine.
    pub flows: u32,
}

impl TenantRules {
    fn own(&self) -> [Net; 2] {
        networks::own(&self.plan, self.tenant)
    }

    fn gateway(&self) -> [Net; 2] {
        [self.gateway.v4.into(), self.gateway.v6.into()]
    }
}

/// The filter of a tenant's namespace.
///
/// What endpoints send each other and ask the gateway passes by connection tracking. All else has to be permitted.
pub fn tenant_table(rules: &TenantRules) -> Table {
    let (own, gateway) = (rules.own(), rules.gateway());
    let world = rules.egress != Egress::None;
    let mut chains = vec![
        Chain::at("raw", Place::Prerouting, RAW, raw(own, gateway)),
        Chain::plain("raw_gateway", raw_gateway()),
        Chain::at("raw_answers", Place::Output, RAW, answers(gateway)),
        Chain::closed("input", Place::Input, input(own)),
        Chain::plain("services", services(gateway)),
        Chain::closed("forward", Place::Forward, forward(world)),
        Chain::plain("endpoints", endpoints(world)),
        Chain::plain("within", within(own)),
    ];
    if world {
        chains.extend([
            Chain::plain("egress", egress(rules)),
            Chain::at("output", Place::Output, FILTER, output(&rules.plan)),
            Chain::source_nat("nat", vec![when().leaving(UPLINK).then(Then::Masquerade)]),
        ]);
    }
    Table { name: NAME, counters: vec![REFUSED, TOO_MANY], sets: Vec::new(), chains }
}

fn raw(own: [Net; 2], gateway: [Net; 2]) -> Vec<Rule> {
    let to_gateway = gateway.map(|gateway| when().to(gateway).then(Then::Goto("raw_gateway")));
    let among_us = own.map(|own| when().from(own).to(own).then(Then::Untracked));
    to_gateway.into_iter().chain(among_us).collect()
}

/// Questions are not tracked. All else may be an answer to a question of the gateway's.
fn raw_gateway() -> Vec<Rule> {
    vec![
        when().protocol(protocol::UDP).port_to(NAMES).then(Then::Untracked),
        when().protocol(protocol::TCP).port_to(NAMES).then(Then::Untracked),
        when().v4().icmp(protocol::ICMP, ECHO).then(Then::Untracked),
        when().v6().icmp(protocol::ICMP6, ECHO6).then(Then::Untracked),
    ]
}

fn answers(gateway: [Net; 2]) -> Vec<Rule> {
    let answer =
        |gateway, protocol| when().from(gateway).protocol(protocol).port_from(NAMES).then(Then::Untracked);
    gateway
        .into_iter()
        .flat_map(|gateway| [protocol::UDP, protocol::TCP].map(|protocol| answer(gateway, protocol)))
        .collect()
}

fn input(own: [Net; 2]) -> Vec<Rule> {
    let mut rules = vec![
        when().arriving(LOOPBACK).then(Then::Accept),
        when().state(state::ESTABLISHED | state::RELATED).then(Then::Accept),
    ];
    for device in [TAPS, OVERLAY] {
        rules.extend(own.map(|own| when().arriving(device).from(own).then(Then::Goto("services"))));
    }
    rules.push(when().count(REFUSED).then(Then::Drop));
    rules
}

/// What the namespace itself does for its endpoints.
fn services([v4, v6]: [Net; 2]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for gateway in [v4, v6] {
        for protocol in [protocol::UDP, protocol::TCP] {
            rules.push(when().to(gateway).protocol(protocol).port_to(NAMES).then(Then::Accept));
        }
    }
    rules.extend([ECHO, UNREACHABLE].map(|kind| when().to(v4).icmp(protocol::ICMP, kind).then(Then::Accept)));
    rules.extend(
        [ECHO6, UNREACHABLE6, TOO_BIG6]
            .map(|kind| when().to(v6).icmp(protocol::ICMP6, kind).then(Then::Accept)),
    );
    rules.push(when().count(REFUSED).then(Then::Drop));
    rules
}

fn forward(world: bool) -> Vec<Rule> {
    let mut rules = vec![
        when().arriving(TAPS).then(Then::Goto("endpoints")),
        // Not on to other machines: they are spoken to without a detour.
        when().arriving(OVERLAY).leaving(TAPS).then(Then::Goto("within")),
    ];
    if world {
        let answers = when().arriving(UPLINK).leaving(TAPS).state(state::ESTABLISHED | state::RELATED);
        rules.push(answers.then(Then::Accept));
    }
    rules.push(when().count(REFUSED).then(Then::Drop));
    rules
}

fn endpoints(world: bool) -> Vec<Rule> {
    let mut rules = [TAPS, OVERLAY].map(|device| when().leaving(device).then(Then::Goto("within"))).to_vec();
    if world {
        rules.push(when().leaving(UPLINK).then(Then::Goto("egress")));
    }
    rules.push(when().count(REFUSED).then(Then::Drop));
    rules
}

fn within(own: [Net; 2]) -> Vec<Rule> {
    let mut rules = own.map(|own| when().from(own).to(own).then(Then::Accept)).to_vec();
    rules.push(when().count(REFUSED).then(Then::Drop));
    rules
}

/// What is checked of every packet, so that a stricter policy ends what a looser one began.
fn egress(rules: &TenantRules) -> Vec<Rule> {
    let refuse = |when: When| when.count(REFUSED).then(Then::Reject);
    let mut all: Vec<_> = nowhere(&rules.plan).map(|net| refuse(when().to(net))).collect();
    if rules.egress != Egress::All {
        all.extend(PRIVATE.iter().map(|net| refuse(when().to(*net))));
        all.push(refuse(when().not_to(GLOBAL_V6)));
    }
    all.extend([
        when().state(state::INVALID).then(Then::Drop),
        when().state(state::NEW).more_flows(rules.flows).count(TOO_MANY).then(Then::Drop),
        when().then(Then::Accept),
    ]);
    all
}

/// The namespace itself asks outside, too.
fn output(plan: &Plan) -> Vec<Rule> {
    nowhere(plan).map(|net| when().leaving(UPLINK).to(net).then(Then::Drop)).collect()
}

/// Where nothing goes by the uplink: addresses of the plan lead to other machines by the overlay, or nowhere.
fn nowhere(plan: &Plan) -> impl Iterator<Item = Net> {
    let plan = [plan.v4().into(), plan.v6().into()];
    plan.into_iter().chain(NEVER.iter().map(|net| Net::from(*net)))
}
