//! The network: every ethernet interface up, an address on it by DHCP or by hand, names to files.
//!
//! One task (`run`) owns all of it from boot to power-off; a `dhcp::keep` task per connected interface
//! tells it about leases. Nothing ever waits for it: the boot goes on, and `state` says when there is an
//! address.

mod apply;
mod book;
pub mod dhcp;
pub mod fixed;
pub mod names;
pub mod plan;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
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
use fixed::Fixed;
use plan::Plan;

use crate::log;
use crate::text::chain;

/// Pause before the netlink socket is opened anew after it failed.
const REOPEN: Duration = Duration::from_secs(1);

/// What the rest of init needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The address of the first interface that has one.
    pub address: Option<Ipv4Addr>,
    /// Nothing more is to be expected soon: there is an address, or an attempt has failed, or there is
    /// no connected interface.
    pub settled: bool,
}

/// What the network task is given.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Name sent to DHCP servers and written to `/etc/hosts`.
    pub hostname: String,
    /// Address given by hand.
    pub fixed: Option<Fixed>,
}

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

/// Runs the network for ever.
pub async fn run(wish: Wish, state: watch::Sender<State>) {
    let mut network = Network::new(wish, state);
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
    wish: Wish,
    state: watch::Sender<State>,
    /// What is set on each interface now.
    applied: BTreeMap<u32, Plan>,
    keepers: BTreeMap<u32, JoinHandle<()>>,
    names: BTreeMap<u32, String>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
}

impl Network {
    fn new(wish: Wish, state: watch::Sender<State>) -> Self {
        let (events, inbox) = mpsc::channel(16);
        Self {
            wish,
            state,
            applied: BTreeMap::new(),
            keepers: BTreeMap::new(),
            names: BTreeMap::new(),
            events,
            inbox,
        }
    }

    /// One netlink socket's life. Listening starts before listing, so nothing is missed in between.
    async fn session(&mut self) -> Result<(), SessionError> {
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(SessionError::Socket)?;
        let connection = tokio::spawn(connection);
        let mut book = Book::default();
        let ended = self.follow(&handle, &mut messages, &mut book).await;
        connection.abort();
        for (_, keeper) in std::mem::take(&mut self.keepers) {
            keeper.abort();
        }
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
                        _ => {}
                    }
                }
                event = self.inbox.recv() => {
                    let Some(event) = event else { return Err(SessionError::Closed) };
                    self.leased(handle, event).await;
                }
            }
        }
    }

    async fn announced(&mut self, handle: &Handle, book: &mut Book, message: &LinkMessage) {
        let Some(link) = seen(message) else { return };
        // hostd makes virtual interfaces by the hundred; only those with a device behind them are ours.
        if !book.knows(link.index) && !is_physical(&link.name) {
            return;
        }
        for act in book.seen(link) {
            self.act(handle, act).await;
        }
    }

    async fn act(&mut self, handle: &Handle, act: Act) {
        match act {
            Act::Raise(link) => {
                if let Err(error) = apply::raise(handle, link.index, None).await {
                    log::line(&format!("network: {}: {}", link.name, chain(&error)));
                }
                if let Some(fixed) = self.fixed_for(&link).cloned() {
                    self.set(handle, link.index, link.name, fixed.plan).await;
                }
            }
            Act::Acquire(link) => {
                self.names.insert(link.index, link.name.clone());
                if let Some(fixed) = self.fixed_for(&link).cloned() {
                    self.set(handle, link.index, link.name, fixed.plan).await;
                } else if self.wish.fixed.is_none() {
                    log::note(&format!("network: {}: connected, asking for an address", link.name));
                    let keeper = dhcp::keep(link.clone(), self.wish.hostname.clone(), self.events.clone());
                    if let Some(old) = self.keepers.insert(link.index, tokio::spawn(keeper)) {
                        old.abort();
                    }
                }
            }
            Act::Pause(index) => {
                self.stop_keeper(index);
                log::line(&format!("network: {}: disconnected", self.name(index)));
            }
            Act::Forget(index) => {
                self.stop_keeper(index);
                log::line(&format!("network: {}: gone", self.name(index)));
                self.names.remove(&index);
                if self.applied.remove(&index).is_some() {
                    self.write_files();
                }
            }
        }
    }

    /// The address given by hand, if it is for this interface: the named one, or the first that comes.
    fn fixed_for(&self, link: &Seen) -> Option<&Fixed> {
        let fixed = self.wish.fixed.as_ref()?;
        let here = match &fixed.interface {
            Some(name) => *name == link.name,
            None => self.applied.keys().all(|index| *index == link.index),
        };
        here.then_some(fixed)
    }

    async fn leased(&mut self, handle: &Handle, event: Event) {
        match event {
            Event::Leased { index, plan } if self.keepers.contains_key(&index) => {
                let name = self.name(index);
                self.set(handle, index, name, plan).await;
            }
            // From a keeper that was stopped meanwhile.
            Event::Leased { .. } => {}
            Event::Lost { index } => {
                if let Some(plan) = self.applied.remove(&index) {
                    if let Err(error) = apply::withdraw(handle, index, &plan).await {
                        log::line(&format!("network: {}", chain(&error)));
                    }
                    self.write_files();
                }
            }
            Event::Failed { index, reason } => {
                log::line(&format!("network: {}: {reason}", self.name(index)));
                self.settle();
            }
        }
    }

    async fn set(&mut self, handle: &Handle, index: u32, name: String, plan: Plan) {
        let old = self.applied.get(&index);
        let renewed = old.is_some_and(|old| old.address == plan.address);
        if let Err(error) = apply::apply(handle, index, &plan, old).await {
            log::line(&format!("network: {name}: {}", chain(&error)));
            self.settle();
            return;
        }
        if !renewed {
            log::line(&format!("network: {name}: address {}/{}", plan.address, plan.prefix));
        }
        self.names.insert(index, name);
        self.applied.insert(index, plan);
        self.write_files();
    }

    fn stop_keeper(&mut self, index: u32) {
        if let Some(keeper) = self.keepers.remove(&index) {
            keeper.abort();
        }
    }

    fn name(&self, index: u32) -> String {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"))
    }

    fn settle(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.settled, true));
    }

    /// Writes names and tells the others.
    fn write_files(&self) {
        let address = self.applied.values().next().map(|plan| plan.address);
        let files = [
            ("/etc/hosts", names::hosts(&self.wish.hostname, address)),
            ("/etc/resolv.conf", names::resolv_conf(self.applied.values())),
        ];
        for (path, text) in files {
            if let Err(error) = crate::text::replace_file(Path::new(path), &text) {
                log::line(&format!("network: Cannot write {path}: {error}"));
            }
        }
        self.state.send_if_modified(|state| {
            let new = State { address, settled: state.settled || address.is_some() };
            std::mem::replace(state, new.clone()) != new
        });
    }
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
