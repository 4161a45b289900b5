//! Why a call is not served, in words that name the limit and the way out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::bring_up::StartFailure;

/// Why a call cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("{what} ({limit}); try again in {} s", retry_after.as_secs().max(1))]
    Full {
        /// Who waits.
        what: String,
        /// The setting that bounds it.
        limit: &'static str,
        /// When another attempt may be worth it.
        retry_after: Duration,
    },
    /// Nothing became free in time.
    #[error("{bound}, and none became free within {waited_s} s; try again later")]
    Expired {
        /// What there was not enough of.
        bound: Bound,
        /// For how long it waited.
        waited_s: u64,
        /// When another attempt may be worth it.
        retry_after: Duration,
    },
    /// Nothing will become free in time, by what calls take of late.
    #[error(
        "{bound}, and {waiting} calls of the function wait: this one's turn would come too late (sandbox.queue_s); try \
         again in {} s",
        retry_after.as_secs().max(1)
    )]
    Hopeless {
        /// What there is not enough of.
        bound: Bound,
        /// Calls of the function that wait.
        waiting: u32,
        /// When another attempt may be worth it.
        retry_after: Duration,
    },
    /// The function needs more than the machine can ever give.
    #[error(
        "The function needs {needed_mb} MiB, this machine can give {capacity_mb} MiB to a function of its tenant; \
         lower its MemorySize"
    )]
    TooBig {
        /// Memory of the function and its monitor.
        needed_mb: u64,
        /// What there is.
        capacity_mb: u64,
    },
    /// Its limit is zero.
    #[error("The function's reserved concurrency is 0: it cannot be called")]
    Forbidden,
    /// Its sandbox did not come up.
    #[error(transparent)]
    Failed(Arc<StartFailure>),
    /// Changed or deleted meanwhile: look the function up again.
    #[error("The function was changed meanwhile")]
    Gone,
    /// The caller hung up while the call waited.
    #[error("The caller hung up while the call waited")]
    HungUp,
}

/// What calls wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// Memory of the machine, or its most sandboxes.
    Memory,
    /// As many calls of the function at once as it may have.
    Function(u32),
    /// The same of its tenant, by this setting.
    Tenant(TenantBound),
}

/// What bounds a tenant's calls at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantBound {
    /// Name of the tenant.
    pub tenant: String,
    /// Its most sandboxes.
    pub limit: u32,
    /// Whether that is what the machine's network has places for, not a limit of the tenant's own.
    pub places: bool,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => write!(f, "All memory for functions is in use"),
            Self::Function(limit) => {
                write!(f, "All sandboxes the function may have are in use (reserved concurrency {limit})")
            }
            Self::Tenant(TenantBound { tenant, limit, places: true }) => {
                write!(
                    f,
                    "No place in the network of tenant '{tenant}' is free (network.endpoints = {limit})"
                )
            }
            Self::Tenant(TenantBound { tenant, limit, places: false }) => write!(
                f,
                "All sandboxes tenant '{tenant}' may have are in use (max_sandboxes of network.tenants = {limit})"
            ),
        }
    }
}
