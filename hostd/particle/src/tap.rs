//! A TAP device with a queue per endpoint: one descriptor each, all opened in advance.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rtnetlink::LinkUnspec;

use crate::bpf::{self, BpfError, Guard, Permitted, Program, Shortcut};
use crate::netlink::{Netlink, NetlinkError, index_of};
use crate::plan::{ENDPOINTS_PER_TAP, Layout, TapPlan};
use crate::sysctl::{self, SysctlError};

const TUN: &str = "/dev/net/tun";

/// Hardware address of every TAP device and of every guest's network device: neither asks for the other's, as a device
/// without ARP takes its own address for its neighbours'. So a snapshot fits behind every queue.
pub const MAC: [u8; 6] = [0x02, 0x6d, 0x6f, 0x74, 0x65, 0x00];

/// Bytes before each frame: `struct virtio_net_hdr_v1`.
pub const HEADER: usize = 12;

/// Frames that wait for one endpoint. With segmentation left to the receiver each may hold 64 KiB.
const WAITING: u32 = 128;

/// Frames thrown away at once from a queue that changes hands: more than wait in it.
const STALE: u32 = 4 * WAITING;

// Flags and features of linux/if_tun.h.
const TAP: i32 = 0x0002;
const NO_PI: i32 = 0x1000;
const VNET_HDR: i32 = 0x4000;
const MULTI_QUEUE: i32 = 0x0100;
const CSUM: libc::c_ulong = 0x01;
const TSO4: libc::c_ulong = 0x02;
const TSO6: libc::c_ulong = 0x04;

// Calls of linux/if_tun.h.
const SET_IFF: libc::c_ulong = 0x4004_54ca;
const SET_OFFLOAD: libc::c_ulong = 0x4004_54d0;
const SET_HEADER: libc::c_ulong = 0x4004_54d8;
const SET_STEERING: libc::c_ulong = 0x8004_54e0;
const SET_FILTER: libc::c_ulong = 0x8004_54e1;

