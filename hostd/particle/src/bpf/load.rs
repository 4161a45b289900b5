//! Programs and maps in the kernel, by bpf(2).

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::insn::Insn;

// Commands, types and flags of linux/bpf.h.
const MAP_CREATE: c_long = 0;
const PROG_LOAD: c_long = 5;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const LINK_CREATE: c_long = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const F_MMAPABLE: u32 = 1 << 10;

/// Bytes between two entries of an array: values are padded to it.
const STRIDE: usize = 8;

/// What the verifier may say about a program it refuses.
const COMPLAINT_BYTES: usize = 16 * 1024;

/// The kernel did not take a program or a map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BpfError {
    /// A program.
    #[error("Cannot load the eBPF program {name} ({complaint})")]
    Load {
        /// Which.
        name: &'static str,
        /// The last line of the verifier's.
        complaint: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A map.
    #[error("Cannot make an eBPF map of {entries} entries")]
    Map {
        /// Its size.
        entries: u16,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An entry of a map.
    #[error("Cannot change an entry of an eBPF map")]
    Entry(#[source] io::Error),
    /// A hook of a cgroup.
    #[error("Cannot attach the eBPF program {name} to a cgroup")]
    Cgroup {
        /// Which.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A hook.
    #[error("Cannot attach an eBPF program to device {index}")]
    Attach {
        /// Number of the device.
        index: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    SocketFilter = 1,
    /// Traffic control; also for TCX hooks.
    Classifier = 3,
    /// Packets of a cgroup's sockets.
    CgroupPacket = 8,
    /// Sockets a cgroup makes.
    CgroupSocket = 9,
    /// Addresses a cgroup's sockets are bound to, connected to, or send to.
    CgroupAddress = 18,
}

/// A program in the kernel.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    hook: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkAttributes {
    program: u32,
    index: u32,
    attach: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct CgroupAttributes {
    cgroup: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

/// A command; what it answers.
pub(super) fn command<T>(command: c_long, attributes: &mut T) -> io::Result<c_long> {
    // SAFETY: `attributes` is a structure of linux/bpf.h for this command, of the length given; what it points to is
    // borrowed by the callers for longer than the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A command that answers with a new descriptor.
fn bpf<T>(number: c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(command(number, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the commands used here answer with a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map of values of a fixed size.
pub(super) fn map(
    kind: u32,
    [key_size, value_size]: [u32; 2],
    entries: u16,
    flags: u32,
) -> io::Result<OwnedFd> {
    let entries = u32::from(entries);
    bpf(MAP_CREATE, &mut MapAttributes { kind, key_size, value_size, entries, flags })
}

/// An address as structures of linux/bpf.h have it.
pub(super) fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// A descriptor as structures of linux/bpf.h have it.
pub(super) fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

impl Program {
    /// Loads a program.
    pub(super) fn load(name: &'static str, kind: Kind, insns: &[Insn]) -> Result<Self, BpfError> {
        Self::load_for(name, kind, 0, insns)
    }

    /// Loads a program for one kind of hook.
    pub(super) fn load_for(
        name: &'static str,
        kind: Kind,
        hook: u32,
        insns: &[Insn],
    ) -> Result<Self, BpfError> {
        // The verifier is asked for its reasons only when it refuses: they cost more than the check.
        match Self::attempt(name, kind, hook, insns, &mut []) {
            Ok(program) => Ok(program),
            Err(source) => {
                let mut log = vec![0; COMPLAINT_BYTES];
                match Self::attempt(name, kind, hook, insns, &mut log) {
                    Ok(program) => Ok(program),
                    Err(_) => Err(BpfError::Load { name, complaint: complaint(&log), source }),
                }
            }
        }
    }

    fn attempt(name: &str, kind: Kind, hook: u32, insns: &[Insn], log: &mut [u8]) -> io::Result<Self> {
        // None of the helpers used asks for a license of the kernel's kind.
        let license = CString::from(c"Apache-2.0");
        let mut attributes = LoadAttributes {
            kind: kind as u32,
            count: u32::try_from(insns.len()).unwrap_or(u32::MAX),
            insns: address(insns.as_ptr()),
            license: address(license.as_ptr()),
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).unwrap_or(0),
            log: if log.is_empty() { 0 } else { address(log.as_mut_ptr()) },
            hook,
            ..LoadAttributes::default()
        };
        // The last byte stays zero.
        for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        bpf(PROG_LOAD, &mut attributes).map(Self)
    }

    /// Attaches the program to a hook of a device in the calling thread's namespace. It stays until the link, or the
    /// device, is gone.
    pub(super) fn attach(&self, index: u32, hook: u32) -> Result<OwnedFd, BpfError> {
        let mut attributes = LinkAttributes {
            program: descriptor(self.as_fd()),
            index,
            attach: hook,
            ..LinkAttributes::default()
        };
        bpf(LINK_CREATE, &mut attributes).map_err(|source| BpfError::Attach { index, source })
    }

    /// Attaches the program to a cgroup and those below it, instead of what may be attached there. It stays until the
    /// cgroup is gone, whatever becomes of this process, or until [`detach_from`](Self::detach_from).
    pub(super) fn attach_to(&self, cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<()> {
        command(PROG_ATTACH, &mut self.at(cgroup, hook)).map(drop)
    }

    /// Takes the program away from a cgroup.
    pub(super) fn detach_from(&self, cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<()> {
        command(PROG_DETACH, &mut self.at(cgroup, hook)).map(drop)
    }

    fn at(&self, cgroup: BorrowedFd<'_>, hook: u32) -> CgroupAttributes {
        let (cgroup, program) = (descriptor(cgroup), descriptor(self.as_fd()));
        CgroupAttributes { cgroup, program, hook, flags: 0 }
    }
}

/// The last line that says something.
fn complaint(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let mut lines = text.lines().rev().filter(|line| !line.is_empty() && !line.starts_with("processed "));
    lines.next().unwrap_or("no reason given").to_owned()
}

/// An array of numbers that both programs and this process see; changing one costs no system call.
#[derive(Debug)]
pub(super) struct Array {
    fd: OwnedFd,
    memory: *mut std::ffi::c_void,
    bytes: usize,
    entries: u16,
}

// SAFETY: the mapping belongs to this value alone, and is only accessed atomically.
unsafe impl Send for Array {}
// SAFETY: as above.
unsafe impl Sync for Array {}

impl Array {
    /// An array of zeros.
    pub(super) fn new(entries: u16) -> Result<Self, BpfError> {
        let failed = |source| BpfError::Map { entries, source };
        let fd = map(MAP_TYPE_ARRAY, [4, 4], entries, F_MMAPABLE).map_err(failed)?;
        let page = rustix::param::page_size();
        let bytes = (usize::from(entries) * STRIDE).next_multiple_of(page);
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing else is touched.
        let memory = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0)
        }
        .map_err(|errno| failed(errno.into()))?;
        Ok(Self { fd, memory, bytes, entries })
    }

    /// The descriptor as a program's instruction has it.
    pub(super) fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Changes an entry; one past the end is left out.
    pub(super) fn set(&self, entry: u16, value: u32) {
        if entry >= self.entries {
            return;
        }
        // SAFETY: the mapping holds `entries` values, `STRIDE` bytes apart, and lives as long as `self`; programs read
        // them as single words.
        let cell = unsafe { &*self.memory.byte_add(usize::from(entry) * STRIDE).cast::<AtomicU32>() };
        cell.store(value, Ordering::Release);
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and nothing borrowed from it outlives `self`.
        // It fails only for a range that is no mapping.
        let _ = unsafe { munmap(self.memory, self.bytes) };
    }
}
