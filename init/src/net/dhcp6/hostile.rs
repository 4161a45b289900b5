//! The client against servers of all sorts, without sockets and without waiting.

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::v6::{MessageType, Status};
use proptest::prelude::*;

use super::client::{Act, Client, EVER, Lease, Mode};
use super::packet::{self, Identity};
use super::server::{Server, kind};
use super::shape;

const S: fn(u64) -> Duration = Duration::from_secs;
const INTERFACE: u32 = 7;

/// The client, and what has become of it.
struct Run {
    client: Client,
    now: Duration,
    random: u64,
    /// Messages that were not answered yet.
    sent: Vec<Vec<u8>>,
    news: Vec<Act>,
}

impl Run {
    fn new(mode: Mode) -> Self {
        let who = Identity {
            duid: vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9],
            interface: INTERFACE,
            hostname: "edge-7".to_owned(),
        };
        let client = Client::new(who, mode, Duration::ZERO, 0x0102_0304_0506_0708);
        Self { client, now: Duration::ZERO, random: 1, sent: Vec::new(), news: Vec::new() }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random
    }

    fn take(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(bytes) => self.sent.push(bytes),
                news => self.news.push(news),
            }
        }
    }

    /// To when the client wants to be called next.
    fn on(&mut self) {
        self.now = self.now.max(self.client.next().unwrap());
        let random = self.random();
        let acts = self.client.due(self.now, random);
        self.take(acts);
    }

    fn hear(&mut self, message: &[u8]) {
        let random = self.random();
        let acts = self.client.heard(self.now, message, random);
        self.take(acts);
    }

    /// The last message as the server answers it; the others are lost.
    fn answered_by(&mut self, server: &Server) {
        let asked = std::mem::take(&mut self.sent).pop().unwrap();
        if let Some(answer) = server.answer(&asked) {
            self.hear(&answer);
        }
    }

    fn sent(&self) -> MessageType {
        kind(self.sent.last().unwrap())
    }

    fn lease(&mut self) -> Lease {
        match self.news.pop() {
            Some(Act::Granted(lease)) => lease,
            other => panic!("{other:?}"),
        }
    }

    /// Up to a lease, by four messages.
    fn leased(server: &Server) -> Self {
        let mut run = Self::new(Mode::Address);
        run.on();
        run.answered_by(server);
        run.on();
        run.answered_by(server);
        run
    }
}

#[test]
fn an_address_is_offered_granted_and_renewed() {
    let server = Server::new(5);
    let mut run = Run::new(Mode::Address);
    assert!(run.client.next().unwrap() <= S(1) && run.sent.is_empty());
    run.on();
    assert_eq!(run.sent(), MessageType::Solicit);
    run.answered_by(&server);
    assert!(run.sent.is_empty(), "others may offer more");
    run.on();
    assert_eq!(run.sent(), MessageType::Request);
    run.answered_by(&server);
    let lease = run.lease();
    let grant = lease.grant.unwrap();
    assert_eq!((grant.address, grant.preferred_s, grant.valid_s), server.addresses[0]);
    assert_eq!((&lease.dns, run.failures()), (&server.dns, 0));
    let granted = run.now;
    assert_eq!(run.client.next(), Some(granted + S(900)));
    run.on();
    assert_eq!(run.sent(), MessageType::Renew);
    run.answered_by(&server);
    assert_eq!(run.lease(), lease);
    assert_eq!(run.client.next(), Some(granted + S(1800)), "T1 is counted from the renewal");
}

impl Run {
    fn failures(&self) -> usize {
        self.news.iter().filter(|act| matches!(act, Act::Say(_))).count()
    }
}

#[test]
fn nobody_renews_so_all_are_asked_and_then_the_address_is_given_up() {
    let mut run = Run::leased(&Server::new(5));
    run.news.clear();
    let granted = run.now;
    run.on();
    let mut kinds = Vec::new();
    while run.news.last() != Some(&Act::Lost) && !run.news.contains(&Act::Lost) {
        kinds.push((run.sent(), run.now - granted));
        run.on();
    }
    assert_eq!(run.now, granted + S(3600));
    let first = |kind| kinds.iter().find(|(sent, _)| *sent == kind).unwrap().1;
    assert_eq!((first(MessageType::Renew), first(MessageType::Rebind)), (S(900), S(1440)));
    assert!(kinds.len() < 30, "{}", kinds.len());
    // Another server may take it over.
    let other = Server { duid: vec![0, 4, 9, 9], ..Server::new(5) };
    let mut run = Run::leased(&Server::new(5));
    while run.sent.last().is_none_or(|sent| kind(sent) != MessageType::Rebind) {
        run.on();
    }
    run.news.clear();
    run.answered_by(&other);
    assert!(run.lease().grant.is_some());
}

