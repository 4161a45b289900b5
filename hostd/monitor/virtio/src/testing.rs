//! A guest driver for tests: it goes through the registers and rings as Linux does, event index included, and can
//! put anything into them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use event_manager::{EventManager, SubscriberOps};
use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{MmioTransport, TransportState, VirtioDevice};

/// Guest memory: two regions that touch, so that buffers can lie across the seam.
pub const MEMORY: u64 = 16 << 20;
/// Where the seam is.
pub const SEAM: u64 = 8 << 20;
/// Where tests may put buffers.
pub const BUFFERS: u64 = 1 << 20;

const RING_STRIDE: u64 = 0x10000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x4000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A buffer of a chain: guest address, length, written by the device.
pub type Piece = (u64, u32, bool);

#[derive(Clone, Debug)]
pub struct Ring {
    pub base: u64,
    pub size: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    avail: u16,
    kicked: u16,
    used: u16,
}

impl Ring {
    /// Chains made available so far, modulo 2^16.
    pub fn available(&self) -> u16 {
        self.avail
    }
}

pub struct Machine {
    pub mem: GuestMemoryMmap,
    pub transport: Arc<MmioTransport>,
    pub rings: Vec<Ring>,
    pub event_idx: bool,
    irq: EventFd,
    manager: EventManager<Arc<MmioTransport>>,
}

/// What a snapshot holds: state, memory, and what the guest's driver knows.
pub struct Image {
    pub state: TransportState,
    pub memory: Vec<u8>,
    rings: Vec<Ring>,
    event_idx: bool,
}

pub fn memory() -> GuestMemoryMmap {
    let half = usize::try_from(SEAM).unwrap();
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), half), (GuestAddress(SEAM), half)]).unwrap()
}

impl Machine {
    /// A device without a driver.
    pub fn unprobed(device: Box<dyn VirtioDevice>) -> Self {
        let mem = memory();
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport = MmioTransport::new(device, mem.clone(), irq.try_clone().unwrap()).unwrap();
        Self::assemble(mem, irq, transport)
    }

