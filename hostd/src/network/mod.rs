//! Tenants' networks on this machine, and sandboxes' places in them.

mod outside;
mod place;
mod tenancy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mote_particle::AttachError;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::config::Layout;

pub use place::Place;
use tenancy::{Shared, Tenancy};

/// Why a sandbox has no place in its tenant's network, and cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The function is of a tenant that is not configured (any more).
    #[error("There is no tenant '{tenant}' (network.tenants): there are {known}")]
    Unknown {
        /// Its name.
        tenant: String,
        /// Those there are.
        known: String,
    },
    /// The tenant has as many sandboxes as it may.
    #[error(
        "Tenant '{tenant}' has {limit} sandboxes with a call or idle, its limit (max_sandboxes of network.tenants)"
    )]
    Quota {
        /// Its name.
        tenant: String,
        /// Its limit.
        limit: u16,
    },
    /// Nothing to attach to.
    #[error("No place in the network of tenant '{tenant}' is free (network.endpoints = {limit})")]
    Full {
        /// Its name.
        tenant: String,
        /// The limit.
        limit: u16,
        /// What ran out.
        #[source]
        source: AttachError,
    },
}

/// All tenants' networks. Each is made when its first sandbox comes, or before.
#[derive(Debug)]
pub struct Networks {
    tenancies: BTreeMap<String, Arc<Tenancy>>,
    shared: Option<Arc<Shared>>,
    /// Why there is none at all.
    problem: Option<String>,
}

impl Networks {
    /// The networks of a layout; without one, sandboxes have no network, for the reason given.
    pub fn new(layout: Result<Layout, String>) -> Self {
        match layout {
            Ok(layout) => {
                let shared = Arc::new(Shared { layout, outside: OnceCell::new() });
                let tenancy = |name: &String| Tenancy::new(name, &shared).map(Arc::new);
                let names = shared.layout.tenants.keys();
                let tenancies = names.filter_map(|name| Some((name.clone(), tenancy(name)?))).collect();
                Self { tenancies, shared: Some(shared), problem: None }
            }
            Err(problem) => Self { tenancies: BTreeMap::new(), shared: None, problem: Some(problem) },
        }
    }

    /// Whether there is such a tenant. Where there are no networks, nobody is kept apart by them.
    pub fn check(&self, tenant: &str) -> Result<(), JoinError> {
        match self.problem.is_some() || self.tenancies.contains_key(tenant) {
            true => Ok(()),
            false => Err(self.unknown(tenant)),
        }
    }

    fn unknown(&self, tenant: &str) -> JoinError {
        let known = self.tenancies.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        JoinError::Unknown { tenant: tenant.to_owned(), known }
    }

    /// A place for a sandbox. `None`: it has to do without a network, as this machine has none.
    ///
    /// # Errors
    /// When there is a network, and no place in it.
    pub async fn join(&self, tenant: &str) -> Result<Option<Place>, JoinError> {
        if self.problem.is_some() {
            return Ok(None);
        }
        let tenancy = self.tenancies.get(tenant).ok_or_else(|| self.unknown(tenant))?;
        tenancy.live().await.map(|live| tenancy.attach(live)).transpose()
    }

    /// Makes a tenant's network before anybody asks.
    pub async fn prepare(&self, tenant: &str) {
        if let Some(tenancy) = self.tenancies.get(tenant) {
            tenancy.live().await;
        }
    }

    /// How long a place that was given back is out of use.
    pub fn quarantine(&self) -> Duration {
        self.shared.as_ref().map_or(Duration::ZERO, |shared| shared.layout.shape.quarantine)
    }

    /// What is wrong, for people.
    pub fn problem(&self) -> Option<String> {
        let failed = || {
            let (tenant, error) =
                self.tenancies.iter().find_map(|(name, tenancy)| Some((name, tenancy.failure()?)))?;
            Some(format!("Sandboxes of tenant '{tenant}' start without a network: {error}"))
        };
        self.problem.clone().or_else(failed)
    }

    /// For operators: every tenant's network.
    pub fn describe(&self) -> Value {
        let tenants: BTreeMap<_, _> =
            self.tenancies.iter().map(|(name, tenancy)| (name, tenancy.describe())).collect();
        let outside = self.shared.as_ref().and_then(|shared| shared.outside.get());
        let outside = outside.map(|outside| outside.describe());
        json!({ "problem": self.problem(), "tenants": tenants, "machine": outside })
    }
}
