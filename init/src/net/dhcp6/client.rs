//! What is said to servers, when, and what becomes of their answers (RFC 8415). Pure: time, randomness and messages come
//! in, messages and news go out.
//!
//! There is one address: the first usable one of those granted. It is never kept longer than it was granted for, whatever
//! else is heard or not.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::packet::{self, Answer, Association, Grant, Heard, Identity, Kind, Question, Status};
use super::retry::{self, Retry, Rhythm, hold};
use crate::backoff::Backoff;

/// A time in seconds that never ends.
pub const EVER: u32 = u32::MAX;

/// A server that wants to be asked more often than this is asked this often.
const LEAST_RENEW: Duration = Duration::from_secs(2);

/// Pauses before servers are looked for again which could not grant what they had offered.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(120) };

/// When name servers are asked for again if the server does not say, and at the earliest, seconds.
const REFRESH: (u32, u32) = (86_400, 600);

/// So often nobody may answer until that is told.
const SILENCE: u32 = 4;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Name servers.
    Information,
    /// An address, and name servers with it.
    Address,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Send this to all servers of the link.
    Send(Vec<u8>),
    /// An address is granted, or for longer; or name servers are told.
    Granted(Lease),
    /// The address is no longer ours.
    Lost,
    /// What an operator should know, a sentence.
    Say(String),
}

/// What a server has granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// An address; none if name servers only were asked for.
    pub grant: Option<Grant>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domain to search.
    pub domain: Option<String>,
}

/// A question that is asked until it is answered.
#[derive(Debug)]
struct Exchange {
    kind: Kind,
    transaction: [u8; 3],
    /// When it was asked first.
    began: Option<Duration>,
    retry: Retry,
    due: Duration,
    server: Option<Vec<u8>>,
    address: Option<Ipv6Addr>,
    /// The best offer so far.
    best: Option<Offer>,
}

#[derive(Debug)]
struct Offer {
    preference: u8,
    server: Vec<u8>,
    address: Ipv6Addr,
}

#[derive(Debug)]
enum State {
    Asking(Exchange),
    /// Nothing to ask until then; none: never.
    Resting(Option<Duration>),
}

/// An address that is ours.
#[derive(Debug)]
struct Held {
    address: Ipv6Addr,
    server: Vec<u8>,
    /// When the server is asked for more time, when all are, and when the address is lost.
    renew: Option<Duration>,
    rebind: Option<Duration>,
    end: Option<Duration>,
}

/// One interface's side of the conversation.
#[derive(Debug)]
pub struct Client {
    who: Identity,
    mode: Mode,
    state: State,
    held: Option<Held>,
    solicit: Rhythm,
    inform: Rhythm,
    /// Offers in a row that came to nothing.
    failures: u32,
}

impl Client {
    /// Begins; the first message is held back for a moment.
    pub fn new(who: Identity, mode: Mode, now: Duration, random: u64) -> Self {
        let mut client = Self {
            who,
            mode,
            state: State::Resting(None),
            held: None,
            solicit: retry::SOLICIT,
            inform: retry::INFORM,
            failures: 0,
        };
        client.begin(now, random);
        client
    }

    /// When [`Self::due`] is to be called next; none: only an answer changes anything.
    pub fn next(&self) -> Option<Duration> {
        let held = self.held.as_ref();
        let end = held.and_then(|held| held.end);
        let next = match &self.state {
            State::Asking(exchange) if exchange.kind == Kind::Renew => {
                earliest(Some(exchange.due), held.and_then(|held| held.rebind))
            }
            State::Asking(exchange) => Some(exchange.due),
            State::Resting(until) => *until,
        };
        earliest(next, end)
    }

