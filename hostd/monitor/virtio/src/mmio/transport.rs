//! A device behind its register window: locking, activation, events.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, EventSubscriber, Events};
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET};
use virtio_bindings::virtio_mmio as reg;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::persist::{self, QueueRecord, RestoreError, TransportState};
use super::registers::{Effect, Registers};
use crate::{DeviceIo, Interrupt, VirtioDevice};

/// `Events::data` of the device's own descriptors; queues have their index.
const DEVICE_EVENT: u32 = u32::MAX;

/// A transport cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No eventfd for a queue.
    #[error("Cannot create the event of queue {index}")]
    QueueEvent {
        /// Queue.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device asks for a queue size that does not exist.
    #[error("Queue {index} cannot have {size} entries")]
    QueueSize {
        /// Queue.
        index: usize,
        /// Entries.
        size: u16,
    },
}

/// One virtio device with its register window, queues and interrupt.
///
/// Shared as `Arc<MmioTransport>` by the bus (vCPU threads) and the `EventManager` (device thread). The interrupt
/// registers are read and written without the lock; everything else takes it, and no call under it blocks longer
/// than one bounded batch of device work.
pub struct MmioTransport {
    device_type: u32,
    poll_fds: Vec<i32>,
    queue_events: Arc<Vec<EventFd>>,
    interrupt: Arc<Interrupt>,
    mem: GuestMemoryMmap,
    inner: Mutex<Inner>,
}

