//! The tasks that ask DHCPv6 servers: which run, by what routers advise and operators want.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::advice;
use super::book::Seen;
use super::dhcp::Event;
use super::dhcp6::{self, Mode};
use crate::log;

/// Most duplicates that wait to be given back; one is enough.
const DUPLICATES: usize = 4;

/// All of them.
#[derive(Debug)]
pub struct Keepers {
    /// What routers advise on each interface.
    advice: BTreeMap<u32, Option<Mode>>,
    running: BTreeMap<u32, Keeper>,
    events: mpsc::Sender<Event>,
}

#[derive(Debug)]
struct Keeper {
    mode: Mode,
    task: JoinHandle<()>,
    duplicates: mpsc::Sender<Ipv6Addr>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keepers {
    /// None yet; what they have to say goes to `events`.
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { advice: BTreeMap::new(), running: BTreeMap::new(), events }
    }

    /// An interface was announced, perhaps with what its routers advise.
    pub fn heard(&mut self, message: &LinkMessage) {
        if let Some(advice) = advice::heard(message) {
            self.advice.insert(message.header.index, advice);
        }
    }

    /// Starts what routers advise. Once it runs it goes on, although another router says otherwise: what it has is given up
    /// by the server's word or when its time is over.
    pub fn follow(&mut self, link: &Seen, hostname: &str) {
        let Some(mode) = self.advice.get(&link.index).copied().flatten() else { return };
        if self.running.get(&link.index).is_some_and(|running| running.mode >= mode) {
            return;
        }
        let what = match mode {
            Mode::Address => "an IPv6 address",
            Mode::Information => "name servers",
        };
        log::note(&format!("network: {}: routers say DHCPv6, asking for {what}", link.name));
        let (duplicates, told) = mpsc::channel(DUPLICATES);
        let task = dhcp6::keep(link.clone(), mode, hostname.to_owned(), self.events.clone(), told);
        self.running.insert(link.index, Keeper { mode, task: tokio::spawn(task), duplicates });
    }

    /// Whether one runs for an interface.
    pub fn has(&self, index: u32) -> bool {
        self.running.contains_key(&index)
    }

    /// Nothing is asked on an interface any more; what its routers have said may count again.
    pub fn stop(&mut self, index: u32) {
        self.running.remove(&index);
    }

    /// An interface is gone.
    pub fn forget(&mut self, index: u32) {
        self.stop(index);
        self.advice.remove(&index);
    }

    /// Nothing is asked any more.
    pub fn stop_all(&mut self) {
        self.running.clear();
    }

    /// An address was announced: perhaps it was looked for on the link, and found.
    pub fn announced(&self, message: &AddressMessage) {
        let Some(keeper) = self.running.get(&message.header.index) else { return };
        if let Some(address) = advice::duplicate(message) {
            // A full queue has it already.
            let _ = keeper.duplicates.try_send(address);
        }
    }
}
