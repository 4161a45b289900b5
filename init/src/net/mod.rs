//! The network: every ethernet interface up, an address on it by DHCP or by hand, names to files.
//!
//! One task (`run`) owns all of it from boot to power-off; a `dhcp::keep` task per connected interface
//! tells it about leases. Nothing ever waits for it: the boot goes on, and `state` says when there is an
//! address. What is wished for may change meanwhile: a layer of the configuration comes over the network.
//!
//! IPv6 addresses and routes that are advertised (SLAAC) are the kernel's matter; where routers say so a `dhcp6::keep`
//! task asks for an address or for name servers.

mod advice;
mod apply;
mod book;
pub mod dhcp;
pub mod dhcp6;
pub mod fixed;
mod keepers6;
pub mod names;
pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use mote_config::Interface;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use apply::ApplyError;
use book::{Act, Book, Seen};
use dhcp::Event;
use fixed::{Want, Wants};
use keepers6::Keepers;
use plan::Plan;

use crate::log;
use crate::text::chain;

/// Pause before the netlink socket is opened anew after it failed.
const REOPEN: Duration = Duration::from_secs(1);

/// Comings and goings of interfaces, routers' advertisements, addresses of IPv6.
const GROUPS: &[MulticastGroup] =
    &[MulticastGroup::Link, MulticastGroup::Ipv6Ifinfo, MulticastGroup::Ipv6Ifaddr];

/// What the rest of init needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The address of the first interface that has one.
    pub address: Option<IpAddr>,
    /// Nothing more is to be expected soon: there is an address, or an attempt has failed, or there is
    /// no connected interface.
    pub settled: bool,
    /// Interfaces that are connected and ask in vain for an address, and why.
    pub troubles: BTreeMap<String, String>,
    /// Interfaces there are, and how many of them are connected; none before they were counted.
    pub cards: Option<(usize, usize)>,
}

impl State {
    /// What an operator has to know, if there is anything.
    pub fn problem(&self) -> Option<String> {
        let told: Vec<String> = self.troubles.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        if !told.is_empty() {
            return Some(told.join("; "));
        }
        match (self.address, self.cards) {
            (None, Some((0, _))) => Some("No network card was found".to_owned()),
            (None, Some((_, 0))) => Some("No network card has a connection".to_owned()),
            _ => None,
        }
    }
}

/// What the network task is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Name sent to DHCP servers and written to `/etc/hosts`.
    pub hostname: String,
    /// Interfaces set up by hand; if there are none, all use DHCP.
    pub interfaces: Vec<Interface>,
    /// Name servers given by hand.
    pub dns: Vec<IpAddr>,
}

/// What of the machine around it the task uses; tests have their own.
#[derive(Debug, Clone)]
struct Around {
    /// Folder of `hosts` and `resolv.conf`.
    etc: PathBuf,
    /// Whether an interface of that name is the machine's own, and not one that hostd has made.
    ours: fn(&str) -> bool,
}

/// Whose plan is set on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Hand,
    Lease,
    Lease6,
}

const ORIGINS: [Origin; 3] = [Origin::Hand, Origin::Lease, Origin::Lease6];

/// Sets the loopback interface up.
pub async fn loopback() -> Result<(), LoopbackError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(LoopbackError::Socket)?;
    let task = tokio::spawn(connection);
    let result = apply::raise(&handle, 1, None).await;
    task.abort();
    result.map_err(LoopbackError::Apply)
}

/// Why there is no loopback interface.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// No netlink socket.
    #[error("Cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel refused.
    #[error("Cannot set lo up")]
    Apply(#[source] ApplyError),
}

/// Runs the network for ever, as is wished for now and whenever that changes.
pub async fn run(wishes: watch::Receiver<Wish>, state: watch::Sender<State>) {
    run_in(Around { etc: "/etc".into(), ours: is_physical }, wishes, state).await;
}

async fn run_in(around: Around, wishes: watch::Receiver<Wish>, state: watch::Sender<State>) {
    let mut network = Network::new(around, wishes, state);
    network.write_files();
    loop {
        if let Err(error) = network.session().await {
            log::line(&format!("network: {}", chain(&error)));
        }
        tokio::time::sleep(REOPEN).await;
    }
}