    /// Time has passed.
    pub fn due(&mut self, now: Duration, random: u64) -> Vec<Act> {
        let reached = |time: Option<Duration>| time.is_some_and(|time| time <= now);
        if self.held.as_ref().is_some_and(|held| reached(held.end)) {
            return self.lose("The DHCPv6 lease ran out", now, random);
        }
        let rebind = self.held.as_ref().is_some_and(|held| reached(held.rebind));
        match &self.state {
            State::Resting(until) if reached(*until) => {
                let kind = match (self.mode, rebind) {
                    (Mode::Information, _) => Kind::Inform,
                    (Mode::Address, false) => Kind::Renew,
                    (Mode::Address, true) => Kind::Rebind,
                };
                self.extend(kind, now, random)
            }
            State::Asking(exchange) if exchange.kind == Kind::Renew && rebind => {
                self.extend(Kind::Rebind, now, random)
            }
            State::Asking(exchange) if exchange.due <= now => self.again(now, random),
            State::Asking(_) | State::Resting(_) => Vec::new(),
        }
    }

    /// A message has come, from anybody.
    pub fn heard(&mut self, now: Duration, bytes: &[u8], random: u64) -> Vec<Act> {
        let Ok(heard) = packet::read(bytes, self.who.interface) else { return Vec::new() };
        let State::Asking(exchange) = &self.state else { return Vec::new() };
        let ours = exchange.began.is_some()
            && exchange.transaction == heard.transaction
            && heard.client == self.who.duid;
        if !ours {
            return Vec::new();
        }
        let asked = exchange.server.as_ref() == Some(&heard.server);
        match (exchange.kind, heard.answer) {
            (Kind::Decline, Answer::Reply) if asked => self.retreat(now, random),
            (Kind::Solicit, Answer::Advertise) => self.offered(heard, now, random),
            (Kind::Solicit, Answer::Reply) if heard.rapid => self.replied(heard, now, random),
            (Kind::Request | Kind::Renew, Answer::Reply) if asked => self.replied(heard, now, random),
            (Kind::Rebind, Answer::Reply) => self.replied(heard, now, random),
            (Kind::Inform, Answer::Reply) => self.informed(heard, now),
            _ => Vec::new(),
        }
    }

    /// Another machine has an address, as the kernel has found out.
    pub fn duplicate(&mut self, address: Ipv6Addr, now: Duration, random: u64) -> Vec<Act> {
        let Some(held) = self.held.take_if(|held| held.address == address) else { return Vec::new() };
        let exchange = Exchange::new(Kind::Decline, retry::DECLINE, random);
        let (server, address) = (Some(held.server), Some(held.address));
        self.state = State::Asking(Exchange { server, address, ..exchange });
        let said = format!("Another machine has the address {} that the DHCPv6 server granted", held.address);
        let mut acts = vec![Act::Lost, Act::Say(said)];
        acts.extend(self.send(now, random));
        acts
    }

    /// Looks for whoever grants what is wanted; not at once.
    fn begin(&mut self, now: Duration, random: u64) {
        let pause = match self.failures.checked_sub(1) {
            None => hold(random),
            Some(failures) => AGAIN.delay(failures).saturating_add(hold(random)),
        };
        let (kind, rhythm) = match self.mode {
            Mode::Address => (Kind::Solicit, self.solicit),
            Mode::Information => (Kind::Inform, self.inform),
        };
        let exchange = Exchange { address: self.address(), ..Exchange::new(kind, rhythm, random) };
        self.state = State::Asking(Exchange { due: now.saturating_add(pause), ..exchange });
    }

    fn address(&self) -> Option<Ipv6Addr> {
        self.held.as_ref().map(|held| held.address)
    }

    /// Asks anew for what there is already.
    fn extend(&mut self, kind: Kind, now: Duration, random: u64) -> Vec<Act> {
        let (rhythm, server) = match kind {
            Kind::Renew => (retry::RENEW, self.held.as_ref().map(|held| held.server.clone())),
            Kind::Rebind => (retry::REBIND, None),
            _ => (self.inform, None),
        };
        let exchange = Exchange { server, address: self.address(), ..Exchange::new(kind, rhythm, random) };
        self.state = State::Asking(exchange);
        self.send(now, random)
    }

    fn request(
        &mut self,
        server: Vec<u8>,
        address: Option<Ipv6Addr>,
        now: Duration,
        random: u64,
    ) -> Vec<Act> {
        let exchange = Exchange::new(Kind::Request, retry::REQUEST, random);
        self.state = State::Asking(Exchange { server: Some(server), address, ..exchange });
        self.send(now, random)
    }

