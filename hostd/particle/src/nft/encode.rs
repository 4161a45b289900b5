//! Tables as messages of nf_tables.

use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook as HookAttribute,
    HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator,
    Payload, Register, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementList,
    SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use rtnetlink::packet_core::DefaultNla;

use super::table::{Chain, Hook, Key, Place, Rule, Set, Table, Test, Then};

/// A message, what it is for, and whether it may make something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) message: NfTablesMessage,
    pub(super) what: String,
    pub(super) creates: bool,
}

/// Keys told to the kernel at a time: an attribute holds 64 KiB.
const KEYS_AT_ONCE: usize = 1000;

// `enum nft_payload_bases`.
const FROM_NETWORK: u32 = 1;
const FROM_TRANSPORT: u32 = 2;

// `enum nft_registers`: of four bytes each.
const FIRST_REGISTER: u32 = 8;
const REGISTER: usize = 4;

// Verdicts of linux/netfilter.h.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;

/// `NFT_CT_STATE`.
const STATE: u32 = 0;

// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`.
const KIND_OF_ADDRESS: u32 = 3;
const BY_DESTINATION: u32 = 1 << 1;

// `NFT_REJECT_ICMPX_UNREACH`, `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
const REJECT_ANY_FAMILY: u32 = 2;
const PROHIBITED: u8 = 3;

/// `NFT_CONNLIMIT_F_INV`: more than that, not as many.
const ABOVE: u32 = 1;

// Attributes of linux/netfilter/nf_tables.h that have no names elsewhere.
mod attribute {
    pub(super) const OBJECT_TABLE: u16 = 1;
    pub(super) const OBJECT_NAME: u16 = 2;
    pub(super) const OBJECT_TYPE: u16 = 3;
    pub(super) const OBJECT_DATA: u16 = 4;
    pub(super) const CT_TO: u16 = 1;
    pub(super) const CT_KEY: u16 = 2;
    pub(super) const REJECT_TYPE: u16 = 1;
    pub(super) const REJECT_CODE: u16 = 2;
    pub(super) const REFERENCE_TYPE: u16 = 1;
    pub(super) const REFERENCE_NAME: u16 = 2;
    pub(super) const LIMIT_COUNT: u16 = 1;
    pub(super) const LIMIT_FLAGS: u16 = 2;
    pub(super) const FIB_TO: u16 = 1;
    pub(super) const FIB_RESULT: u16 = 2;
    pub(super) const FIB_FLAGS: u16 = 3;
    pub(super) const NESTED: u16 = 1 << 15;
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, value.bytes().chain([0]).collect())
}

/// What takes the place of a table of this name, whether there is one or not.
pub(super) fn replace(table: &Table) -> Vec<Step> {
    let mut steps = remove(table.name);
    steps.extend(create(table));
    steps
}

/// What makes a table; the first step makes the table itself.
pub(super) fn create(table: &Table) -> Vec<Step> {
    let mut steps = vec![make_table(table.name)];
    steps.extend(table.counters.iter().map(|counter| Step {
        message: NfTablesMessage::NewObject(object(table.name, counter)),
        what: format!("add counter {counter}"),
        creates: true,
    }));
    for set in &table.sets {
        steps.push(make_set(table.name, set));
        steps.extend(set.keys.chunks(KEYS_AT_ONCE).map(|keys| add_keys(table.name, set.name, keys)));
    }
    steps.extend(table.chains.iter().map(|chain| make_chain(table.name, chain)));
    for chain in &table.chains {
        steps.extend(chain.rules.iter().zip(1..).map(|(rule, n)| make_rule(table.name, chain.name, rule, n)));
    }
    steps
}

/// What takes a table away, whether there is one or not: only one that is there can be deleted.
pub(super) fn remove(table: &str) -> Vec<Step> {
    let delete = TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] };
    let delete = Step {
        message: NfTablesMessage::DeleteTable(delete),
        what: "delete the old one".to_owned(),
        creates: false,
    };
    vec![make_table(table), delete]
}