    /// A device whose driver is ready and took every feature.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let mut machine = Self::unprobed(device);
        machine.probe(u64::MAX);
        machine
    }

    fn assemble(mem: GuestMemoryMmap, irq: EventFd, transport: MmioTransport) -> Self {
        let transport = Arc::new(transport);
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(Arc::clone(&transport));
        Self { mem, transport, rings: Vec::new(), event_idx: false, irq, manager }
    }

    pub fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, register: u32, value: u32) {
        self.transport.write(u64::from(register), &value.to_le_bytes());
    }

    /// What Linux does to a device, with the features in `mask`.
    pub fn probe(&mut self, mask: u64) {
        assert_eq!(self.read(reg::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
        assert_eq!(self.read(reg::VIRTIO_MMIO_VERSION), 2);
        self.write(reg::VIRTIO_MMIO_STATUS, 0);
        self.write(reg::VIRTIO_MMIO_STATUS, 1);
        self.write(reg::VIRTIO_MMIO_STATUS, 3);
        let mut features = 0;
        for half in [0u32, 1] {
            self.write(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            features |= u64::from(self.read(reg::VIRTIO_MMIO_DEVICE_FEATURES)) << (32 * half);
        }
        let features = (features & mask) | 1 << 32;
        for half in [0u32, 1] {
            self.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, ((features >> (32 * half)) & 0xffff_ffff) as u32);
        }
        self.write(reg::VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.read(reg::VIRTIO_MMIO_STATUS), 11);
        self.event_idx = features & 1 << 29 != 0;
        self.rings.clear();
        let count = self.transport.queue_events().len();
        for index in 0..u32::try_from(count).unwrap() {
            self.write(reg::VIRTIO_MMIO_QUEUE_SEL, index);
            let size = self.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX);
            self.write(reg::VIRTIO_MMIO_QUEUE_NUM, size);
            let base = RING_STRIDE * u64::from(index + 1);
            self.mem.write_slice(&vec![0; 0x8000], GuestAddress(base)).unwrap();
            for (low, at) in [
                (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, base),
                (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + AVAIL),
                (reg::VIRTIO_MMIO_QUEUE_USED_LOW, base + USED),
            ] {
                self.write(low, at as u32);
                self.write(low + 4, (at >> 32) as u32);
            }
            self.write(reg::VIRTIO_MMIO_QUEUE_READY, 1);
            assert_eq!(self.read(reg::VIRTIO_MMIO_QUEUE_READY), 1);
            let size = u16::try_from(size).unwrap();
            let free = (0..size).rev().collect();
            self.rings.push(Ring { base, size, free, chains: HashMap::new(), avail: 0, kicked: 0, used: 0 });
        }
        self.write(reg::VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.read(reg::VIRTIO_MMIO_STATUS), 15);
    }

    /// Writes a descriptor.
    pub fn describe(&self, queue: usize, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        put_descriptor(&self.mem, self.rings[queue].base + 16 * u64::from(index), addr, len, flags, next);
    }

    /// Makes a chain available and returns its head, or `None` if the ring is full.
    pub fn add(&mut self, queue: usize, pieces: &[Piece]) -> Option<u16> {
        let ring = &mut self.rings[queue];
        if ring.free.len() < pieces.len() {
            return None;
        }
        let at = ring.free.len() - pieces.len();
        let chain: Vec<u16> = ring.free.split_off(at);
        let head = chain[0];
        ring.chains.insert(head, chain.clone());
        for (i, (addr, len, write)) in pieces.iter().enumerate() {
            let next = chain.get(i + 1).copied();
            let flags = if *write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.describe(queue, chain[i], *addr, *len, flags, next.unwrap_or(0));
        }
        self.publish(queue, head);
        Some(head)
    }

    /// Puts any head at all into the available ring.
    pub fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.base + AVAIL + 4 + 2 * u64::from(ring.avail % ring.size);
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        self.mem.store(ring.avail, GuestAddress(ring.base + AVAIL + 2), Ordering::Release).unwrap();
    }

    /// Kicks unless the device does not want it; returns whether it did.
    pub fn kick(&mut self, queue: usize) -> bool {
        let ring = &mut self.rings[queue];
        fence(Ordering::SeqCst);
        let (new, old) = (ring.avail, ring.kicked);
        ring.kicked = new;
        let wanted = if self.event_idx {
            let at = ring.base + USED + 4 + 8 * u64::from(ring.size);
            let event: u16 = self.mem.load(GuestAddress(at), Ordering::Acquire).unwrap();
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags: u16 = self.mem.load(GuestAddress(ring.base + USED), Ordering::Acquire).unwrap();
            flags & 1 == 0
        };
        if wanted {
            self.notify(queue);
        }
        wanted
    }

    /// Kicks.
    pub fn notify(&self, queue: usize) {
        self.write(reg::VIRTIO_MMIO_QUEUE_NOTIFY, u32::try_from(queue).unwrap());
    }

    /// The next used chain: head and bytes written.
    pub fn take(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.mem.load(GuestAddress(ring.base + USED + 2), Ordering::Acquire).unwrap();
        if index == ring.used {
            return None;
        }
        let at = ring.base + USED + 4 + 8 * u64::from(ring.used % ring.size);
        let id: u32 = self.mem.read_obj(GuestAddress(at)).unwrap();
        let len: u32 = self.mem.read_obj(GuestAddress(at + 4)).unwrap();
        ring.used = ring.used.wrapping_add(1);
        // used_event: interrupt me at the next one.
        let at = ring.base + AVAIL + 4 + 2 * u64::from(ring.size);
        self.mem.store(ring.used, GuestAddress(at), Ordering::Release).unwrap();
        let head = u16::try_from(id).unwrap();
        ring.free.extend(ring.chains.remove(&head).unwrap_or_default().iter().rev());
        Some((head, len))
    }

    /// Lets the device thread work until it is idle, waiting `wait` ms for the first event.
    pub fn pump(&mut self, wait: i32) {
        let mut wait = wait;
        for _ in 0..10_000 {
            if self.manager.run_with_timeout(wait).unwrap() == 0 {
                return;
            }
            wait = 0;
        }
        panic!("The device thread never comes to rest");
    }

    /// One round of the device thread.
    pub fn step(&mut self, wait: i32) -> usize {
        self.manager.run_with_timeout(wait).unwrap()
    }

    /// Takes a pending interrupt as the guest's handler would: status read and acknowledged.
    pub fn interrupt(&mut self) -> Option<u32> {
        self.irq.read().ok()?;
        let status = self.read(reg::VIRTIO_MMIO_INTERRUPT_STATUS);
        self.write(reg::VIRTIO_MMIO_INTERRUPT_ACK, status);
        Some(status)
    }

    /// Adds a chain, kicks, and waits for it: bytes written by the device.
    pub fn call(&mut self, queue: usize, pieces: &[Piece]) -> u32 {
        let head = self.add(queue, pieces).unwrap();
        self.kick(queue);
        self.pump(0);
        let (used, len) = self.take(queue).expect("chain was not used");
        assert_eq!(used, head);
        assert!(self.interrupt().is_some(), "no interrupt");
        len
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    pub fn snapshot(&self) -> Image {
        Image {
            state: self.transport.save(),
            memory: self.get(0, usize::try_from(MEMORY).unwrap()),
            rings: self.rings.clone(),
            event_idx: self.event_idx,
        }
    }

    /// Goes on from `image` with a new device, in a new machine.
    pub fn restore(image: &Image, device: Box<dyn VirtioDevice>) -> Self {
        let mem = memory();
        mem.write_slice(&image.memory, GuestAddress(0)).unwrap();
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport =
            MmioTransport::restore(&image.state, device, mem.clone(), irq.try_clone().unwrap()).unwrap();
        let mut machine = Self::assemble(mem, irq, transport);
        machine.rings.clone_from(&image.rings);
        machine.event_idx = image.event_idx;
        machine.transport.resume();
        machine
    }
}

/// Writes a descriptor anywhere.
pub fn put_descriptor(mem: &GuestMemoryMmap, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
    mem.write_obj(addr, GuestAddress(at)).unwrap();
    mem.write_obj(len, GuestAddress(at + 8)).unwrap();
    mem.write_obj(flags, GuestAddress(at + 12)).unwrap();
    mem.write_obj(next, GuestAddress(at + 14)).unwrap();
}

/// Open descriptors of this process that refer to `what`, or all of them.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs an ignored test in a process of its own, where no other test opens anything; it has to pass.
pub fn passes_alone(name: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
