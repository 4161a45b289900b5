//! DHCPv6 on one interface, for as long as the task lives: an address, or name servers only, as routers say.
//!
//! [`client`] decides, [`packet`] reads and writes, [`shape`] lets no malformed message near the reader; here are the
//! clock and the [`socket`].

pub mod client;
mod duid;
#[cfg(test)]
mod hostile;
pub mod packet;
mod retry;
#[cfg(test)]
mod server;
mod shape;
mod socket;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::book::Seen;
use super::dhcp::Event;
use super::plan::{MAX_DNS, Plan, is_domain};
use crate::backoff::Backoff;
use crate::sys::entropy;
pub use client::Mode;
use client::{Act, Client, EVER, Lease, is_host};
use packet::Identity;
use socket::Socket;

/// Pauses before the socket is opened anew.
const REOPEN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// Acquires and renews until dropped. Never returns by itself, except when nobody listens to `events` any more.
/// `duplicates` are addresses of the interface that another machine has, too.
pub async fn keep(
    link: Seen,
    mode: Mode,
    hostname: String,
    events: mpsc::Sender<Event>,
    mut duplicates: mpsc::Receiver<Ipv6Addr>,
) {
    let who = Identity { duid: duid::of_machine(link.mac), interface: duid::interface(link.mac), hostname };
    let start = Instant::now();
    let mut client = Client::new(who, mode, Duration::ZERO, entropy::word());
    let mut failures = 0;
    loop {
        let before = start.elapsed();
        let Err(error) = converse(&link, &mut client, start, &events, &mut duplicates).await else { return };
        // One that worked for a while is opened at once.
        let worked = start.elapsed().saturating_sub(before) > REOPEN.most;
        failures = if worked { 0 } else { failures + 1 };
        let event = Event::Failed { index: link.index, reason: format!("DHCPv6: {error}") };
        if events.send(event).await.is_err() {
            return;
        }
        sleep(REOPEN.delay(failures)).await;
    }
}

/// One socket's life; ends well when nobody listens.
async fn converse(
    link: &Seen,
    client: &mut Client,
    start: Instant,
    events: &mpsc::Sender<Event>,
    duplicates: &mut mpsc::Receiver<Ipv6Addr>,
) -> std::io::Result<()> {
    let socket = Socket::open(&link.name, link.index)?;
    let mut buffer = socket::buffer();
    loop {
        let next = client.next();
        let acts = tokio::select! {
            () = until(start, next) => client.due(start.elapsed(), entropy::word()),
            Some(address) = duplicates.recv() => client.duplicate(address, start.elapsed(), entropy::word()),
            message = socket.receive(&mut buffer) => client.heard(start.elapsed(), message?, entropy::word()),
        };
        for act in acts {
            let index = link.index;
            let event = match act {
                Act::Send(bytes) => {
                    // Not sent is as good as not answered: it is sent again.
                    let _ = socket.send(&bytes).await;
                    continue;
                }
                Act::Granted(lease) => Event::Leased { index, plan: plan(&lease) },
                Act::Lost => Event::Lost { index },
                Act::Say(reason) => Event::Failed { index, reason },
            };
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn until(start: Instant, next: Option<Duration>) {
    match next.and_then(|next| start.checked_add(next)) {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// What a lease asks for. The address has no network around it: that is the routers' matter.
fn plan(lease: &Lease) -> Plan {
    let address = lease.grant.map(|grant| IpNet::V6(Ipv6Net::from(grant.address)));
    let seconds = |seconds: u32| (seconds != EVER).then_some(seconds);
    Plan {
        addresses: address.into_iter().collect(),
        lifetime_s: lease.grant.and_then(|grant| seconds(grant.valid_s)),
        preferred_s: lease.grant.and_then(|grant| seconds(grant.preferred_s)),
        dns: lease
            .dns
            .iter()
            .copied()
            .filter(|server| is_host(*server))
            .take(MAX_DNS)
            .map(IpAddr::V6)
            .collect(),
        domain: lease.domain.as_deref().filter(|name| is_domain(name)).map(str::to_owned),
        ..Plan::default()
    }
}