    /// The pause after a message is over.
    fn again(&mut self, now: Duration, random: u64) -> Vec<Act> {
        let State::Asking(exchange) = &mut self.state else { return Vec::new() };
        if let Some(best) = exchange.best.take() {
            return self.request(best.server, Some(best.address), now, random);
        }
        if exchange.retry.is_spent() && exchange.kind == Kind::Decline {
            return self.retreat(now, random);
        }
        if exchange.retry.is_spent() {
            return self.fail(
                "The DHCPv6 server that offered an address does not answer any more",
                now,
                random,
            );
        }
        let silence = exchange.retry.count() == SILENCE && exchange.kind != Kind::Request;
        let mut acts = self.send(now, random);
        if silence {
            acts.push(Act::Say("No DHCPv6 server answers, although routers say there is one".to_owned()));
        }
        acts
    }

    fn send(&mut self, now: Duration, random: u64) -> Vec<Act> {
        let State::Asking(exchange) = &mut self.state else { return Vec::new() };
        let began = *exchange.began.get_or_insert(now);
        exchange.due = now.saturating_add(exchange.retry.sent(random));
        let question = Question {
            kind: exchange.kind,
            transaction: exchange.transaction,
            elapsed: now.saturating_sub(began),
            server: exchange.server.as_deref(),
            address: exchange.address,
        };
        match packet::write(&self.who, &question) {
            Ok(bytes) => vec![Act::Send(bytes)],
            Err(error) => vec![Act::Say(crate::text::chain(&error))],
        }
    }

    /// Starts over, later every time.
    fn retreat(&mut self, now: Duration, random: u64) -> Vec<Act> {
        self.failures = self.failures.saturating_add(1);
        self.begin(now, random);
        Vec::new()
    }

    fn fail(&mut self, why: &str, now: Duration, random: u64) -> Vec<Act> {
        self.retreat(now, random);
        vec![Act::Say(why.to_owned())]
    }

    fn lose(&mut self, why: &str, now: Duration, random: u64) -> Vec<Act> {
        self.held = None;
        let mut acts = vec![Act::Lost];
        acts.extend(self.fail(why, now, random));
        acts
    }

    fn offered(&mut self, heard: Heard, now: Duration, random: u64) -> Vec<Act> {
        self.limit(&heard);
        let sound = |association: &&Association| {
            heard.status == Status::Success
                && association.status == Status::Success
                && !contradicts(association)
        };
        let grant = heard.association.as_ref().filter(sound);
        let grant = grant.and_then(|association| granted(association, self.address()));
        let State::Asking(exchange) = &mut self.state else { return Vec::new() };
        let Some(Grant { address, .. }) = grant else { return Vec::new() };
        // Those that answer within the first pause are compared; after it, whoever comes first is taken.
        if heard.preference == u8::MAX || exchange.retry.count() > 1 {
            return self.request(heard.server, Some(address), now, random);
        }
        if exchange.best.as_ref().is_none_or(|best| best.preference < heard.preference) {
            exchange.best = Some(Offer { preference: heard.preference, server: heard.server, address });
        }
        Vec::new()
    }

    fn replied(&mut self, heard: Heard, now: Duration, random: u64) -> Vec<Act> {
        self.limit(&heard);
        let State::Asking(exchange) = &self.state else { return Vec::new() };
        let new = matches!(exchange.kind, Kind::Solicit | Kind::Request);
        let offered = exchange.address;
        let refused = "The DHCPv6 server does not grant the address it has offered";
        match heard.status {
            Status::Success => {}
            Status::NotOnLink | Status::NoAddrsAvail if new => return self.fail(refused, now, random),
            // It may change its mind: asked again in the usual pauses.
            _ => return Vec::new(),
        }
        let Some(association) = &heard.association else { return Vec::new() };
        match association.status {
            Status::Success => {}
            // It has forgotten us, and may grant the address anew.
            Status::NoBinding if !new => return self.request(heard.server, offered, now, random),
            _ if new => return self.fail(refused, now, random),
            _ => return Vec::new(),
        }
        if contradicts(association) {
            return Vec::new();
        }
        match granted(association, offered) {
            Some(grant) => self.grant(heard, grant, now),
            None if new => self.fail("The DHCPv6 server grants no usable address", now, random),
            // Taken back.
            None if association.addresses.iter().any(|grant| Some(grant.address) == offered) => {
                self.lose("The DHCPv6 server has taken its address back", now, random)
            }
            None => Vec::new(),
        }
    }