#[test]
fn two_messages_do_if_the_server_likes() {
    let mut run = Run::new(Mode::Address);
    run.on();
    run.answered_by(&Server { rapid: true, ..Server::new(5) });
    assert!(run.lease().grant.is_some() && run.sent.is_empty());
}

#[test]
fn the_best_offer_of_the_first_second_is_taken_and_the_very_best_at_once() {
    let servers = [(1, 0), (2, 9), (3, 9)].map(|(number, preference)| Server {
        duid: vec![0, 4, number],
        preference,
        ..Server::new(number.into())
    });
    let mut run = Run::new(Mode::Address);
    run.on();
    let asked = run.sent.pop().unwrap();
    servers.iter().for_each(|server| run.hear(&server.answer(&asked).unwrap()));
    assert!(run.sent.is_empty());
    run.on();
    run.answered_by(&servers[1]);
    assert_eq!(run.lease().grant.unwrap().address, servers[1].addresses[0].0);

    let mut run = Run::new(Mode::Address);
    run.on();
    run.answered_by(&Server { preference: 255, ..Server::new(5) });
    assert_eq!(run.sent(), MessageType::Request);
    // Later whoever comes first.
    let mut run = Run::new(Mode::Address);
    run.on();
    run.on();
    run.answered_by(&Server::new(5));
    assert_eq!(run.sent(), MessageType::Request);
}

#[test]
fn name_servers_alone_are_asked_for_again_when_the_server_says() {
    let refresh =
        |seconds: u32| Server { more: vec![(32, seconds.to_be_bytes().to_vec())], ..Server::new(5) };
    for (server, next) in [(Server::new(5), Some(86_400)), (refresh(5), Some(600)), (refresh(EVER), None)] {
        let mut run = Run::new(Mode::Information);
        run.on();
        assert_eq!(run.sent(), MessageType::InformationRequest);
        run.answered_by(&server);
        assert_eq!(run.lease(), Lease { grant: None, dns: server.dns.clone(), domain: None });
        assert_eq!(run.client.next(), next.map(|seconds| run.now + S(seconds)));
    }
}

#[test]
fn silence_is_told_once_and_the_pauses_grow_as_the_server_wants() {
    let mut run = Run::new(Mode::Address);
    let mut times = Vec::new();
    for _ in 0..20 {
        run.on();
        times.push(run.now);
    }
    assert_eq!(run.failures(), 1);
    let last = times[19] - times[18];
    assert!(last > S(3200) && last < S(4000), "{last:?}");
    // Nobody has an address, but the server says how often it wants to be asked.
    let none = Server {
        status: (Status::Success, Status::NoAddrsAvail),
        more: vec![(82, 60_u32.to_be_bytes().to_vec())],
        ..Server::new(5)
    };
    run.answered_by(&none);
    run.on();
    run.on();
    let pause = run.client.next().unwrap() - run.now;
    assert!(pause > S(50) && pause < S(70), "{pause:?}");
}

