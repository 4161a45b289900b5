//! Packet filters: what may pass between a tenant's sandboxes, the machine, other machines and the world outside.
//!
//! A filter is a [`Table`], plain data; [`Nft`] puts it into the kernel as one batch, in the place of the one that was
//! there. Three of them work together:
//!
//! ```text
//!   tenant's namespace            the machine's namespace
//!   ┌───────────────────┐        ┌─────────────────────────────────────────┐
//!   │ tenant_table      │up0     │ host_table: never to the machine itself,│
//!   │ who may reach what├────────┤ other tenants, metadata services; NAT   ├── the world
//!   │ NAT               │  mt-…  │ overlay guard: who speaks for which     │
//!   │          vxlan0 ┄┄│┄┄┄┄┄┄┄┄│┄ subnet                                 ├── other machines
//!   └───────────────────┘        └─────────────────────────────────────────┘
//! ```

mod encode;
mod host;
pub mod networks;
mod overlay;
mod socket;
pub mod table;
mod tenant;
#[cfg(test)]
mod tests;
pub mod when;

pub use host::{HostRules, TO_HOST, TRANSIT, host_table};
pub use networks::Egress;
pub use overlay::{GuardError, OverlayDrops, OverlayGuard};
pub use socket::{Count, Nft, NftError};
pub use table::Table;
pub use tenant::{REFUSED, TOO_MANY, TenantRules, tenant_table};