    fn grant(&mut self, heard: Heard, grant: Grant, now: Duration) -> Vec<Act> {
        let Some(Association { renew_s, rebind_s, .. }) = heard.association else { return Vec::new() };
        let base = if grant.preferred_s == 0 { grant.valid_s } else { grant.preferred_s };
        let part = |given: u32, tenths: u32| match (given, base) {
            (EVER, _) | (0, EVER) => None,
            (0, base) => Some(Duration::from_secs(base.into()).saturating_mul(tenths) / 10),
            (given, _) => Some(Duration::from_secs(given.into())),
        };
        let at = |pause: Duration| now.saturating_add(pause);
        let renew = part(renew_s, 5).map(|pause| pause.max(LEAST_RENEW));
        let rebind = part(rebind_s, 8).map(|pause| pause.max(renew.unwrap_or(LEAST_RENEW)));
        let end = (grant.valid_s != EVER).then(|| Duration::from_secs(grant.valid_s.into()));
        self.held = Some(Held {
            address: grant.address,
            server: heard.server,
            renew: renew.map(at),
            rebind: rebind.map(at),
            end: end.map(at),
        });
        self.failures = 0;
        self.state = State::Resting(self.held.as_ref().and_then(|held| earliest(held.renew, held.rebind)));
        vec![Act::Granted(Lease { grant: Some(grant), dns: heard.dns, domain: heard.domain })]
    }

    fn informed(&mut self, heard: Heard, now: Duration) -> Vec<Act> {
        self.limit(&heard);
        if heard.status != Status::Success {
            return Vec::new();
        }
        let pause = match heard.refresh_s.unwrap_or(REFRESH.0) {
            EVER => None,
            seconds => Some(Duration::from_secs(seconds.max(REFRESH.1).into())),
        };
        self.state = State::Resting(pause.map(|pause| now.saturating_add(pause)));
        vec![Act::Granted(Lease { grant: None, dns: heard.dns, domain: heard.domain })]
    }

    /// A server may say how seldom it wants to be asked.
    fn limit(&mut self, heard: &Heard) {
        let State::Asking(exchange) = &mut self.state else { return };
        if let Some(most) = heard.solicit_most {
            self.solicit.most = most;
            if exchange.kind == Kind::Solicit {
                exchange.retry.limit(most);
            }
        }
        if let Some(most) = heard.inform_most {
            self.inform.most = most;
            if exchange.kind == Kind::Inform {
                exchange.retry.limit(most);
            }
        }
    }
}

impl Exchange {
    fn new(kind: Kind, rhythm: Rhythm, random: u64) -> Self {
        let [_, _, _, _, _, a, b, c] = random.to_be_bytes();
        Self {
            kind,
            transaction: [a, b, c],
            began: None,
            retry: Retry::new(rhythm),
            due: Duration::ZERO,
            server: None,
            address: None,
            best: None,
        }
    }
}

fn earliest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// An association whose server is to be asked later than all of them is as good as none.
fn contradicts(association: &Association) -> bool {
    association.rebind_s != 0 && association.renew_s > association.rebind_s
}

/// The usable address that a server grants: one that is for new connections, too, and the one we know.
fn granted(association: &Association, known: Option<Ipv6Addr>) -> Option<Grant> {
    let usable = association.addresses.iter().filter(|grant| grant.valid_s > 0 && is_host(grant.address));
    usable.min_by_key(|grant| (grant.preferred_s == 0, Some(grant.address) != known)).copied()
}

/// An address a machine can have, beyond its link.
pub fn is_host(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some())
}