#[test]
fn answers_that_are_not_ours_are_no_answers() {
    let not_ours = [
        Server { transaction: Some([0; 3]), ..Server::new(6) },
        Server { client: Some(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 8]), ..Server::new(6) },
        Server { client: Some(Vec::new()), ..Server::new(6) },
        Server { duid: vec![0], ..Server::new(6) },
        Server { more: vec![(1, vec![0, 4, 1])], ..Server::new(6) },
        Server { more: vec![(2, vec![0, 4, 1])], ..Server::new(6) },
        Server { more: vec![(13, vec![0])], ..Server::new(6) },
        Server { t1: 9, t2: 8, ..Server::new(6) },
        Server { addresses: vec![(Ipv6Addr::LOCALHOST, 9, 9)], ..Server::new(6) },
        Server { addresses: vec![("fe80::6".parse().unwrap(), 9, 9)], ..Server::new(6) },
        Server { addresses: vec![("ff02::6".parse().unwrap(), 9, 9)], ..Server::new(6) },
        Server { addresses: vec![("2001:db8::6".parse().unwrap(), 9, 8)], ..Server::new(6) },
        Server { addresses: vec![("2001:db8::6".parse().unwrap(), 0, 0)], ..Server::new(6) },
        Server { status: (Status::UnspecFail, Status::Success), ..Server::new(6) },
        Server { status: (Status::Success, Status::NoAddrsAvail), ..Server::new(6) },
    ];
    for server in &not_ours {
        let mut run = Run::new(Mode::Address);
        run.on();
        let asked = run.sent[0].clone();
        run.answered_by(server);
        // An answer before anything was asked for is none, either.
        let mut unasked = Run::new(Mode::Address);
        unasked.hear(&Server::new(6).answer(&asked).unwrap());
        run.on();
        assert_eq!((run.sent(), unasked.sent.len()), (MessageType::Solicit, 0), "{server:?}");
        assert!(run.news.is_empty(), "{server:?}");
    }
    // A grant that nobody asked for, one of a server that was not asked, and an offer in place of a grant.
    let mut run = Run::new(Mode::Address);
    run.on();
    let solicit = run.sent[0].clone();
    let mut unasked = Server { rapid: true, ..Server::new(6) }.answer(&solicit).unwrap();
    // Without the word that makes it one.
    let rapid = unasked.windows(4).position(|bytes| bytes == [0, 14, 0, 0]).unwrap();
    unasked.drain(rapid..rapid + 4);
    run.hear(&unasked);
    assert!(run.news.is_empty());
    run.answered_by(&Server::new(5));
    run.on();
    let request = run.sent[0].clone();
    let mut stranger = Server::new(5).answer(&request).unwrap();
    let at = stranger.windows(10).position(|bytes| bytes == Server::new(5).duid).unwrap();
    stranger[at + 9] = 7;
    run.hear(&stranger);
    let mut offer = Server::new(5).answer(&request).unwrap();
    offer[0] = 2;
    run.hear(&offer);
    assert!(run.news.is_empty());
    run.answered_by(&Server::new(5));
    assert!(run.lease().grant.is_some());
}

#[test]
fn no_time_and_all_time() {
    let lasting = |preferred, valid, t1, t2| {
        let address = Server::new(5).addresses[0].0;
        let mut run =
            Run::leased(&Server { addresses: vec![(address, preferred, valid)], t1, t2, ..Server::new(5) });
        assert!(run.lease().grant.is_some());
        run.client.next().map(|next| (next - run.now).as_secs())
    };
    assert_eq!(lasting(EVER, EVER, 0, 0), None);
    assert_eq!(lasting(EVER, EVER, EVER, EVER), None);
    assert_eq!(lasting(EVER, EVER, 60, 90), Some(60));
    assert_eq!(lasting(100, 200, 0, 0), Some(50));
    assert_eq!(lasting(0, 200, 0, 0), Some(100));
    assert_eq!(lasting(100, 200, EVER, EVER), Some(200));
    assert_eq!(lasting(100, 200, 1, 1), Some(2), "no server is asked all the time");
    assert_eq!(lasting(1, 1, 1, 1), Some(1));
    assert_eq!(lasting(100, 200, 500, 600), Some(200), "never beyond its end");
}

#[test]
fn a_server_that_forgot_us_or_wants_its_address_back() {
    let mut run = Run::leased(&Server::new(5));
    run.news.clear();
    run.on();
    run.answered_by(&Server { status: (Status::Success, Status::NoBinding), ..Server::new(5) });
    assert_eq!((run.sent(), run.news.len()), (MessageType::Request, 0));
    run.answered_by(&Server::new(5));
    assert!(run.lease().grant.is_some());

    run.on();
    let address = Server::new(5).addresses[0].0;
    let addresses = vec![(address, 0, 0), ("2001:db8::9".parse().unwrap(), 60, 60)];
    let moved = Server { addresses, t1: 0, t2: 0, ..Server::new(5) };
    run.answered_by(&moved);
    assert_eq!(run.lease().grant.unwrap().address.segments()[7], 9);
    run.on();
    run.answered_by(&Server { addresses: vec![("2001:db8::9".parse().unwrap(), 0, 0)], ..Server::new(5) });
    assert_eq!(run.news[0], Act::Lost);
    run.on();
    assert_eq!(run.sent(), MessageType::Solicit);
}

