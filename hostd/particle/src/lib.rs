//! Networks that are there before the sandbox is (Particle, chapter 3 of Ao's dissertation, for microVMs).
//!
//! A tenant has one network namespace on a machine. In it stand multi-queue TAP devices whose queues were all opened in
//! advance; an eBPF program chooses the queue by the last byte of the destination address. So an endpoint is an
//! address and a file descriptor: [`Network::attach`] leases both without a netlink call, a lock of the kernel's or a
//! new device, and dropping the [`Endpoint`] gives them back.
//!
//! ```text
//!   tenant's namespace          lo: gateway address, names
//!   ┌──────────────────────────────────────────────────┐
//!   │  tap0  queue 0…255   address = subnet + 0…255    │──> a microVM's network device, one queue each
//!   │  tap1  queue 0…255   address = subnet + 256…511  │
//!   │  vxlan0  one route and one forwarding entry per other machine
//!   │  up0     for tenants who may reach the world
//!   └──────────────────────────────────────────────────┘
//! ```
//!
//! Two other forms: a kernel without such programs gets a device per endpoint ([`steering`]), and sandboxes that are
//! processes an address each in one namespace ([`process`]).
//!
//! Namespaces have no names and are held by descriptors alone: whatever ends this process, the kernel takes all of it
//! away. What the machine's own namespace holds, the outer ends of uplinks and packet filters, goes with tenants'
//! namespaces or is replaced at the next start.

pub mod bpf;
pub mod dns;
pub mod lease;
pub mod netlink;
pub mod netns;
pub mod network;
pub mod nft;
pub mod overlay;
pub mod plan;
pub mod pool;
pub mod process;
pub mod steering;
mod sysctl;
pub mod tap;
pub mod uplink;

pub use network::{AttachError, Endpoint, Network, NetworkError, Shape};
pub use plan::{Addresses, Node, Plan, PlanError, Subnet, Tenant};
pub use steering::{Ebpf, Steering};
