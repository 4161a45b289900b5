//! The kernel's device announcements.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Group of the kernel's own announcements (2 would be a device manager's).
const KERNEL_GROUP: u32 = 1;

/// A socket that hears the kernel. What it heard is not looked at: every announcement means "look
/// again", so none has to be trusted or can be missed by being dropped.
#[derive(Debug)]
pub struct Announcements {
    socket: AsyncFd<OwnedFd>,
}

impl Announcements {
    /// Starts listening.
    pub fn listen() -> Result<Self, ListenError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))
            .map_err(|errno| ListenError(errno.into()))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP)).map_err(|errno| ListenError(errno.into()))?;
        // SAFETY: the socket owns its descriptor, hands out that one only, and stays inside the `AsyncFd`.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        socket.map(|socket| Self { socket }).map_err(|error| ListenError(error.into()))
    }

    /// Waits until something was announced since the last call.
    pub async fn next(&mut self) -> Result<(), ListenError> {
        let mut guard = self.socket.readable().await.map_err(ListenError)?;
        let mut buffer = [0_u8; 4096];
        loop {
            match recv(guard.get_inner().as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
                Ok(_) => {}
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    return Ok(());
                }
                // Overrun: announcements were lost, so look again all the more.
                Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(errno) => return Err(ListenError(errno.into())),
            }
        }
    }
}

/// The kernel's announcements cannot be heard.
#[derive(Debug, thiserror::Error)]
#[error("Cannot hear device announcements")]
pub struct ListenError(#[source] std::io::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_announcement_is_heard() {
        let trigger = "/sys/devices/virtual/mem/null/uevent";
        let mut announcements = Announcements::listen().unwrap();
        if std::fs::write(trigger, "change").is_err() {
            println!("skipped: needs root and a writable sysfs");
            return;
        }
        let heard = tokio::time::timeout(std::time::Duration::from_secs(5), announcements.next()).await;
        heard.expect("no announcement within 5 s").unwrap();
    }
}
