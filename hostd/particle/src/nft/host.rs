//! The filter of the machine's namespace for what comes from tenants' namespaces.

use super::networks::{GLOBAL_V6, NEVER, PRIVATE};
use super::table::{Chain, Device, FILTER, Net, Place, Rule, Table, Then, state};
use super::when::{When, when};
use crate::plan::Plan;
use crate::uplink::{self, Links};

/// Counts what tenants sent to the machine itself.
pub const TO_HOST: &str = "to_host";

/// Counts what tenants sent where their policy does not let them, or nobody may.
pub const TRANSIT: &str = "refused";

const NAME: &str = "mote_uplink";

/// Before filters the machine may have.
const EARLY: i32 = FILTER - 10;

const TENANTS: Device = Device::Like(uplink::PREFIX);

/// What the filter is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRules {
    /// The cluster's addresses.
    pub plan: Plan,
    /// Addresses tenants' namespaces have outside.
    pub links: Links,
    /// Whether the machine passes packets on for others than tenants. If not, it does not begin to do so because it
    /// does for tenants.
    pub router: bool,
}

/// The filter of the machine's namespace. It decides on packets of devices `mt-…` alone, and, of a machine that is no
/// router, on those passed on between other devices.
pub fn host_table(rules: &HostRules) -> Table {
    let refuse = || when().count(TRANSIT).then(Then::Drop);
    let mut forward = vec![
        when().arriving(TENANTS).then(Then::Goto("from_tenant")),
        when().leaving(TENANTS).then(Then::Goto("to_tenant")),
    ];
    if !rules.router {
        forward.push(refuse());
    }
    let links = rules.links.networks();
    let masquerade = |net| when().from(net).not_leaving(TENANTS).then(Then::Masquerade);
    let chains = vec![
        Chain::at(
            "input",
            Place::Input,
            EARLY,
            vec![when().arriving(TENANTS).count(TO_HOST).then(Then::Drop)],
        ),
        Chain::at("forward", Place::Forward, EARLY, forward),
        Chain::plain("from_tenant", from_tenant(rules)),
        Chain::plain(
            "site",
            vec![when().state(state::INVALID).count(TRANSIT).then(Then::Drop), when().then(Then::Accept)],
        ),
        Chain::plain(
            "to_tenant",
            vec![when().state(state::ESTABLISHED | state::RELATED).then(Then::Accept), refuse()],
        ),
        Chain::source_nat("nat", links.map(masquerade).to_vec()),
    ];
    Table { name: NAME, counters: vec![TO_HOST, TRANSIT], sets: Vec::new(), chains }
}

/// Tenants' own filters have the same rules and more; here they hold whatever those are.
fn from_tenant(rules: &HostRules) -> Vec<Rule> {
    let refuse = |when: When| when.count(TRANSIT).then(Then::Drop);
    let mut all = vec![refuse(when().leaving(TENANTS))];
    all.extend(rules.links.networks().map(|net| refuse(when().not_from(net))));
    let plan: [Net; 2] = [rules.plan.v4().into(), rules.plan.v6().into()];
    all.extend(plan.map(|net| refuse(when().to(net))));
    all.extend(NEVER.iter().map(|net| refuse(when().to(*net))));
    all.push(when().group(uplink::GROUP_ALL).then(Then::Goto("site")));
    all.extend(PRIVATE.iter().map(|net| refuse(when().to(*net))));
    all.push(refuse(when().not_to(GLOBAL_V6)));
    all.push(when().then(Then::Goto("site")));
    all
}