/// What takes the place of all keys of some sets.
pub(super) fn refill(table: &str, sets: &[Set]) -> Vec<Step> {
    let mut steps = Vec::new();
    for set in sets {
        let attributes =
            vec![SetElementList::Table(table.to_owned()), SetElementList::Set(set.name.to_owned())];
        steps.push(Step {
            message: NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }),
            what: format!("empty set {}", set.name),
            creates: false,
        });
        steps.extend(set.keys.chunks(KEYS_AT_ONCE).map(|keys| add_keys(table, set.name, keys)));
    }
    steps
}

/// What names a counter.
pub(super) fn object(table: &str, counter: &str) -> Vec<DefaultNla> {
    vec![
        text(attribute::OBJECT_TABLE, table),
        text(attribute::OBJECT_NAME, counter),
        number(attribute::OBJECT_TYPE, COUNTER),
        DefaultNla::new(attribute::OBJECT_DATA | attribute::NESTED, Vec::new()),
    ]
}

fn make_table(name: &str) -> Step {
    let table = TableMessage { attributes: vec![TableAttribute::Name(name.to_owned())] };
    Step { message: NfTablesMessage::NewTable(table), what: "add the table".to_owned(), creates: true }
}

fn make_set(table: &str, set: &Set) -> Step {
    let attributes = vec![
        SetAttribute::Table(table.to_owned()),
        SetAttribute::Name(set.name.to_owned()),
        SetAttribute::Flags(SetFlags::empty()),
        // For people only.
        SetAttribute::KeyType(0),
        SetAttribute::KeyLen(set.length.into()),
        // Refers to it within the batch, where nothing does so.
        SetAttribute::Id(1),
    ];
    Step {
        message: NfTablesMessage::NewSet(SetMessage { attributes }),
        what: format!("add set {}", set.name),
        creates: true,
    }
}

fn add_keys(table: &str, set: &str, keys: &[Vec<u8>]) -> Step {
    let element = |key: &Vec<u8>| {
        ListAttribute::Element(vec![SetElementAttribute::Key(DataAttribute::Value(key.clone()))])
    };
    let attributes = vec![
        SetElementList::Table(table.to_owned()),
        SetElementList::Set(set.to_owned()),
        SetElementList::Elements(keys.iter().map(element).collect()),
    ];
    Step {
        message: NfTablesMessage::NewSetElement(SetElementMessage { attributes }),
        what: format!("fill set {set}"),
        creates: true,
    }
}

fn make_chain(table: &str, chain: &Chain) -> Step {
    let mut attributes =
        vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
    if let Some(hook) = &chain.hook {
        attributes.extend(hook_attributes(hook));
    }
    Step {
        message: NfTablesMessage::NewChain(ChainMessage { attributes }),
        what: format!("add chain {}", chain.name),
        creates: true,
    }
}

fn hook_attributes(hook: &Hook) -> [ChainAttribute; 3] {
    let place = match hook.place {
        Place::Prerouting => InetHookNumber::PreRouting,
        Place::Input => InetHookNumber::LocalIn,
        Place::Forward => InetHookNumber::Forward,
        Place::Output => InetHookNumber::LocalOut,
        Place::Postrouting => InetHookNumber::PostRouting,
    };
    [
        ChainAttribute::Hook(vec![
            HookAttribute::Number(HookNumber::Inet(place)),
            HookAttribute::Priority(hook.priority.cast_unsigned()),
        ]),
        ChainAttribute::Policy(if hook.drops { DROP } else { ACCEPT }),
        ChainAttribute::Type(if hook.nat { "nat" } else { "filter" }.to_owned()),
    ]
}

fn make_rule(table: &str, chain: &str, rule: &Rule, number: usize) -> Step {
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions(rule).into_iter().map(ListAttribute::from).collect()),
    ];
    Step {
        message: NfTablesMessage::NewRule(RuleMessage { attributes }),
        what: format!("add rule {number} of chain {chain}"),
        creates: true,
    }
}

fn expressions(rule: &Rule) -> Vec<Expressions> {
    let mut all: Vec<_> = rule.tests.iter().flat_map(test).collect();
    all.extend(rule.count.map(|counter| {
        let reference =
            vec![number(attribute::REFERENCE_TYPE, COUNTER), text(attribute::REFERENCE_NAME, counter)];
        other("objref", reference)
    }));
    all.extend(then(rule.then));
    all
}

