//! One tenant on this machine: its namespace once that is made, and how many sandboxes it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use mote_particle::{Network, NetworkError, Subnet, Tenant};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::JoinError;
use super::place::Place;
use crate::config::{Layout, TenantConfig};
use crate::service::blocking;

/// A tenant.
#[derive(Debug)]
pub struct Tenancy {
    tenant: Tenant,
    subnet: Subnet,
    pub(super) config: TenantConfig,
    pub(super) layout: Arc<Layout>,
    live: OnceCell<Live>,
    /// Sandboxes it has.
    sandboxes: AtomicU16,
}

/// A tenant's network that was made.
#[derive(Debug)]
pub struct Live {
    pub(super) network: Network,
}

/// One of the sandboxes a tenant may have, until dropped.
#[derive(Debug)]
pub struct Share(Arc<Tenancy>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.sandboxes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tenancy {
    /// A tenant of the layout; none of another name.
    pub fn new(name: &str, layout: &Arc<Layout>) -> Option<Self> {
        let (tenant, config) = layout.tenants.get(name)?.clone();
        // Of every machine of a layout that was checked.
        let subnet = layout.plan.subnet(layout.node, tenant).ok()?;
        let sandboxes = AtomicU16::new(0);
        Some(Self { tenant, subnet, config, layout: Arc::clone(layout), live: OnceCell::new(), sandboxes })
    }

    /// Its network, made if it is not there yet: by one for all who wait.
    ///
    /// # Errors
    /// When it cannot be made; whoever comes next tries again.
    pub async fn live(&self) -> Result<&Live, NetworkError> {
        self.live.get_or_try_init(|| self.make()).await
    }

    async fn make(&self) -> Result<Live, NetworkError> {
        let (subnet, shape) = (self.subnet, self.layout.shape);
        let began = std::time::Instant::now();
        let network = blocking(move || Network::create(subnet, &shape)).await?;
        let ms = began.elapsed().as_millis();
        tracing::info!(tenant = %self.config.name, subnet = %self.subnet.v4(), ms, "Network made");
        Ok(Live { network })
    }

    /// A place for a sandbox, in a network that was made.
    ///
    /// # Errors
    /// When the tenant has as many as it may, or all places are taken.
    pub fn attach(self: &Arc<Self>, function: &str) -> Result<Place, JoinError> {
        let share = self.share()?;
        let limit = self.layout.shape.endpoints;
        let full = |source| JoinError::Full { tenant: self.config.name.clone(), limit, source };
        let live = self.live.get().ok_or_else(|| self.quota())?;
        let endpoint = live.network.attach().map_err(full)?;
        Ok(Place::new(endpoint, self.subnet.gateway(), share, Arc::clone(self)))
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
            })
        });
        json!({
            "vni": self.tenant.vni(),
            "egress": format!("{:?}", self.config.egress).to_ascii_lowercase(),
            "sandboxes": self.sandboxes.load(Ordering::Relaxed),
            "max_sandboxes": self.config.max_sandboxes,
            "endpoints": self.layout.shape.endpoints,
            "network": network,
        })
    }
}
