//! One tenant on this machine: its namespace once that is made, and how many sandboxes it has.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_particle::dns::{self, Directory, Listed, SocketError, Sockets, Upstream, Zone, ZoneError};
use mote_particle::netns::NetnsError;
use mote_particle::nft::Egress;
use mote_particle::uplink::Uplink;
use mote_particle::{Addresses, Network, Steering, Subnet, Tenant};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use super::JoinError;
use super::outside::{Outside, OutsideError};
use super::place::Place;
use crate::config::{Layout, TenantConfig};
use crate::service::blocking;
use crate::text::chain;

/// Names asked of others at once, for one tenant.
const FORWARDED: usize = 64;

/// A tenant's network that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Devices, addresses, and what is around it.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// Its namespace.
    #[error("Cannot answer names in a tenant's network")]
    Namespace(#[from] NetnsError),
    /// Sockets for names.
    #[error("Cannot answer names in a tenant's network")]
    Names(#[from] SocketError),
    /// The tenant's own name.
    #[error("Cannot answer names in a tenant's network")]
    Zone(#[from] ZoneError),
}

/// What all tenants share.
#[derive(Debug)]
pub struct Shared {
    pub(super) layout: Layout,
    pub(super) outside: OnceCell<Arc<Outside>>,
}

impl Shared {
    async fn outside(self: &Arc<Self>) -> Result<Arc<Outside>, OutsideError> {
        let open = || {
            let shared = Arc::clone(self);
            blocking(move || Outside::open(&shared.layout).map(Arc::new))
        };
        self.outside.get_or_try_init(open).await.cloned()
    }
}

/// A tenant.
#[derive(Debug)]
pub struct Tenancy {
    tenant: Tenant,
    subnet: Subnet,
    pub(super) config: TenantConfig,
    pub(super) shared: Arc<Shared>,
    live: OnceCell<Live>,
    /// Why its network could not be made, when that was tried last.
    failure: Mutex<Option<String>>,
    /// Sandboxes it has.
    sandboxes: AtomicU16,
}

/// A tenant's network that was made.
#[derive(Debug)]
pub struct Live {
    names: AbortHandle,
    directory: Directory,
    _uplink: Option<Uplink>,
    network: Network,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.names.abort();
    }
}

/// One of the sandboxes a tenant may have, until dropped.
#[derive(Debug)]
pub struct Share(Arc<Tenancy>);

impl Share {
    /// Of which tenant.
    pub fn tenancy(&self) -> &Tenancy {
        &self.0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.sandboxes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tenancy {
    /// A tenant of the layout; none of another name.
    pub fn new(name: &str, shared: &Arc<Shared>) -> Option<Self> {
        let layout = &shared.layout;
        let (tenant, config) = layout.tenants.get(name)?.clone();
        // Every machine of a layout that was checked has one.
        let subnet = layout.plan.subnet(layout.node, tenant).ok()?;
        Some(Self {
            tenant,
            subnet,
            config,
            shared: Arc::clone(shared),
            live: OnceCell::new(),
            failure: Mutex::default(),
            sandboxes: AtomicU16::new(0),
        })
    }

    /// Its network, made if it is not there yet: by one for all who wait. None when it cannot be made; whoever comes
    /// next tries again.
    pub async fn live(&self) -> Option<&Live> {
        let make = || async {
            let made = self.make().await;
            *self.failed() = made.as_ref().err().map(|error| {
                let error = chain(error);
                tracing::error!(tenant = %self.config.name, error, "No network: sandboxes start without one");
                error
            });
            made
        };
        self.live.get_or_try_init(make).await.ok()
    }

    fn failed(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why its network could not be made.
    pub fn failure(&self) -> Option<String> {
        self.failed().clone()
    }

    async fn make(&self) -> Result<Live, MakeError> {
        let began = std::time::Instant::now();
        let outside = self.shared.outside().await?;
        let (shared, subnet, tenant) = (Arc::clone(&self.shared), self.subnet, self.tenant);
        let egress = self.config.egress;
        let made = blocking(move || {
            let layout = &shared.layout;
            let (network, uplink) = outside.network(layout, subnet, tenant, egress)?;
            let sockets = network.netns().run(|| Sockets::open(subnet.gateway()))??;
            Ok::<_, MakeError>((network, uplink, sockets))
        });
        let (network, uplink, sockets) = made.await?;
        if let Steering::TapPerEndpoint { reason: Some(reason), .. } = network.steering() {
            let reason = chain(reason);
            tracing::warn!(reason, "This kernel does not steer by eBPF: a device for each endpoint");
        }
        let layout = &self.shared.layout;
        let directory = Directory::new(usize::from(layout.shape.endpoints));
        let zone = Zone::new(&self.config.name, layout.plan, subnet, directory.clone())?;
        let upstream = Upstream::new(dns::Here, FORWARDED);
        if egress != Egress::None {
            upstream.set(&layout.resolvers);
        }
        let limits = dns::Limits::default();
        let names = tokio::spawn(dns::serve(sockets, zone, upstream, limits, std::future::pending()));
        let ms = began.elapsed().as_millis();
        tracing::info!(tenant = %self.config.name, subnet = %subnet.v4(), ms, "Network made");
        Ok(Live { names: names.abort_handle(), directory, _uplink: uplink, network })
    }

    /// A place for a sandbox, in a network that was made.
    ///
    /// # Errors
    /// When the tenant has as many as it may, or all places are taken.
    pub fn attach(self: &Arc<Self>, live: &Live) -> Result<Place, JoinError> {
        let share = self.share()?;
        let limit = self.shared.layout.shape.endpoints;
        let full = |source| JoinError::Full { tenant: self.config.name.clone(), limit, source };
        let endpoint = live.network.attach().map_err(full)?;
        Ok(Place::new(endpoint, share))
    }

    /// The gateway's addresses.
    pub fn gateway(&self) -> Addresses {
        self.subnet.gateway()
    }

    /// Has a sandbox found by its function's name, until what this gives is dropped. Some functions have names that are
    /// none of DNS.
    pub fn list(&self, function: &str, addresses: Addresses) -> Option<Listed> {
        self.live.get()?.directory.insert(function, addresses).ok()
    }

    fn share(self: &Arc<Self>) -> Result<Share, JoinError> {
        let limit = self.limit();
        let more = |count: u16| (count < limit).then_some(count + 1);
        match self.sandboxes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Share(Arc::clone(self))),
            Err(_) => Err(self.quota()),
        }
    }

    fn limit(&self) -> u16 {
        self.config.max_sandboxes.unwrap_or(u16::MAX)
    }

    fn quota(&self) -> JoinError {
        JoinError::Quota { tenant: self.config.name.clone(), limit: self.limit() }
    }

    /// For operators.
    pub fn describe(&self) -> Value {
        let network = self.live.get().map(|live| {
            json!({
                "v4": self.subnet.v4(),
                "v6": self.subnet.v6(),
                "leased": live.network.leased(),
                "names": live.directory.len(),
            })
        });
        json!({
            "vni": self.tenant.vni(),
            "egress": format!("{:?}", self.config.egress).to_ascii_lowercase(),
            "sandboxes": self.sandboxes.load(Ordering::Relaxed),
            "max_sandboxes": self.config.max_sandboxes,
            "endpoints": self.shared.layout.shape.endpoints,
            "network": network,
        })
    }
}