#[test]
fn offers_that_come_to_nothing_are_asked_for_ever_more_seldom() {
    let refuses = Server { status: (Status::Success, Status::NoAddrsAvail), ..Server::new(5) };
    let mut run = Run::new(Mode::Address);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        run.on();
        run.answered_by(&Server { preference: 255, ..Server::new(5) });
        run.answered_by(&refuses);
        pauses.push((run.client.next().unwrap() - run.now).as_secs());
    }
    assert!(pauses[0] >= 1 && pauses[0] <= 2 && pauses[8] >= 120 && pauses[8] <= 121, "{pauses:?}");
    // Offered, then silent.
    let mut run = Run::new(Mode::Address);
    run.on();
    run.answered_by(&Server { preference: 255, ..Server::new(5) });
    let mut asked = 1;
    while run.failures() == 0 {
        run.on();
        asked += usize::from(run.sent() == MessageType::Request && run.failures() == 0);
    }
    assert_eq!(asked, 10);
}

#[test]
fn an_address_that_another_machine_has_is_declined() {
    let address = Server::new(5).addresses[0].0;
    for answered in [true, false] {
        let mut run = Run::leased(&Server::new(5));
        run.news.clear();
        let acts = run.client.duplicate("2001:db8::99".parse().unwrap(), run.now, 1);
        assert_eq!(acts, []);
        let acts = run.client.duplicate(address, run.now, 1);
        run.take(acts);
        assert_eq!((run.sent(), &run.news[0]), (MessageType::Decline, &Act::Lost));
        if answered {
            run.answered_by(&Server::new(5));
        } else {
            (0..4).for_each(|_| run.on());
            assert_eq!(run.sent.len(), 4);
            run.sent.clear();
        }
        run.on();
        assert_eq!((run.sent(), run.sent.len()), (MessageType::Solicit, 1));
        assert_eq!(run.client.duplicate(address, run.now, 1), []);
    }
}

#[test]
fn what_is_asked_has_what_servers_need() {
    use dhcproto::Decodable;
    use dhcproto::v6::{DhcpOption, Message};
    let mut run = Run::new(Mode::Address);
    run.on();
    run.on();
    let message = Message::from_bytes(run.sent.last().unwrap()).unwrap();
    let options: Vec<_> = message.opts().iter().collect();
    assert!(options.contains(&&DhcpOption::RapidCommit));
    assert!(options.iter().any(|option| matches!(option, DhcpOption::ElapsedTime(90..=111))), "{options:?}");
    assert!(options.iter().any(|option| matches!(option, DhcpOption::IANA(found) if found.id == INTERFACE)));
    assert!(options.iter().any(|option| matches!(option, DhcpOption::ORO(wishes) if wishes.opts.len() == 3)));
    let named = run.sent[0].windows(8).any(|bytes| bytes == b"\x01\x06edge-7");
    assert!(named);
    shape::check(&run.sent[0]).unwrap();
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![6 => Just(Status::Success), 1 => (0u16..8).prop_map(Status::from)]
}

fn seconds() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(EVER), 0u32..100, 1000u32..10_000, any::<u32>()]
}