/// The netlink conversation ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("Cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    #[error("Cannot list interfaces")]
    List(#[source] rtnetlink::Error),
    #[error("The netlink socket was closed")]
    Closed,
}

struct Network {
    around: Around,
    wishes: watch::Receiver<Wish>,
    wish: Wish,
    wants: Wants,
    state: watch::Sender<State>,
    /// What is wanted of each interface.
    wanted: BTreeMap<u32, Want>,
    /// What is set on each interface now.
    applied: BTreeMap<(u32, Origin), Plan>,
    keepers: BTreeMap<u32, JoinHandle<()>>,
    keepers6: Keepers,
    names: BTreeMap<u32, String>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    inbox6: mpsc::Receiver<Event>,
}

impl Network {
    fn new(around: Around, mut wishes: watch::Receiver<Wish>, state: watch::Sender<State>) -> Self {
        let (events, inbox) = mpsc::channel(16);
        let (events6, inbox6) = mpsc::channel(16);
        let wish = wishes.borrow_and_update().clone();
        Self {
            around,
            wishes,
            wants: Wants::new(wish.interfaces.clone()),
            wish,
            state,
            wanted: BTreeMap::new(),
            applied: BTreeMap::new(),
            keepers: BTreeMap::new(),
            keepers6: Keepers::new(events6),
            names: BTreeMap::new(),
            events,
            inbox,
            inbox6,
        }
    }

    /// One netlink socket's life. Listening starts before listing, so nothing is missed in between.
    async fn session(&mut self) -> Result<(), SessionError> {
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(GROUPS).map_err(SessionError::Socket)?;
        let connection = tokio::spawn(connection);
        let mut book = Book::default();
        // Who asks in vain now is asked anew.
        self.state.send_if_modified(|state| !std::mem::take(&mut state.troubles).is_empty());
        let ended = self.follow(&handle, &mut messages, &mut book).await;
        connection.abort();
        for (_, keeper) in std::mem::take(&mut self.keepers) {
            keeper.abort();
        }
        self.keepers6.stop_all();
        ended
    }

