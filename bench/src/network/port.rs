//! Where frames go in and out: a queue of a TAP device, or a packet socket on a device. Both take and give a frame
//! behind the same header in one system call, as a monitor does for its guest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use mote_particle::netlink::index_of;
use mote_particle::netns::Netns;
use mote_particle::tap::{HEADER, MAC};
use mote_particle::{Addresses, Endpoint};
use rustix::event::{PollFd, PollFlags, poll};

use super::machine::MTU;
use crate::Outcome;

/// Bound on the wait for a frame.
const LIMIT: Duration = Duration::from_secs(5);

/// After this a greeting is sent again.
const AGAIN: Duration = Duration::from_millis(2);

/// Number of a greeting.
const HELLO: u32 = u32::MAX;

/// Bytes of Ethernet, IPv4 and TCP header.
const HEADERS: u16 = 14 + 20 + 20;

/// Bytes of data in a large frame: so many that no device on the way has to cut it up.
pub const LARGE: usize = 64_000;

/// Bytes that wait at a packet socket.
const BUFFERED: usize = 16 << 20;

/// First bytes of the data in frames that are ours.
const MAGIC: &[u8; 4] = b"mote";

// linux/if_packet.h
const PACKET_VNET_HDR_SZ: libc::c_int = 24;

/// One end.
pub struct Port {
    file: File,
    mac: [u8; 6],
    address: Ipv4Addr,
    /// What keeps it.
    _owner: Option<Endpoint>,
}

impl Port {
    /// A leased endpoint.
    pub fn tap(endpoint: Endpoint) -> Outcome<Self> {
        let file = File::from(endpoint.as_fd().try_clone_to_owned()?);
        let Addresses { v4, .. } = endpoint.addresses();
        Ok(Self { file, mac: MAC, address: v4, _owner: Some(endpoint) })
    }

    /// A device in a namespace.
    pub fn device(netns: &Netns, name: &str, mac: [u8; 6], address: Ipv4Addr) -> Outcome<Self> {
        let socket = netns.run(|| packet_socket(name))??;
        Ok(Self { file: File::from(socket), mac, address, _owner: None })
    }

    /// A frame to another end with `data` bytes, which are a number and zeros. More data than one packet holds is left
    /// to be segmented.
    pub fn frame(&self, to: &Self, number: u32, data: usize) -> Outcome<Vec<u8>> {
        let mut payload = Vec::with_capacity(data);
        payload.extend(MAGIC);
        payload.extend(number.to_be_bytes());
        payload.resize(data.max(payload.len()), 0);
        let mut frame = vec![0; HEADER];
        if payload.len() + usize::from(HEADERS) - 14 > usize::from(MTU) {
            // linux/virtio_net.h: checksum wanted, TCP over IPv4, where headers end, size of a segment, where the
            // checksum is.
            frame[0] = 1;
            frame[1] = 1;
            frame[2..4].copy_from_slice(&HEADERS.to_le_bytes());
            frame[4..6].copy_from_slice(&(MTU - 40).to_le_bytes());
            frame[6..8].copy_from_slice(&34u16.to_le_bytes());
            frame[8..10].copy_from_slice(&16u16.to_le_bytes());
        }
        PacketBuilder::ethernet2(self.mac, to.mac)
            .ipv4(self.address.octets(), to.address.octets(), 64)
            .tcp(9000, 9000, number, 1024)
            .write(&mut frame, &payload)?;
        Ok(frame)
    }

    /// Sends a frame; waits while there is no room.
    pub fn send(&self, frame: &[u8]) -> Outcome<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match (&self.file).write(frame) {
                Ok(_) => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                    if Instant::now() > end {
                        return Err("A frame cannot be sent".into());
                    }
                    self.wait(PollFlags::OUT, LIMIT)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends small frames until one arrives: devices that were just made may lose some.
    pub fn reach(&self, to: &Self, buffer: &mut [u8]) -> Outcome<()> {
        let hello = self.frame(to, HELLO, 0)?;
        let end = Instant::now() + LIMIT;
        loop {
            self.send(&hello)?;
            if to.next(buffer, AGAIN)?.is_some() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err("The other end cannot be reached".into());
            }
        }
    }

    /// The number of the next frame that is ours, and its bytes of data.
    pub fn receive(&self, buffer: &mut [u8]) -> Outcome<(u32, usize)> {
        loop {
            match self.next(buffer, LIMIT)? {
                Some((HELLO, _)) => {}
                Some(frame) => return Ok(frame),
                None => return Err("No frame came".into()),
            }
        }
    }

    /// The same within a bound, greetings too.
    fn next(&self, buffer: &mut [u8], limit: Duration) -> Outcome<Option<(u32, usize)>> {
        let end = Instant::now() + limit;
        loop {
            match (&self.file).read(buffer) {
                Ok(length) => {
                    let data = buffer.get(HEADER + usize::from(HEADERS)..length).unwrap_or_default();
                    if let Some((magic, rest)) = data.split_first_chunk::<4>()
                        && magic == MAGIC
                        && let Some((number, _)) = rest.split_first_chunk::<4>()
                    {
                        return Ok(Some((u32::from_be_bytes(*number), data.len())));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() > end {
                        return Ok(None);
                    }
                    self.wait(PollFlags::IN, limit)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, flags: PollFlags, limit: Duration) -> Outcome<()> {
        let mut fds = [PollFd::new(&self.file, flags)];
        poll(&mut fds, Some(&limit.try_into()?))?;
        Ok(())
    }
}

/// A packet socket on a device of the calling thread's namespace that takes and gives frames behind a header.
fn packet_socket(name: &str) -> io::Result<OwnedFd> {
    let index = index_of(name).map_err(io::Error::other)?;
    let protocol = u16::try_from(libc::ETH_P_IP).map_err(io::Error::other)?.to_be();
    // SAFETY: makes a descriptor, which nobody else has.
    let socket = unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            // Of no device yet: being taken off all of them again would cost milliseconds.
            0,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let size = libc::c_int::try_from(HEADER).map_err(io::Error::other)?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: both calls read a value of the size given and keep no pointer to it.
    let done = unsafe {
        let fd = socket.as_raw_fd();
        let length = |bytes: usize| libc::socklen_t::try_from(bytes).unwrap_or_default();
        let set = libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            PACKET_VNET_HDR_SZ,
            std::ptr::from_ref(&size).cast(),
            length(size_of_val(&size)),
        );
        if set < 0 {
            set
        } else {
            libc::bind(fd, std::ptr::from_ref(&address).cast(), length(size_of_val(&address)))
        }
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // Or the frames of a window would be dropped.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFERED)?;
    Ok(socket)
}
