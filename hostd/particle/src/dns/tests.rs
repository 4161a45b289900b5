//! Answers, read by another library than the one that writes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use proptest::prelude::*;

use super::*;
use crate::plan::{Addresses, Node, Plan, Subnet, Tenant};

const ID: u16 = 0xbeef;

fn plan() -> Plan {
    Plan::new("10.64.0.0/10".parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), 22).unwrap()
}

fn subnet(node: u16) -> Subnet {
    plan().subnet(Node(node), Tenant::new(7).unwrap()).unwrap()
}

/// A zone of tenant `acme`, with `count` instances of `Hello_1`.
fn zone(count: u16) -> (Zone, Vec<Listed>) {
    let directory = Directory::new(2000);
    let listed = (0..count).map(|k| directory.insert("Hello_1", endpoint(k)).unwrap()).collect();
    (Zone::new("acme", plan(), subnet(0), directory).unwrap(), listed)
}

/// On two machines in turn.
fn endpoint(k: u16) -> Addresses {
    subnet(k % 2).endpoint(10 + k / 2).unwrap()
}

fn asker() -> IpAddr {
    subnet(0).endpoint(5).unwrap().v4.into()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn ask<'a>(query: &'a [u8], over: Transport) -> Asked<'a> {
    Asked { query, from: asker(), over, seed: 1, recursion: false }
}

fn verdict(query: &Message, zone: &Zone, over: Transport) -> Verdict {
    answer(&ask(&query.to_vec().unwrap(), over), zone, &Limits::default())
}