/// What the lock protects.
struct Inner {
    registers: Registers,
    device: Box<dyn VirtioDevice>,
    /// Present while the device is active. The registers' queues are moved in and, by a reset, forgotten.
    io: Option<DeviceIo>,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport").field("device_type", &self.device_type).finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// Puts `device` behind a window. `irq` is raised by writing to it (a KVM irqfd).
    ///
    /// # Errors
    /// No eventfd can be had, or the device's queue sizes are not powers of two.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        mem: GuestMemoryMmap,
        irq: EventFd,
    ) -> Result<Self, TransportError> {
        let registers = Registers::new(device.as_ref())?;
        Self::assemble(device, registers, mem, Interrupt::new(irq, 0))
    }

    /// Puts a freshly made `device` behind a window in the saved state; active if it was.
    ///
    /// The caller calls [`resume`](Self::resume) once interrupts can be delivered.
    ///
    /// # Errors
    /// The state does not fit the device, the queues do not lie in `mem`, or eventfds are exhausted.
    pub fn restore(
        state: &TransportState,
        mut device: Box<dyn VirtioDevice>,
        mem: GuestMemoryMmap,
        irq: EventFd,
    ) -> Result<Self, RestoreError> {
        let registers = persist::registers(state, device.as_ref())?;
        device.restore(&state.device)?;
        let active = registers.status() & VIRTIO_CONFIG_S_DRIVER_OK != 0;
        let transport = Self::assemble(device, registers, mem, Interrupt::new(irq, state.interrupt_status))?;
        if active && state.active {
            let mut inner = transport.lock();
            let queues = persist::queues(&state.queues, &transport.mem)?;
            let mut io = transport.io(queues, inner.registers.driver_features());
            inner.device.activate(&mut io)?;
            inner.io = Some(io);
        }
        Ok(transport)
    }

    fn assemble(
        device: Box<dyn VirtioDevice>,
        registers: Registers,
        mem: GuestMemoryMmap,
        interrupt: Interrupt,
    ) -> Result<Self, TransportError> {
        let queue_events = (0..device.queue_sizes().len())
            .map(|index| {
                EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                    .map_err(|source| TransportError::QueueEvent { index, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            device_type: device.device_type(),
            poll_fds: device.poll_fds(),
            queue_events: Arc::new(queue_events),
            interrupt: Arc::new(interrupt),
            mem,
            inner: Mutex::new(Inner { registers, device, io: None }),
        })
    }

    /// Device type of the virtio specification.
    pub fn device_type(&self) -> u32 {
        self.device_type
    }

    /// One event per queue, in order, to be registered as ioeventfds at [`QUEUE_NOTIFY`](crate::QUEUE_NOTIFY) with
    /// the queue's index as a 4-byte datamatch.
    pub fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    /// The eventfd that raises the interrupt, to be registered as an irqfd.
    pub fn irq(&self) -> &EventFd {
        self.interrupt.event()
    }

    /// A vCPU read `data.len()` bytes at `offset` of the window. What is not there reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(register) = register(offset) else {
            let inner = self.lock();
            inner.device.read_config(offset.saturating_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)), data);
            return;
        };
        // Registers are 32 bits wide and accessed whole (4.2.2.2); anything else reads as zero.
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else { return };
        let value = match register {
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            other => self.lock().registers.read(other),
        };
        *word = value.to_le_bytes();
    }

    /// A vCPU wrote `data` at `offset` of the window. What cannot be written is ignored.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Some(register) = register(offset) else {
            let mut inner = self.lock();
            inner.device.write_config(offset.saturating_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)), data);
            return;
        };
        let Ok(word) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(word);
        match register {
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => self.kick(value),
            other => {
                let mut inner = self.lock();
                match inner.registers.write(other, value) {
                    Effect::None => {}
                    Effect::Reset => self.reset(&mut inner),
                    Effect::Activate => self.activate(&mut inner),
                }
            }
        }
    }

    /// State for a snapshot. vCPUs and device thread stand still meanwhile; see the crate's documentation.
    pub fn save(&self) -> TransportState {
        let inner = self.lock();
        let queues = match &inner.io {
            Some(io) => io.queues.iter().map(|queue| QueueRecord::from(queue.state())).collect(),
            None => inner.registers.queues().iter().map(|queue| QueueRecord::from(queue.state())).collect(),
        };
        persist::state(
            &inner.registers,
            inner.device.as_ref(),
            queues,
            self.interrupt.status(),
            inner.io.is_some(),
        )
    }

    /// Makes up for every event that may have been lost while the machine stood still or moved: kicks every queue
    /// and raises the interrupt once. Does nothing to a device without a driver.
    pub fn resume(&self) {
        let inner = self.lock();
        if inner.io.is_some() {
            for event in self.queue_events.iter() {
                // Fails only when the counter is full, and then the event is pending anyway.
                let _ = event.write(1);
            }
            // As above.
            let _ = self.interrupt.signal_used();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Poisoned means a bug elsewhere in this process panicked under the lock; the state is plain data that the
        // guest may scramble anyway, so going on is as safe as ever.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, queues: Vec<Queue>, features: u64) -> DeviceIo {
        DeviceIo {
            mem: self.mem.clone(),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features,
            kicks: Arc::clone(&self.queue_events),
        }
    }

    /// Has queue `index` looked at, as the driver does; nothing happens while there is none.
    pub fn kick(&self, index: u32) {
        let event = usize::try_from(index).ok().and_then(|index| self.queue_events.get(index));
        if let Some(event) = event {
            // Fails only when the counter is full, and then the event is pending anyway.
            let _ = event.write(1);
        }
    }

    fn activate(&self, inner: &mut Inner) {
        if inner.io.is_some() {
            return;
        }
        let queues = inner.registers.take_queues();
        // A queue the driver left out is allowed (it stays unused); one that lies outside memory is not.
        let sound = queues.iter().all(|queue| !queue.ready() || queue.is_valid(&self.mem));
        let mut io = self.io(queues, inner.registers.driver_features());
        if sound && inner.device.activate(&mut io).is_ok() {
            inner.io = Some(io);
            // The driver may have filled queues before it was ready; nobody kicks for those again.
            for event in self.queue_events.iter() {
                let _ = event.write(1);
            }
        } else {
            inner.registers.return_queues(io.queues);
            inner.registers.set_status(VIRTIO_CONFIG_S_NEEDS_RESET);
            let _ = self.interrupt.signal_config();
        }
    }

    fn reset(&self, inner: &mut Inner) {
        inner.io = None;
        inner.device.reset();
        inner.registers.reset(inner.device.queue_sizes());
        self.interrupt.clear();
    }
}

/// The register at `offset`, or `None` in the configuration space.
fn register(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|offset| *offset < reg::VIRTIO_MMIO_CONFIG)
}

impl EventSubscriber for MmioTransport {
    fn init(&self, ops: &mut EventOps) {
        for (data, event) in (0u32..).zip(self.queue_events.iter()) {
            // Fails only without memory in the kernel; the queue is then never served and the guest times out.
            let _ = ops.add(Events::with_data(event, data, EventSet::IN));
        }
        for fd in &self.poll_fds {
            let _ = ops.add(Events::with_data_raw(*fd, DEVICE_EVENT, EventSet::IN));
        }
    }

    fn process(&self, events: Events, _ops: &mut EventOps) {
        let mut inner = self.lock();
        let Inner { device, io, .. } = &mut *inner;
        if events.data() == DEVICE_EVENT {
            if let Some(io) = io {
                device.poll_event(events.fd(), io);
            }
            return;
        }
        let Ok(index) = usize::try_from(events.data()) else { return };
        if let Some(event) = self.queue_events.get(index) {
            debug_assert_eq!(event.as_raw_fd(), events.fd());
            // Drained before the queue is looked at: a kick that comes later is an event of its own. It may find
            // nothing (EAGAIN) when two wakeups met.
            let _ = event.read();
            if let Some(io) = io {
                device.queue_event(index, io);
            }
        }
    }
}
