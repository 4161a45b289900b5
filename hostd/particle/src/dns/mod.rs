//! Names in a tenant's namespace: a responder at the gateway's addresses, port 53.
//!
//! ```text
//!   {function}.{tenant}.mote                    live instances of a function of the asker's own tenant
//!   self, self.mote, self.{tenant}.mote         whoever asks
//!   reverse names of the cluster's addresses    {function}.{tenant}.mote
//!   other names of mote, words without a dot    do not exist
//!   the rest                                    asked of the upstream servers, if the tenant has any; else refused
//! ```
//!
//! Names match whatever the case of their ASCII letters is. What a query means and what is said to it is pure
//! ([`answer`]); [`Sockets`] are opened inside the namespace, and [`serve`] is one future which holds all that belongs
//! to a responder and ends it by being dropped. Servers upstream are asked from outside the namespace, by sockets of an
//! [`Open`].

mod answer;
mod compose;
mod connections;
mod directory;
mod forward;
mod frame;
mod limits;
mod query;
mod serve;
mod sockets;
mod zone;

pub use answer::{Asked, Outside, Transport, Verdict, answer};
pub use directory::{Directory, InsertError, Listed};
pub use forward::{Here, Open, Upstream};
pub use limits::Limits;
pub use serve::{ServeError, serve};
pub use sockets::{PORT, SocketError, Sockets};
pub use zone::{DOMAIN, LABEL_LIMIT, SELF, Zone, ZoneError};

#[cfg(test)]
mod tests;
