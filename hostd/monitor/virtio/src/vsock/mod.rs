//! The socket device (virtio 1.2, section 5.10), bridged to Unix sockets on the host.
//!
//! Host to guest: a client connects to the device's Unix socket and sends `CONNECT <port>\n`; when the guest accepts
//! it is answered `OK <host port>\n`, and from there on the socket is the guest's stream. Guest to host: a connection
//! to host port P becomes one to the Unix socket `<path>_<P>`.

mod device;
mod persist;

pub use device::{Vsock, VsockConfig, VsockError, VsockListener};
pub use persist::VsockState;