fn other(kind: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: kind.to_owned(), attributes }
}

fn test(test: &Test) -> Vec<Expressions> {
    match test {
        Test::Is { key, mask, value, not } => {
            let mut all = load(*key, mask.as_deref(), Register::Reg1);
            all.push(Expressions::Cmp(vec![
                Cmp::SourceRegister(Register::Reg1),
                Cmp::Op(if *not { Operator::NotEqual } else { Operator::Equal }),
                Cmp::Data(DataAttribute::Value(value.clone())),
            ]));
            all
        }
        Test::Known { keys, set } => {
            let mut register = FIRST_REGISTER;
            let mut all = Vec::new();
            for (key, mask) in keys {
                all.extend(load(*key, mask.as_deref(), Register::Other(register)));
                register += u32::try_from(key.length().div_ceil(REGISTER)).unwrap_or_default();
            }
            all.push(Expressions::Lookup(vec![
                Lookup::Set((*set).to_owned()),
                Lookup::SourceRegister(Register::Other(FIRST_REGISTER)),
            ]));
            all
        }
        Test::MoreFlows(limit) => {
            let limits = vec![number(attribute::LIMIT_COUNT, *limit), number(attribute::LIMIT_FLAGS, ABOVE)];
            vec![other("connlimit", limits)]
        }
    }
}

impl Key {
    /// Bytes it takes of the registers.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Arriving | Self::Leaving => libc::IFNAMSIZ,
            Self::Group | Self::State | Self::Destination => size_of::<u32>(),
            Self::Family | Self::Protocol => size_of::<u8>(),
            Self::Network { length, .. } | Self::Transport { length, .. } => length.into(),
        }
    }
}

fn load(key: Key, mask: Option<&[u8]>, to: Register) -> Vec<Expressions> {
    let meta = |key| Expressions::Meta(vec![Meta::DestinationRegister(to), Meta::Key(key)]);
    let payload = |base, at: u8, length: u8| {
        Expressions::Payload(vec![
            Payload::DestinationRegister(to),
            Payload::Base(base),
            Payload::Offset(at.into()),
            Payload::Len(length.into()),
        ])
    };
    let mut all = vec![match key {
        Key::Arriving => meta(MetaKey::Iifname),
        Key::Leaving => meta(MetaKey::Oifname),
        Key::Group => meta(MetaKey::Iifgroup),
        Key::Family => meta(MetaKey::Nfproto),
        Key::Protocol => meta(MetaKey::L4Proto),
        Key::State => {
            other("ct", vec![number(attribute::CT_TO, to.into()), number(attribute::CT_KEY, STATE)])
        }
        Key::Destination => other(
            "fib",
            vec![
                number(attribute::FIB_TO, to.into()),
                number(attribute::FIB_RESULT, KIND_OF_ADDRESS),
                number(attribute::FIB_FLAGS, BY_DESTINATION),
            ],
        ),
        Key::Network { at, length } => payload(FROM_NETWORK, at, length),
        Key::Transport { at, length } => payload(FROM_TRANSPORT, at, length),
    }];
    if let Some(mask) = mask {
        all.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(to),
            Bitwise::DestinationRegister(to),
            Bitwise::Length(u32::try_from(mask.len()).unwrap_or_default()),
            Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
            Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
        ]));
    }
    all
}

fn then(then: Then) -> Vec<Expressions> {
    let verdict = |attributes| {
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(attributes)),
        ])
    };
    let code = |code| verdict(vec![VerdictAttribute::Code(Verdict::Other(code))]);
    match then {
        Then::Accept => vec![code(ACCEPT)],
        Then::Drop => vec![code(DROP)],
        Then::Goto(chain) => vec![verdict(vec![
            VerdictAttribute::Code(Verdict::Goto),
            VerdictAttribute::Chain(chain.to_owned()),
        ])],
        Then::Reject => {
            let code = DefaultNla::new(attribute::REJECT_CODE, vec![PROHIBITED]);
            vec![other("reject", vec![number(attribute::REJECT_TYPE, REJECT_ANY_FAMILY), code])]
        }
        Then::Untracked => vec![other("notrack", Vec::new()), code(ACCEPT)],
        Then::Masquerade => vec![other("masq", Vec::new())],
    }
}
