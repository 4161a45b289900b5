//! Keeps a DHCPv4 lease on one interface for as long as the task lives.

use std::time::Duration;

use mozim::{DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use tokio::sync::mpsc;

use super::book::Seen;
use super::plan::{Offer, Plan};
use crate::backoff::Backoff;

/// Longest time from the first DISCOVER to an acknowledged lease before we start over. A server that
/// offers and then refuses (or never acknowledges) would hold the library in one state for ever.
const ACQUIRE: Duration = Duration::from_secs(30);

/// Pauses between attempts.
const PAUSE: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// What happened on an interface.
#[derive(Debug)]
pub enum Event {
    /// A lease was granted or renewed.
    Leased {
        /// Kernel index of the interface.
        index: u32,
        /// What the lease asks for.
        plan: Plan,
    },
    /// The lease ran out and nobody renewed it.
    Lost {
        /// Kernel index of the interface.
        index: u32,
    },
    /// An attempt ended without a lease; the next one follows.
    Failed {
        /// Kernel index of the interface.
        index: u32,
        /// Why, as a sentence.
        reason: String,
    },
}

/// Acquires and renews until dropped (the cable is pulled, the machine stops). Never returns by itself,
/// except when nobody listens to `events` any more.
pub async fn keep(link: Seen, hostname: String, events: mpsc::Sender<Event>) {
    let index = link.index;
    let mut failures: u32 = 0;
    loop {
        let (reason, had_lease) = match acquire(&link, &hostname, &events).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        failures = if had_lease { 0 } else { failures.saturating_add(1) };
        if had_lease && events.send(Event::Lost { index }).await.is_err() {
            return;
        }
        if events.send(Event::Failed { index, reason }).await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE.delay(failures)).await;
    }
}

/// One life of the library's client; ends with the reason and whether a lease was lost with it.
async fn acquire(
    link: &Seen,
    hostname: &str,
    events: &mpsc::Sender<Event>,
) -> Result<std::convert::Infallible, (String, bool)> {
    let mut client =
        match DhcpV4Client::init(config(link, hostname).map_err(|reason| (reason, false))?, None).await {
            Ok(client) => client,
            Err(error) => return Err((error.to_string(), false)),
        };
    let mut leased = false;
    let started = tokio::time::Instant::now();
    loop {
        let state = if leased {
            // Renewing and rebinding are bounded by the lease itself.
            client.run().await
        } else {
            match tokio::time::timeout_at(started + ACQUIRE, client.run()).await {
                Ok(state) => state,
                Err(_) => return Err((format!("No DHCP lease within {} s", ACQUIRE.as_secs()), false)),
            }
        };
        match state {
            Ok(DhcpV4State::Done(lease)) => {
                let plan = Plan::from_offer(&offer(&lease)).map_err(|error| (error.to_string(), leased))?;
                leased = true;
                if events.send(Event::Leased { index: link.index, plan }).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(DhcpV4State::InitReboot) if leased => return Err(("The lease ran out".to_owned(), true)),
            Ok(_) => {}
            Err(error) => return Err((error.to_string(), leased)),
        }
    }
}

fn config(link: &Seen, hostname: &str) -> Result<DhcpV4Config, String> {
    let mut config = DhcpV4Config::new(&link.name);
    config.set_iface_index(link.index);
    config.set_iface_mac_raw(&link.mac).map_err(|error| error.to_string())?;
    config.set_host_name(hostname);
    config.use_mac_as_client_id();
    Ok(config)
}

fn offer(lease: &DhcpV4Lease) -> Offer {
    Offer {
        address: Some(lease.yiaddr),
        mask: Some(lease.subnet_mask),
        lease_s: lease.lease_time_sec,
        routers: lease.gateways.clone().unwrap_or_default(),
        classless: lease
            .classless_routes
            .iter()
            .flatten()
            .map(|route| (route.destination, route.prefix_length, route.router))
            .collect(),
        mtu: lease.mtu,
        dns: lease.dns_srvs.clone().unwrap_or_default(),
        domain: lease.domain_name.clone(),
    }
}