prop_compose! {
    fn any_server()(
        duid in prop_oneof![Just(vec![0u8, 4, 1]), Just(vec![0u8, 4, 2])],
        addresses in proptest::collection::vec((prop_oneof![4 => (1u16..4).prop_map(|last| Server::new(last).addresses[0].0), 1 => any::<u128>().prop_map(Ipv6Addr::from)], seconds(), seconds()), 0..3),
        t1 in seconds(), t2 in seconds(), rapid: bool, preference: u8, status in (status(), status()),
        transaction in prop_oneof![9 => Just(None), 1 => any::<[u8; 3]>().prop_map(Some)],
        client in prop_oneof![9 => Just(None), 1 => proptest::collection::vec(any::<u8>(), 0..140).prop_map(Some)],
        more in proptest::collection::vec((prop_oneof![0u16..40, Just(56), Just(82), Just(83)], proptest::collection::vec(any::<u8>(), 0..30)), 0..2),
    ) -> Server {
        Server { duid, addresses, t1, t2, rapid, preference, dns: Vec::new(), status, client, transaction, more }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = packet::read(&bytes, INTERFACE);
        // The same as options of a reply, which gets further.
        let _ = packet::read(&[&[7, 1, 2, 3][..], &bytes].concat(), INTERFACE);
    }

    #[test]
    fn any_options_of_plausible_shape_are_read_or_refused(
        options in proptest::collection::vec((0u16..90, proptest::collection::vec(prop_oneof![Just(0u8), 0u8..30, any::<u8>()], 0..60)), 0..20),
        nested: bool,
    ) {
        let mut bytes = Vec::new();
        for (code, value) in options {
            bytes.extend(code.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(value);
        }
        if nested {
            let length = u16::try_from(12 + bytes.len()).unwrap().to_be_bytes();
            bytes = [&[0, 3, length[0], length[1], 0, 0, 0, 7][..], &[0; 8], &bytes].concat();
        }
        let _ = packet::read(&[&[7, 1, 2, 3][..], &bytes].concat(), INTERFACE);
    }

    #[test]
    fn a_damaged_grant_is_none_or_the_same(cut in 0usize..400, at in 0usize..400, flip in 1u8..) {
        let mut run = Run::new(Mode::Address);
        run.on();
        let whole = Server { rapid: true, ..Server::new(5) }.answer(&run.sent[0]).unwrap();
        let sound = packet::read(&whole, INTERFACE).unwrap();
        let cut = &whole[..cut.min(whole.len())];
        if let Ok(heard) = packet::read(cut, INTERFACE) {
            prop_assert!(heard.association.is_none() || heard.association == sound.association);
        }
        // One byte of it is another.
        let mut damaged = whole.clone();
        let at = at % damaged.len();
        damaged[at] ^= flip;
        run.hear(&damaged);
        for act in &run.news {
            if let Act::Granted(Lease { grant: Some(grant), .. }) = act {
                prop_assert!(grant.valid_s > 0 && grant.preferred_s <= grant.valid_s);
            }
        }
    }

    /// Whatever servers do: no address beyond its time, no hurry, no standstill.
    #[test]
    fn any_servers(script in proptest::collection::vec((any::<bool>(), any::<u16>(), any_server()), 1..60), information: bool) {
        let mut run = Run::new(if information { Mode::Information } else { Mode::Address });
        let mut end: Option<Option<Duration>> = None;
        let mut sent = 0_u64;
        for (answered, wait, server) in script {
            if let Some(next) = run.client.next() {
                // Sometimes late, never by more than a second's work.
                run.now = run.now.max(next) + Duration::from_millis(u64::from(wait) / 256);
                let random = run.random();
                let acts = run.client.due(run.now, random);
                run.take(acts);
            } else {
                run.now += S(wait.into());
            }
            sent += u64::try_from(run.sent.len()).unwrap();
            if answered && !run.sent.is_empty() {
                run.answered_by(&server);
                sent += u64::try_from(run.sent.len()).unwrap();
            }
            run.sent.drain(..run.sent.len().saturating_sub(1));
            if wait % 8 == 0 {
                let random = run.random();
                let acts = run.client.duplicate(Server::new(wait % 4).addresses[0].0, run.now, random);
                run.take(acts);
            }
            for act in std::mem::take(&mut run.news) {
                match act {
                    Act::Granted(Lease { grant: Some(grant), .. }) => {
                        prop_assert!(super::client::is_host(grant.address));
                        prop_assert!(grant.valid_s > 0 && grant.preferred_s <= grant.valid_s);
                        prop_assert!(!information);
                        end = Some((grant.valid_s != EVER).then(|| run.now + S(grant.valid_s.into())));
                    }
                    Act::Granted(_) => prop_assert!(information),
                    Act::Lost => prop_assert!(end.take().is_some()),
                    Act::Say(said) => prop_assert!(said.len() < 100),
                    Act::Send(_) => unreachable!(),
                }
            }
            if let Some(Some(end)) = end {
                prop_assert!(run.now < end);
                prop_assert!(run.client.next().unwrap() <= end);
            }
            prop_assert!(run.client.next().is_none_or(|next| next > run.now));
            prop_assert!(sent <= 6 + 3 * run.now.as_secs(), "{sent} in {:?}", run.now);
        }
    }
}