/// A TAP device that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// There are no TAP devices.
    #[error("Cannot open {TUN}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("Cannot {what} of {name}")]
    Device {
        /// What was asked for.
        what: &'static str,
        /// The device.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Programs.
    #[error("Cannot guard {name}")]
    Guard {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: BpfError,
    },
    /// The kernel does not let a program choose the queue.
    #[error("Cannot set the steering of {name}")]
    Steering {
        /// The device.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Its settings.
    #[error("Cannot keep foreign sources out of {name}")]
    Sources {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: SysctlError,
    },
    /// Address, size, state.
    #[error("Cannot configure {name}")]
    Configure {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// What keeps packets with a foreign source from a device's endpoints out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Programs that know the address of each queue; they also keep frames away from queues nobody holds.
    Programs,
    /// The kernel's reverse path filter. It knows only IPv4, and devices of one endpoint: of IPv6 the check of the
    /// endpoint's holder, the monitor, is the only one. Frames to nobody wait, until the queue is full or leased.
    Routes,
}

/// A device with its queues.
#[derive(Debug)]
pub struct Tap {
    name: String,
    index: u32,
    plan: TapPlan,
    queues: Vec<File>,
    guards: Option<Guards>,
}

#[derive(Debug)]
struct Guards {
    permitted: Permitted,
    /// Of a device whose addresses are known.
    _incoming: Option<Guard>,
}

impl Guards {
    fn place(queue: &File, index: u32) -> Result<Self, BpfError> {
        let permitted = Permitted::none(ENDPOINTS_PER_TAP)?;
        let program = bpf::guard_out(&permitted)?;
        set_program(queue, SET_FILTER, &program).map_err(|source| BpfError::Attach { index, source })?;
        Ok(Self { permitted, _incoming: None })
    }
}

impl Tap {
    /// Makes the device of a plan in the calling thread's namespace, opens its queues, and brings it up. Nothing may be
    /// sent by it before it is [addressed](Self::address). A device whose queues are shared out by a program needs
    /// programs for the sources too.
    ///
    /// # Errors
    /// When the kernel has no TAP devices, or no eBPF steering or TCX where the plan needs them.
    pub fn create(plan: &TapPlan, mtu: u32, sources: Sources, netlink: &Netlink) -> Result<Self, TapError> {
        let name = format!("tap{}", plan.number);
        let guarded = |source| TapError::Guard { name: name.clone(), source };
        let configured = |source| TapError::Configure { name: name.clone(), source };
        let first = open_queue(&name, plan.layout)?;
        call(&first, SET_HEADER, &mut i32::try_from(HEADER).unwrap_or_default(), "set the header", &name)?;
        set_offload(&first, &name)?;
        let index = index_of(&name).map_err(configured)?;
        match plan.layout {
            Layout::Shared => {
                let steering = bpf::steer().map_err(guarded)?;
                set_program(&first, SET_STEERING, &steering)
                    .map_err(|source| TapError::Steering { name: name.clone(), source })?;
            }
            Layout::Own => {
                sysctl::strict(&name).map_err(|source| TapError::Sources { name: name.clone(), source })?
            }
        }
        let guards = match sources {
            Sources::Programs => Some(Guards::place(&first, index).map_err(guarded)?),
            Sources::Routes => None,
        };
        // Before the other queues are opened, which take their length from the device.
        let link = LinkUnspec::new_with_index(index)
            .address(MAC.to_vec())
            .arp(false)
            .mtu(mtu)
            .txqueuelen(WAITING)
            .up()
            .build();
        // A queue for every queue before the endpoints' own would only take memory.
        netlink.set_queueing(index, "noqueue").map_err(configured)?;
        netlink.set_link("bring up a TAP device", link).map_err(configured)?;
        let mut queues = vec![first];
        while queues.len() < usize::from(plan.queues) {
            queues.push(open_queue(&name, plan.layout)?);
        }
        Ok(Self { name, index, plan: *plan, queues, guards })
    }

    /// Makes known which addresses its endpoints have: from here on they, and no others, are their frames' sources. To be
    /// called in its namespace.
    ///
    /// # Errors
    /// When the kernel does not take the program.
    pub fn address(&mut self, plan: &TapPlan) -> Result<(), TapError> {
        if let Some(guards) = &mut self.guards {
            let guarded = |source| TapError::Guard { name: self.name.clone(), source };
            // Whom the source check lets through may send to anybody here: the filter would say the same.
            let shortcut = match plan.layout {
                Layout::Shared => Some(Shortcut { index: self.index, reserved: plan.reserved() }),
                Layout::Own => None,
            };
            let program = bpf::guard_in(plan.first, shortcut).map_err(guarded)?;
            let guard = Guard::place(&program, self.index).map_err(guarded)?;
            guards._incoming = Some(guard);
        }
        self.plan = *plan;
        Ok(())
    }

    /// What it was made for.
    pub fn plan(&self) -> &TapPlan {
        &self.plan
    }

    /// The device's name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's number in its namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Lets a queue be used: from now on frames are sent to it. What an earlier owner left in it is thrown away.
    ///
    /// # Errors
    /// When there is no such queue, or no descriptor left.
    pub fn open(&self, queue: u16) -> io::Result<OwnedFd> {
        let file = self.queues.get(usize::from(queue)).ok_or(io::ErrorKind::NotFound)?;
        let fd = file.try_clone()?.into();
        discard(file);
        if let Some(guards) = &self.guards {
            guards.permitted.permit(self.last_byte(queue));
        }
        Ok(fd)
    }

    /// Nothing is sent to the queue any more, and what waits in it is thrown away.
    pub fn close(&self, queue: u16) {
        if let Some(guards) = &self.guards {
            guards.permitted.forbid(self.last_byte(queue));
        }
        if let Some(file) = self.queues.get(usize::from(queue)) {
            discard(file);
        }
    }

    /// Of a queue's addresses: what programs know it by.
    fn last_byte(&self, queue: u16) -> u16 {
        let [.., first] = self.plan.first.v4.octets();
        u16::from(first) + queue
    }
}

/// Reads until nothing is left, within a bound.
fn discard(mut queue: &File) {
    // The kernel throws the rest of a frame away.
    let mut byte = [0; HEADER + 1];
    for _ in 0..STALE {
        match queue.read(&mut byte) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
}

/// `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    padding: [u8; 22],
}

/// Opens another queue of the device, which is made with the first.
fn open_queue(name: &str, layout: Layout) -> Result<File, TapError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(TapError::Open)?;
    let many = match layout {
        Layout::Shared => MULTI_QUEUE,
        Layout::Own => 0,
    };
    let flags = i16::try_from(TAP | NO_PI | VNET_HDR | many).unwrap_or_default();
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, padding: [0; 22] };
    for (to, from) in request.name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from;
    }
    call(&file, SET_IFF, &mut request, "open a queue", name)?;
    Ok(file)
}

/// Checksums and segmentation are the receiver's: within one machine nobody needs them.
fn set_offload(queue: &File, name: &str) -> Result<(), TapError> {
    // SAFETY: this call takes its argument by value, and no pointer.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), SET_OFFLOAD, CSUM | TSO4 | TSO6) };
    answered(done, "set the offloads", name)
}

/// Lets a program choose the queue of frames, or which are taken at all.
fn set_program(queue: &File, request: libc::c_ulong, program: &Program) -> io::Result<()> {
    let mut descriptor = program.as_fd().as_raw_fd();
    // SAFETY: this call reads a descriptor's number, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), request, &raw mut descriptor) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn call<T>(
    queue: &File,
    request: libc::c_ulong,
    argument: &mut T,
    what: &'static str,
    name: &str,
) -> Result<(), TapError> {
    // SAFETY: the calls made here read a structure of the type given, and keep no pointer to it; TUNSETIFF writes the
    // device's name into it.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    answered(done, what, name)
}

fn answered(done: i32, what: &'static str, name: &str) -> Result<(), TapError> {
    if done < 0 {
        let source = io::Error::last_os_error();
        return Err(TapError::Device { what, name: name.to_owned(), source });
    }
    Ok(())
}