    async fn follow(
        &mut self,
        handle: &Handle,
        messages: &mut (impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin),
        book: &mut Book,
    ) -> Result<(), SessionError> {
        let listed: Vec<LinkMessage> =
            handle.link().get().execute().try_collect().await.map_err(SessionError::List)?;
        for message in &listed {
            self.announced(handle, book, message).await;
        }
        if book.count().0 == 0 {
            self.settle();
        }
        loop {
            let cards = Some(book.count());
            self.state.send_if_modified(|state| std::mem::replace(&mut state.cards, cards) != cards);
            tokio::select! {
                message = messages.next() => {
                    let Some((message, _)) = message else { return Err(SessionError::Closed) };
                    match message.payload {
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                            self.announced(handle, book, &link).await;
                        }
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                            for act in book.gone(link.header.index) {
                                self.act(handle, act).await;
                            }
                        }
                        // The kernel takes a leased one away at once.
                        NetlinkPayload::InnerMessage(
                            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
                        ) => self.keepers6.announced(&address),
                        _ => {}
                    }
                }
                event = self.inbox.recv() => {
                    let Some(event) = event else { return Err(SessionError::Closed) };
                    self.leased(handle, Origin::Lease, event).await;
                }
                event = self.inbox6.recv() => {
                    let Some(event) = event else { return Err(SessionError::Closed) };
                    self.leased(handle, Origin::Lease6, event).await;
                }
                changed = next_wish(&mut self.wishes) => self.change(handle, book, changed).await,
            }
        }
    }

    async fn announced(&mut self, handle: &Handle, book: &mut Book, message: &LinkMessage) {
        let Some(link) = seen(message) else { return };
        // hostd makes virtual interfaces by the hundred; only those with a device behind them are ours.
        if !book.knows(link.index) && !(self.around.ours)(&link.name) {
            return;
        }
        self.keepers6.heard(message);
        for act in book.seen(link.clone()) {
            self.act(handle, act).await;
        }
        self.follow_advice(&link);
    }

    async fn act(&mut self, handle: &Handle, act: Act) {
        match act {
            Act::Raise(link) => {
                let want = self.wants.of(&link);
                // Before the interface is up: then the first advertisement may come.
                advertised(&link.name, want.advertised);
                if let Err(error) = apply::raise(handle, link.index, None).await {
                    log::line(&format!("network: {}: {}", link.name, chain(&error)));
                }
                self.by_hand(handle, &link, want).await;
            }
            Act::Acquire(link) => {
                self.names.insert(link.index, link.name.clone());
                let want = self.wants.of(&link);
                self.by_hand(handle, &link, want.clone()).await;
                if want.dhcp {
                    self.start_keeper(link);
                }
            }
            Act::Pause(index) => {
                self.stop_keeper(index);
                self.keepers6.stop(index);
                log::line(&format!("network: {}: disconnected", self.name(index)));
            }
            Act::Forget(index) => {
                self.stop_keeper(index);
                self.keepers6.forget(index);
                log::line(&format!("network: {}: gone", self.name(index)));
                self.names.remove(&index);
                self.wanted.remove(&index);
                self.wants.forget(index);
                let plans = ORIGINS.map(|origin| self.applied.remove(&(index, origin)));
                if plans.iter().any(Option::is_some) {
                    self.write_files();
                }
            }
        }
    }

    /// Sets what an operator wants of an interface, or takes away what one wanted before.
    async fn by_hand(&mut self, handle: &Handle, link: &Seen, want: Want) {
        match want.plan.clone() {
            Some(plan) => self.set(handle, (link.index, Origin::Hand), link.name.clone(), plan).await,
            None => self.withdraw(handle, (link.index, Origin::Hand)).await,
        }
        self.wanted.insert(link.index, want);
    }

    /// Something else is wished for.
    async fn change(&mut self, handle: &Handle, book: &Book, wish: Wish) {
        let before = std::mem::replace(&mut self.wish, wish);
        if before.interfaces != self.wish.interfaces {
            self.wants = Wants::new(self.wish.interfaces.clone());
        }
        for link in book.links() {
            let want = self.wants.of(&link);
            if self.wanted.get(&link.index) == Some(&want) {
                continue;
            }
            log::line(&format!("network: {}: something else is wanted of it", link.name));
            advertised(&link.name, want.advertised);
            if !want.dhcp {
                self.stop_keeper(link.index);
                self.withdraw(handle, (link.index, Origin::Lease)).await;
            }
            if !want.dhcp6 {
                self.keepers6.stop(link.index);
                self.withdraw(handle, (link.index, Origin::Lease6)).await;
            }
            self.by_hand(handle, &link, want.clone()).await;
            if want.dhcp && link.up && link.carrier && !self.keepers.contains_key(&link.index) {
                self.start_keeper(link.clone());
            }
            self.follow_advice(&link);
        }
        self.write_files();
    }

    fn start_keeper(&mut self, link: Seen) {
        log::note(&format!("network: {}: connected, asking for an address", link.name));
        let index = link.index;
        let keeper = dhcp::keep(link, self.wish.hostname.clone(), self.events.clone());
        if let Some(old) = self.keepers.insert(index, tokio::spawn(keeper)) {
            old.abort();
        }
    }

    /// Asks what routers advise, if it is wanted.
    fn follow_advice(&mut self, link: &Seen) {
        let wanted = self.wanted.get(&link.index).is_some_and(|want| want.dhcp6);
        if wanted && link.up && link.carrier {
            self.keepers6.follow(link, &self.wish.hostname);
        }
    }

    async fn withdraw(&mut self, handle: &Handle, place: (u32, Origin)) {
        let Some(plan) = self.applied.remove(&place) else { return };
        if let Err(error) = apply::withdraw(handle, place.0, &plan).await {
            log::line(&format!("network: {}", chain(&error)));
        }
        self.write_files();
    }

    async fn leased(&mut self, handle: &Handle, origin: Origin, event: Event) {
        match event {
            Event::Leased { index, plan } if self.is_kept(index, origin) => {
                let name = self.name(index);
                self.set(handle, (index, origin), name, plan).await;
            }
            // From a keeper that was stopped meanwhile.
            Event::Leased { .. } => {}
            Event::Lost { index } => self.withdraw(handle, (index, origin)).await,
            Event::Failed { index, reason } => {
                let name = self.name(index);
                log::line(&format!("network: {name}: {reason}"));
                // Nobody waits for DHCPv6.
                if origin == Origin::Lease {
                    if self.keepers.contains_key(&index) {
                        self.state.send_modify(|state| _ = state.troubles.insert(name, reason));
                    }
                    self.settle();
                }
            }
        }
    }

    fn is_kept(&self, index: u32, origin: Origin) -> bool {
        match origin {
            Origin::Hand => false,
            Origin::Lease => self.keepers.contains_key(&index),
            Origin::Lease6 => self.keepers6.has(index),
        }
    }

    async fn set(&mut self, handle: &Handle, place: (u32, Origin), name: String, plan: Plan) {
        let index = place.0;
        let old = self.applied.get(&place);
        let renewed = old.is_some_and(|old| old.addresses == plan.addresses);
        if let Err(error) = apply::apply(handle, index, &plan, old).await {
            log::line(&format!("network: {name}: {}", chain(&error)));
            self.settle();
            return;
        }
        if !renewed {
            for address in &plan.addresses {
                log::line(&format!("network: {name}: address {address}"));
            }
        }
        if place.1 != Origin::Lease6 {
            self.content(&name);
        }
        self.names.insert(index, name);
        self.applied.insert(place, plan);
        self.write_files();
    }

    fn stop_keeper(&mut self, index: u32) {
        if let Some(keeper) = self.keepers.remove(&index) {
            keeper.abort();
            self.content(&self.name(index));
        }
    }

    /// An interface has no trouble, or is nobody's business, any more.
    fn content(&self, name: &str) {
        self.state.send_if_modified(|state| state.troubles.remove(name).is_some());
    }

    fn name(&self, index: u32) -> String {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"))
    }

    fn settle(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.settled, true));
    }

    /// Writes names and tells the others.
    fn write_files(&self) {
        let addresses = || self.applied.values().filter_map(Plan::address);
        let address = addresses().find(IpAddr::is_ipv4).or_else(|| addresses().next());
        let files = [
            ("hosts", names::hosts(&self.wish.hostname, address)),
            ("resolv.conf", names::resolv_conf(&self.wish.dns, self.applied.values())),
        ];
        for (name, text) in files {
            let path = self.around.etc.join(name);
            if let Err(error) = crate::text::replace_file(&path, &text) {
                log::line(&format!("network: Cannot write {}: {error}", path.display()));
            }
        }
        self.state.send_if_modified(|state| {
            let settled = state.settled || address.is_some();
            let changed = (state.address, state.settled) != (address, settled);
            (state.address, state.settled) = (address, settled);
            changed
        });
    }
}

/// The next wish; never if there will be none.
async fn next_wish(wishes: &mut watch::Receiver<Wish>) -> Wish {
    if wishes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    wishes.borrow_and_update().clone()
}

/// Whether the kernel takes addresses and routes from router advertisements on an interface. 2: although the machine
/// may forward packets of its guests.
fn advertised(name: &str, accepted: bool) {
    let value = if accepted { "2" } else { "0" };
    // Without IPv6 there is no such file.
    let _ = std::fs::write(Path::new("/proc/sys/net/ipv6/conf").join(name).join("accept_ra"), value);
}

fn seen(message: &LinkMessage) -> Option<Seen> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let mut name = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => mac = <[u8; 6]>::try_from(value.as_slice()).ok(),
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(Seen {
        index: message.header.index,
        name: name?,
        mac: mac?,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
    })
}

fn is_physical(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("device").exists()
}
