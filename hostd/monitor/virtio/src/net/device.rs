//! The network device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::counters::NetCounters;
use super::identity::Identity;
use super::limit::{Limit, Limiter};
use super::link::{Link, Turn};
use super::persist::{self, NetState};
use super::receive::Receiver;
use super::transmit;
use super::wire::Wire;
use super::{RX, SIZE, TX};
use crate::vsock::poll::{FIRST_PEER, Poll, TIMER, Token};
use crate::{ActivateError, DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

/// The wire among what is watched.
const WIRE: Token = FIRST_PEER;

/// What is offered. Not GUEST_ECN: the TAP device cuts such segments up before they come here; and no UDP segments, which
/// its offloads do not have either.
const FEATURES: [u32; 13] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
];

/// Shortest sleep for want of tokens. Buckets hold far more than they gain meanwhile.
const NAP: Duration = Duration::from_micros(250);

/// What the guest sees, and where it leads.
#[derive(Debug)]
pub struct NetConfig {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet. A restored device keeps the one it had.
    pub mtu: u16,
    /// Where it leads; the link is down if nowhere.
    pub link: Option<NetLink>,
}

/// A place in a network.
#[derive(Debug)]
pub struct NetLink {
    /// A queue of a TAP device, whose frames are behind a header of 12 bytes.
    pub queue: OwnedFd,
    /// The only IPv4 address the guest may send from.
    pub v4: Ipv4Addr,
    /// The only IPv6 address the guest may send from.
    pub v6: Ipv6Addr,
    /// On frames from the guest.
    pub tx: Limit,
    /// On frames for the guest.
    pub rx: Limit,
}

/// A network device cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// Nobody can have this address.
    #[error("{0} is no address of a guest")]
    Address(IpAddr),
    /// A system call failed.
    #[error("{what} failed")]
    System {
        /// The call.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The network device.
#[derive(Debug)]
pub struct Net {
    mac: [u8; 6],
    mtu: u16,
    link: Option<Link>,
    counters: NetCounters,
    poll: Poll,
    receiver: Receiver,
    /// There may be frames for the guest.
    readable: bool,
    /// Frames of the guest wait in the queue for time to pass.
    held_back: bool,
    /// The guest was told the other of up and down before it was saved.
    changed: bool,
}

impl Net {
    /// Takes the queue over. Frames wait in it until the guest's driver is ready.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn new(config: NetConfig) -> Result<Self, NetError> {
        let failed = |what| move |source| NetError::System { what, source };
        let link = match config.link {
            None => None,
            Some(NetLink { queue, v4, v6, tx, rx }) => {
                if let Some(wrong) = not_a_guest(v4, v6) {
                    return Err(NetError::Address(wrong));
                }
                let now = Instant::now();
                Some(Link {
                    wire: Wire::new(queue).map_err(failed("Making the queue non-blocking"))?,
                    identity: Identity { mac: config.mac, v4, v6 },
                    sending: Limiter::new(tx, now),
                    receiving: Limiter::new(rx, now),
                })
            }
        };
        Ok(Self {
            mac: config.mac,
            mtu: config.mtu,
            link,
            counters: NetCounters::default(),
            poll: Poll::new().map_err(failed("Creating epoll and timer"))?,
            receiver: Receiver::new(),
            readable: false,
            held_back: false,
            changed: false,
        })
    }

    /// What counts the frames, for whoever wants to know.
    pub fn counters(&self) -> NetCounters {
        self.counters.clone()
    }

    fn send(&mut self, io: &mut DeviceIo) {
        let turn = transmit::serve(io, self.link.as_mut(), &self.counters, Instant::now());
        self.held_back = matches!(turn, Turn::Wait(_));
        self.after(turn, TX, io);
    }

    fn receive(&mut self, io: &mut DeviceIo) {
        let Some(link) = &mut self.link else { return };
        let turn = self.receiver.serve(io, link, &mut self.readable, &self.counters, Instant::now());
        self.after(turn, RX, io);
    }

    fn after(&mut self, turn: Turn, queue: usize, io: &mut DeviceIo) {
        match turn {
            Turn::Idle => {}
            Turn::More => io.kick(queue),
            Turn::Wait(time) => self.poll.arm(Instant::now() + time.clamp(NAP, MAX_WAIT)),
            Turn::Gone => {
                self.unwatch();
                self.link = None;
                // Fails only when the counter is full, and then the line is raised anyway.
                let _ = io.interrupt.signal_config();
            }
        }
    }

    /// Others may have the same description open: closing a descriptor does not end its being watched.
    fn unwatch(&mut self) {
        if let Some(link) = &self.link {
            self.poll.remove(link.wire.as_fd());
        }
        self.receiver.reset();
        self.readable = false;
    }
}

/// Longest sleep: limits so low are a mistake, and a time so far away may be none.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The one of the addresses that is good for no guest.
fn not_a_guest(v4: Ipv4Addr, v6: Ipv6Addr) -> Option<IpAddr> {
    let bad_v4 = v4.is_unspecified()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_loopback()
        || v4.is_link_local();
    let bad_v6 = v6.is_unspecified() || v6.is_multicast() || v6.is_loopback() || v6.is_unicast_link_local();
    bad_v4.then_some(v4.into()).or(bad_v6.then_some(v6.into()))
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[SIZE, SIZE]
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: mac, status, max_virtqueue_pairs (of a feature not offered), mtu.
        let status = u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or_default() * u16::from(self.link.is_some());
        let mut config = [0u8; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&status.to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.to_le_bytes());
        crate::device::copy_config(&config, offset, data);
    }

    fn activate(&mut self, io: &mut DeviceIo) -> Result<(), ActivateError> {
        if let Some(link) = &self.link {
            // What waits is reported at once.
            self.poll
                .add(link.wire.as_fd(), WIRE)
                .map_err(|source| ActivateError::System { what: "Watching the network", source })?;
        }
        if std::mem::take(&mut self.changed) {
            let _ = io.interrupt.signal_config();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.unwatch();
        self.poll.cancel();
        self.held_back = false;
    }

    fn queue_event(&mut self, index: usize, io: &mut DeviceIo) {
        if index == TX {
            self.send(io);
        } else {
            self.receiver.kicked();
            self.receive(io);
        }
    }

    fn poll_fds(&self) -> Vec<RawFd> {
        vec![self.poll.fd()]
    }

    fn poll_event(&mut self, _fd: RawFd, io: &mut DeviceIo) {
        for (token, flags) in self.poll.ready() {
            match token {
                TIMER => self.poll.disarm(),
                // An error is seen by reading. Watched by edges, it comes once.
                WIRE if flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP) => {
                    self.readable = true;
                }
                _ => {}
            }
        }
        self.receive(io);
        if self.held_back {
            self.send(io);
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net(NetState { mac: self.mac, mtu: self.mtu, up: self.link.is_some() })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreDeviceError> {
        let state = persist::check(state, self.mac)?;
        self.mtu = state.mtu;
        self.changed = state.up != self.link.is_some();
        Ok(())
    }
}