fn bytes(verdict: Verdict) -> Vec<u8> {
    match verdict {
        Verdict::Answer(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn read(bytes: &[u8]) -> Message {
    let message = Message::from_vec(bytes).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (ID, MessageType::Response));
    message
}

fn answered(query: &Message, zone: &Zone, over: Transport) -> Message {
    let message = read(&bytes(verdict(query, zone, over)));
    assert_eq!(message.queries, query.queries);
    message
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::A(rdata::A(v4)) => IpAddr::V4(*v4),
            RData::AAAA(rdata::AAAA(v6)) => IpAddr::V6(*v6),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn instances_are_found_whatever_the_case() {
    let (zone, _listed) = zone(3);
    for name in ["Hello_1.acme.mote.", "hELLO_1.AcMe.MOTE."] {
        for (kind, v6) in [(RecordType::A, false), (RecordType::AAAA, true)] {
            let message = answered(&query(name, kind), &zone, Transport::Udp);
            assert_eq!(message.metadata.response_code, ResponseCode::NoError);
            assert!(message.metadata.authoritative && message.metadata.recursion_desired);
            assert!(!message.metadata.recursion_available && !message.metadata.truncation);
            let mut found = addresses(&message);
            found.sort();
            let mut expected: Vec<IpAddr> =
                (0..3).map(endpoint).map(|all| if v6 { all.v6.into() } else { all.v4.into() }).collect();
            expected.sort();
            assert_eq!(found, expected);
            // As it was written by who asked, to the letter.
            assert!(message.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()));
            for record in &message.answers {
                assert!(record.name.eq_case(message.queries[0].name()));
                assert_eq!((record.ttl, record.dns_class), (1, DNSClass::IN));
            }
            assert!(message.edns.is_none() && message.authorities.is_empty());
        }
    }
}

#[test]
fn an_instance_that_goes_is_not_found() {
    let (zone, mut listed) = zone(2);
    let question = query("hello_1.acme.mote.", RecordType::A);
    drop(listed.remove(0));
    assert_eq!(addresses(&answered(&question, &zone, Transport::Udp)), [IpAddr::V4(endpoint(1).v4)]);
    listed.clear();
    let message = answered(&question, &zone, Transport::Udp);
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn what_is_not_there_says_so_and_for_how_long() {
    let (zone, _listed) = zone(1);
    let nothing = ResponseCode::NXDomain;
    let no_data = ResponseCode::NoError;
    for (name, kind, code, above) in [
        ("nobody.acme.mote.", RecordType::A, nothing, "mote."),
        ("hello_1.other.mote.", RecordType::A, nothing, "mote."),
        ("other.mote.", RecordType::A, nothing, "mote."),
        ("self.other.mote.", RecordType::A, nothing, "mote."),
        ("x.hello_1.acme.mote.", RecordType::A, nothing, "mote."),
        ("hello_1.acme.mote.", RecordType::MX, no_data, "mote."),
        ("acme.mote.", RecordType::A, no_data, "mote."),
        ("mote.", RecordType::NS, no_data, "mote."),
        ("self.", RecordType::TXT, no_data, "self."),
        ("9.0.64.10.in-addr.arpa.", RecordType::PTR, nothing, "10.in-addr.arpa."),
        ("10.0.64.10.in-addr.arpa.", RecordType::A, no_data, "10.in-addr.arpa."),
    ] {
        let message = answered(&query(name, kind), &zone, Transport::Udp);
        assert_eq!((message.metadata.response_code, message.metadata.authoritative), (code, true), "{name}");
        assert!(message.answers.is_empty());
        let [Record { name: owner, ttl: 1, data: RData::SOA(soa), .. }] = message.authorities.as_slice()
        else {
            panic!("{name}: {message:?}")
        };
        assert_eq!((owner.to_ascii().as_str(), soa.minimum), (above, 1));
    }
}

#[test]
fn other_tenants_look_like_nobody() {
    let (zone, _listed) = zone(1);
    let said = |name: &str| answered(&query(name, RecordType::A), &zone, Transport::Udp);
    let (other, nobody) = (said("hello_1.other.mote."), said("hello_1.nobody.mote."));
    assert_eq!(other.metadata, nobody.metadata);
    assert_eq!(other.authorities, nobody.authorities);
}

#[test]
fn everybody_finds_itself() {
    let (zone, _listed) = zone(1);
    let own = subnet(0).endpoint(5).unwrap();
    for name in ["self.", "SELF.mote.", "self.acme.mote."] {
        let found = |kind| addresses(&answered(&query(name, kind), &zone, Transport::Udp));
        assert_eq!(found(RecordType::A), [IpAddr::V4(own.v4)]);
        assert_eq!(found(RecordType::AAAA), [IpAddr::V6(own.v6)]);
    }
    // Somebody of whom one address is known.
    let question = query("self.", RecordType::A).to_vec().unwrap();
    let asked = Asked { from: "fd00::9".parse().unwrap(), ..ask(&question, Transport::Udp) };
    let message = read(&bytes(answer(&asked, &zone, &Limits::default())));
    assert!(message.answers.is_empty() && message.authorities.len() == 1);
}

#[test]
fn addresses_have_names() {
    let (zone, _listed) = zone(2);
    for k in 0..2 {
        for address in [IpAddr::V4(endpoint(k).v4), IpAddr::V6(endpoint(k).v6)] {
            let question = query(&Name::from(address).to_ascii(), RecordType::PTR);
            let message = answered(&question, &zone, Transport::Udp);
            let [Record { data: RData::PTR(rdata::PTR(name)), .. }] = message.answers.as_slice() else {
                panic!("{message:?}")
            };
            assert!(name.eq_case(&Name::from_ascii("Hello_1.acme.mote.").unwrap()), "{name}");
        }
    }
    // Another tenant's address.
    let far = plan().subnet(Node(0), Tenant::new(8).unwrap()).unwrap().endpoint(10).unwrap();
    let message =
        answered(&query(&Name::from(IpAddr::V6(far.v6)).to_ascii(), RecordType::PTR), &zone, Transport::Udp);
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn everything_and_the_start_are_small() {
    let (zone, _listed) = zone(300);
    let message = answered(&query("hello_1.acme.mote.", RecordType::ANY), &zone, Transport::Tcp);
    let [Record { data: RData::HINFO(info), ttl: 1, .. }] = message.answers.as_slice() else {
        panic!("{message:?}")
    };
    assert_eq!(&*info.cpu, b"RFC8482");
    let message = answered(&query("mote.", RecordType::SOA), &zone, Transport::Udp);
    assert!(matches!(message.answers.as_slice(), [Record { data: RData::SOA(_), .. }]));
    let message = answered(&query("nobody.acme.mote.", RecordType::ANY), &zone, Transport::Udp);
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn answers_fit_and_say_when_something_is_missing() {
    let (zone, _listed) = zone(300);
    // Kind, size that is told, most bytes, whether all 64 fit.
    for (kind, told, most, all) in [
        (RecordType::A, None, 512, false),
        (RecordType::A, Some(0), 512, false),
        (RecordType::A, Some(700), 700, false),
        (RecordType::A, Some(1232), 1232, true),
        (RecordType::A, Some(u16::MAX), 1232, true),
        (RecordType::AAAA, Some(u16::MAX), 1232, false),
    ] {
        let question = query("hello_1.acme.mote.", kind);
        let question = if let Some(size) = told { edns(question, size) } else { question };
        let bytes = bytes(verdict(&question, &zone, Transport::Udp));
        assert!(bytes.len() <= most, "{} bytes", bytes.len());
        let message = read(&bytes);
        assert_eq!(message.metadata.truncation, !all, "{told:?}");
        assert_eq!(message.answers.len() == 64, all);
        // As many as there is room for.
        let each = if kind == RecordType::A { 16 } else { 28 };
        assert!(all || bytes.len() + each > most, "{} bytes", bytes.len());
        let own = message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok));
        assert_eq!(own, told.map(|_| (1232, true)));
        let by_tcp = answered(&question, &zone, Transport::Tcp);
        assert_eq!((by_tcp.metadata.truncation, by_tcp.answers.len()), (false, 64));
    }
}

/// Around every length of a message there is a name for which it would be one byte too long.
#[test]
fn the_last_byte_may_be_used() {
    let mut full = 0;
    for length in 1..=63 {
        let directory = Directory::new(64);
        let name = "n".repeat(length);
        let _listed: Vec<_> = (0..40).map(|k| directory.insert(&name, endpoint(k)).unwrap()).collect();
        let zone = Zone::new("acme", plan(), subnet(0), directory).unwrap();
        let question = query(&format!("{name}.acme.mote."), RecordType::A);
        for question in [question.clone(), edns(question, 512)] {
            let bytes = bytes(verdict(&question, &zone, Transport::Udp));
            assert!(bytes.len() <= 512);
            full += usize::from(bytes.len() == 512);
            assert!(read(&bytes).metadata.truncation);
        }
    }
    assert!(full > 4, "{full}");
}

#[test]
fn the_seed_turns_the_order() {
    let (zone, _listed) = zone(200);
    let question = query("hello_1.acme.mote.", RecordType::A).to_vec().unwrap();
    let first = |seed| {
        let asked = Asked { seed, ..ask(&question, Transport::Tcp) };
        addresses(&read(&bytes(answer(&asked, &zone, &Limits::default()))))[0]
    };
    assert!((0..50).map(first).collect::<std::collections::HashSet<_>>().len() > 30);
    assert_eq!(first(3), first(3));
}

#[test]
fn what_is_wrong_is_named() {
    let (zone, _listed) = zone(1);
    let good = query("hello_1.acme.mote.", RecordType::A);
    let plain = good.to_vec().unwrap();
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let patched = |at: usize, byte: u8| {
        let mut bytes = plain.clone();
        bytes[at] = byte;
        bytes
    };
    let record = Record::from_rdata(Name::root(), 0, RData::A(rdata::A(Ipv4Addr::LOCALHOST)));
    let second_opt = {
        let mut bytes = edns(good.clone(), 600).to_vec().unwrap();
        bytes.extend_from_within(bytes.len() - 11..);
        bytes[11] = 2;
        bytes
    };
    for (what, bytes, code) in [
        ("no question", patched(5, 0), ResponseCode::FormErr),
        ("two questions", patched(5, 2), ResponseCode::FormErr),
        ("cut", plain[..plain.len() - 3].to_vec(), ResponseCode::FormErr),
        ("header alone", plain[..12].to_vec(), ResponseCode::FormErr),
        ("an answer inside", with(&|it| it.answers.push(record.clone())), ResponseCode::FormErr),
        ("an authority inside", with(&|it| it.authorities.push(record.clone())), ResponseCode::FormErr),
        ("additional that is not there", patched(11, 1), ResponseCode::FormErr),
        ("two OPT", second_opt, ResponseCode::FormErr),
        ("notify", with(&|it| it.metadata.op_code = OpCode::Notify), ResponseCode::NotImp),
        ("update", with(&|it| it.metadata.op_code = OpCode::Update), ResponseCode::NotImp),
        ("too long", [plain.as_slice(), &[0; 5000]].concat(), ResponseCode::FormErr),
        ("another class", with(&|it| _ = it.queries[0].set_query_class(DNSClass::CH)), ResponseCode::Refused),
        ("a transfer", query("mote.", RecordType::AXFR).to_vec().unwrap(), ResponseCode::Refused),
        ("OPT asked for", query("mote.", RecordType::OPT).to_vec().unwrap(), ResponseCode::FormErr),
        ("somebody else's", query("example.com.", RecordType::A).to_vec().unwrap(), ResponseCode::Refused),
        ("a name of its header", [&plain[..12], &[0xc0, 2, 0, 1, 0, 1]].concat(), ResponseCode::FormErr),
    ] {
        let said = bytes_of(&bytes, &zone);
        let message = read(&said);
        assert_eq!(message.metadata.response_code, code, "{what}");
        assert!(!message.metadata.authoritative && message.answers.is_empty(), "{what}");
        assert!(said.len() <= bytes.len().max(12), "{what}");
    }
    let mut newer = edns(good.clone(), 600);
    newer.edns.as_mut().unwrap().set_version(1);
    let message = answered(&newer, &zone, Transport::Udp);
    // BADVERS; the number has another name in signatures.
    assert_eq!(u16::from(message.metadata.response_code), 16);
    assert_eq!(message.edns.unwrap().version(), 0);
}

fn bytes_of(query: &[u8], zone: &Zone) -> Vec<u8> {
    bytes(answer(&ask(query, Transport::Udp), zone, &Limits::default()))
}

#[test]
fn answers_are_not_answered() {
    let (zone, _listed) = zone(1);
    let mut message = query("hello_1.acme.mote.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    assert_eq!(verdict(&message, &zone, Transport::Udp), Verdict::Silence);
    for length in 0..12 {
        assert_eq!(
            answer(&ask(&[0; 12][..length], Transport::Udp), &zone, &Limits::default()),
            Verdict::Silence
        );
    }
}

/// The query as it goes upstream, and what waits for its answer.
fn outside(message: &Message, zone: &Zone, over: Transport) -> Outside {
    let bytes = message.to_vec().unwrap();
    match answer(&Asked { recursion: true, ..ask(&bytes, over) }, zone, &Limits::default()) {
        Verdict::Outside(outside) => outside,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_names_are_passed_on_if_they_may() {
    let (zone, _listed) = zone(1);
    let question = edns(query("Example.COM.", RecordType::A), 4000);
    let outside = outside(&question, &zone, Transport::Udp);
    let sent = Message::from_vec(&outside.query(77)).unwrap();
    assert_eq!((sent.metadata.id, sent.metadata.message_type), (77, MessageType::Query));
    assert!(sent.queries[0].name().eq_case(question.queries[0].name()) && sent.metadata.recursion_desired);
    assert_eq!(sent.edns.unwrap().max_payload(), 1232);
    let refused = read(&outside.refused());
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert!(refused.metadata.recursion_available);
    assert_eq!(read(&outside.failed()).metadata.response_code, ResponseCode::ServFail);
    // Nor ours, nor without the wish for it.
    let mut modest = question.clone();
    modest.metadata.recursion_desired = false;
    for (message, code) in
        [(modest, ResponseCode::Refused), (query("a.other.mote.", RecordType::A), ResponseCode::NXDomain)]
    {
        let bytes = message.to_vec().unwrap();
        let asked = Asked { recursion: true, ..ask(&bytes, Transport::Udp) };
        let said = self::bytes(answer(&asked, &zone, &Limits::default()));
        assert_eq!(read(&said).metadata.response_code, code);
    }
}

#[test]
fn only_the_answer_to_the_question_is_passed_back() {
    let (zone, _listed) = zone(1);
    let outside = outside(&query("example.com.", RecordType::A), &zone, Transport::Udp);
    let sent = outside.query(77);
    let response = |change: &dyn Fn(&mut Message)| {
        let mut message = Message::from_vec(&sent).unwrap().into_response();
        message.add_answer(Record::from_rdata(
            Name::from_ascii("example.com.").unwrap(),
            60,
            RData::A(rdata::A([192, 0, 2, 1].into())),
        ));
        change(&mut message);
        outside.accept(&sent, message.to_vec().unwrap())
    };
    let passed = read(&response(&|_| ()).unwrap());
    assert_eq!(addresses(&passed), [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(response(&|message| message.metadata.id = 78), None);
    assert_eq!(response(&|message| message.metadata.message_type = MessageType::Query), None);
    assert_eq!(response(&|message| message.metadata.op_code = OpCode::Status), None);
    assert_eq!(response(&|message| message.queries.clear()), None);
    assert_eq!(response(&|message| _ = message.queries[0].set_query_type(RecordType::AAAA)), None);
    let other = Name::from_ascii("example.net.").unwrap();
    assert_eq!(response(&|message| _ = message.queries[0].set_name(other.clone())), None);
    // Truncated as it came; and what does not fit is truncated here.
    assert!(read(&response(&|message| message.metadata.truncation = true).unwrap()).metadata.truncation);
    let large = response(&|message| {
        let record = message.answers[0].clone();
        message.add_answers(vec![record; 60]);
    });
    let large = large.unwrap();
    assert!(large.len() <= 512);
    let large = read(&large);
    assert!(large.metadata.truncation && large.answers.is_empty());
    assert_eq!(large.metadata.response_code, ResponseCode::NoError);
}

#[test]
fn servers_are_bounded() {
    let upstream = Upstream::new(Here, 2);
    assert!(!upstream.is_set());
    let servers: Vec<SocketAddr> = (1..9).map(|k| ([192, 0, 2, k], 53).into()).collect();
    upstream.set(&servers);
    assert_eq!(upstream.clone().servers(), servers[..3]);
    let places = [(); 3].map(|()| upstream.place());
    assert_eq!(places.iter().flatten().count(), 2);
    upstream.set(&[]);
    assert!(!upstream.is_set());
}

fn labels() -> impl Strategy<Value = Vec<u8>> {
    let known =
        prop::sample::select(vec!["hello_1", "acme", "mote", "self", "arpa", "in-addr", "ip6", "10", "64"]);
    let label = prop_oneof![
        3 => known.prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..=63),
    ];
    prop::collection::vec(label, 0..10).prop_map(|labels| {
        let mut name = Vec::new();
        for label in labels {
            name.push(u8::try_from(label.len()).unwrap());
            name.extend(label);
        }
        name.push(0);
        name
    })
}

fn likely() -> impl Strategy<Value = Vec<u8>> {
    let counts = prop_oneof![4 => Just([1u8, 0, 0, 0]), 4 => Just([1, 0, 0, 1]), 1 => any::<[u8; 4]>()];
    let kind = prop_oneof![prop::sample::select(vec![1u16, 6, 12, 15, 28, 41, 252, 255]), any::<u16>()];
    let opt = prop_oneof![
        any::<[u8; 6]>().prop_map(|rest| [&[0, 0, 41][..], &rest, &[0, 0]].concat()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let flags = prop_oneof![Just([1u8, 0]), any::<[u8; 2]>()];
    (flags, counts, labels(), kind, prop_oneof![3 => Just(1u16), 1 => any::<u16>()], opt).prop_map(
        |(flags, counts, name, kind, class, rest)| {
            let counts = counts.map(|count| [0, count]).concat();
            [&ID.to_be_bytes()[..], &flags, &counts, &name, &kind.to_be_bytes(), &class.to_be_bytes(), &rest]
                .concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_are_answered_briefly_or_not_at_all(
        query in prop_oneof![3 => likely(), 1 => prop::collection::vec(any::<u8>(), 0..200)],
        by_tcp: bool,
        recursion: bool,
        seed: u64,
    ) {
        let (zone, _listed) = zone(70);
        let over = if by_tcp { Transport::Tcp } else { Transport::Udp };
        let asked = Asked { query: &query, from: asker(), over, seed, recursion };
        match answer(&asked, &zone, &Limits::default()) {
            Verdict::Silence => prop_assert!(query.len() < 12 || query[2] & 0x80 != 0),
            Verdict::Answer(said) => {
                let most = if by_tcp { 64 * 28 + 400 } else { 1232 };
                prop_assert!(said.len() <= most);
                prop_assert_eq!(&said[..2], &query[..2]);
                prop_assert!(said[2] & 0x80 != 0);
                prop_assert!(Message::from_vec(&said).is_ok() || said[5] == 1, "{:?}", said);
                // And an answer is answered with nothing.
                let again = answer(&Asked { query: &said, ..asked }, &zone, &Limits::default());
                prop_assert_eq!(again, Verdict::Silence);
            }
            Verdict::Outside(outside) => {
                prop_assert!(recursion);
                prop_assert!(outside.query(1).len() <= query.len());
                prop_assert!(outside.failed().len() <= query.len());
            }
        }
    }

    #[test]
    fn any_bytes_from_upstream_are_no_panic(
        response in prop_oneof![likely(), prop::collection::vec(any::<u8>(), 0..200)],
    ) {
        let (zone, _listed) = zone(1);
        let outside = outside(&query("example.com.", RecordType::A), &zone, Transport::Udp);
        prop_assert_eq!(outside.accept(&outside.query(77), response), None);
    }
}
