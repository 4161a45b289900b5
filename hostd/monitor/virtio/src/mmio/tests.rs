use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use virtio_bindings::virtio_mmio as reg;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::testing::{BUFFERS, MEMORY, Machine, memory};
use crate::{DeviceIo, DeviceState, RestoreDeviceError, Rng, VirtioDevice};

const STATUS: u32 = reg::VIRTIO_MMIO_STATUS;

fn fresh() -> Machine {
    Machine::unprobed(Box::new(Rng::new()))
}

/// Status after these writes to a device whose driver accepts `features`.
fn status_after(writes: &[u32], features: u64) -> u32 {
    let machine = fresh();
    for &value in writes {
        if value == 11 {
            machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
            machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, features as u32);
            machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
            machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, (features >> 32) as u32);
        }
        machine.write(STATUS, value);
    }
    machine.read(STATUS)
}

#[test]
fn status_goes_step_by_step() {
    const V1: u64 = 1 << 32;
    assert_eq!(status_after(&[1, 3, 11], V1), 11);
    assert_eq!(status_after(&[1, 3, 11], 0), 3, "without VERSION_1");
    assert_eq!(status_after(&[1, 3, 11], V1 | 1 << 50), 3, "a feature nobody offered");
    assert_eq!(status_after(&[11], V1), 3, "features are accepted by a driver, not before");
    assert_eq!(status_after(&[3, 11], V1), 11);
    assert_eq!(status_after(&[2], V1), 0);
    assert_eq!(status_after(&[1, 5], V1), 1, "ready before anything was negotiated");
    assert_eq!(status_after(&[1, 3, 1], V1), 3, "bits are not taken back");
    assert_eq!(status_after(&[1, 0x41], V1), 1, "only the device asks for a reset");
    assert_eq!(status_after(&[1, 0x81, 0x83], V1), 0x81, "nothing goes on after a failure");
    assert_eq!(status_after(&[1, 3, 0], V1), 0);
}

#[test]
fn registers_read_as_specified() {
    let machine = fresh();
    assert_eq!(machine.read(reg::VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_CONFIG_GENERATION), 0);
    machine.write(reg::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0, "no such queue");
    machine.write(reg::VIRTIO_MMIO_QUEUE_SEL, u32::MAX);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_QUEUE_READY), 0);
    machine.write(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_DEVICE_FEATURES), 0);
    // Not 32 bits wide, not aligned: zeros, and no effect.
    let mut data = [0xff; 8];
    machine.transport.read(0, &mut data);
    assert_eq!(data, [0; 8]);
    machine.transport.write(u64::from(STATUS), &[1]);
    machine.transport.write(u64::from(STATUS) + 1, &[1, 0, 0, 0]);
    assert_eq!(machine.read(STATUS), 0);
}

#[test]
fn queues_are_set_up_between_features_and_ready_only() {
    let mut machine = fresh();
    machine.write(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(machine.read(reg::VIRTIO_MMIO_QUEUE_READY), 0, "before the features are settled");
    machine.probe(u64::MAX);
    let before = machine.transport.save();
    machine.write(reg::VIRTIO_MMIO_QUEUE_NUM, 2);
    machine.write(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x5000);
    machine.write(reg::VIRTIO_MMIO_QUEUE_READY, 0);
    machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 0);
    assert_eq!(machine.transport.save().queues, before.queues);
    assert_eq!(machine.transport.save().driver_features, before.driver_features);
}

#[test]
fn a_queue_outside_memory_makes_the_device_ask_for_a_reset() {
    let mut machine = fresh();
    for status in [1, 3] {
        machine.write(STATUS, status);
    }
    machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    machine.write(STATUS, 11);
    machine.write(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, u32::try_from(MEMORY).unwrap() - 16);
    machine.write(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
    machine.write(reg::VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
    machine.write(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    machine.write(STATUS, 15);
    assert_eq!(machine.read(STATUS), 15 | 0x40);
    assert_eq!(machine.interrupt(), Some(2), "a configuration interrupt");
    machine.notify(0);
    machine.pump(0);
    let image = machine.snapshot();
    let mut machine = Machine::restore(&image, Box::new(Rng::new()));
    assert_eq!(machine.transport.save(), image.state);
    machine.probe(u64::MAX);
    assert_eq!(machine.call(0, &[(BUFFERS, 8, true)]), 8);
}

#[test]
fn works_without_the_event_index() {
    let mut machine = fresh();
    machine.probe(0);
    assert!(!machine.event_idx);
    for _ in 0..200 {
        assert_eq!(machine.call(0, &[(BUFFERS, 8, true)]), 8);
    }
}

#[test]
fn works_when_indices_wrap() {
    let mut machine = fresh();
    machine.probe(u64::MAX);
    for i in 0..70_000u32 {
        assert_eq!(machine.call(0, &[(BUFFERS, 1, true)]), 1, "{i}");
    }
}

#[test]
fn a_half_probed_device_is_restored_half_probed() {
    let mut machine = fresh();
    machine.write(STATUS, 1);
    machine.write(STATUS, 3);
    machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    machine.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    machine.write(STATUS, 11);
    machine.write(reg::VIRTIO_MMIO_QUEUE_NUM, 16);
    let image = machine.snapshot();
    machine = Machine::restore(&image, Box::new(Rng::new()));
    assert_eq!(machine.transport.save(), image.state);
    assert!(machine.interrupt().is_none(), "nobody to interrupt");
    machine.probe(u64::MAX);
    assert_eq!(machine.call(0, &[(BUFFERS, 8, true)]), 8);
}

#[test]
fn state_is_the_same_after_a_restore() {
    let mut machine = fresh();
    machine.probe(u64::MAX);
    machine.call(0, &[(BUFFERS, 8, true)]);
    let image = machine.snapshot();
    let again = Machine::restore(&image, Box::new(Rng::new())).transport.save();
    // One interrupt is raised in case one was lost.
    assert_eq!(TransportState { interrupt_status: image.state.interrupt_status, ..again }, image.state);
}

/// A device that is busy until it is told not to be, at most ten seconds.
struct Busy {
    begun: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl VirtioDevice for Busy {
    fn device_type(&self) -> u32 {
        4
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[8]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    fn queue_event(&mut self, _index: usize, _io: &mut DeviceIo) {
        self.begun.store(true, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_secs(10);
        while !self.over.load(Ordering::SeqCst) && Instant::now() < end {
            std::thread::yield_now();
        }
    }
    fn save(&self) -> DeviceState {
        DeviceState::Rng(crate::rng::RngState::default())
    }
    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreDeviceError> {
        Ok(())
    }
}

#[test]
fn interrupts_are_acknowledged_while_the_device_is_busy() {
    let (begun, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut machine = Machine::new(Box::new(Busy { begun: Arc::clone(&begun), over: Arc::clone(&over) }));
    machine.notify(0);
    let transport = Arc::clone(&machine.transport);
    let worker = std::thread::spawn(move || machine.step(100));
    while !begun.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let mut data = [0; 4];
    transport.read(u64::from(reg::VIRTIO_MMIO_INTERRUPT_STATUS), &mut data);
    transport.write(u64::from(reg::VIRTIO_MMIO_INTERRUPT_ACK), &[1, 0, 0, 0]);
    transport.write(QUEUE_NOTIFY, &[0; 4]);
    assert!(!worker.is_finished(), "a vCPU waited for the device");
    over.store(true, Ordering::SeqCst);
    worker.join().unwrap();
}

#[test]
fn a_size_that_is_no_size_is_refused() {
    struct Odd;
    impl VirtioDevice for Odd {
        fn device_type(&self) -> u32 {
            1
        }
        fn queue_sizes(&self) -> &'static [u16] {
            &[16, 3]
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn queue_event(&mut self, _index: usize, _io: &mut DeviceIo) {}
        fn save(&self) -> DeviceState {
            DeviceState::Rng(crate::rng::RngState::default())
        }
        fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreDeviceError> {
            Ok(())
        }
    }
    let made = MmioTransport::new(Box::new(Odd), memory(), EventFd::new(0).unwrap());
    assert!(matches!(made, Err(TransportError::QueueSize { index: 1, size: 3 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any accesses to the window, kicks and turns of the device thread in between: no panic, and a proper driver can
    /// always take over.
    #[test]
    fn hostile_registers_do_no_harm(
        accesses in prop::collection::vec(
            (
                prop_oneof![
                    8 => (0u64..0x40).prop_map(|i| i * 4),
                    4 => Just(u64::from(STATUS)),
                    1 => 0u64..0x1000,
                    1 => any::<u64>(),
                ],
                prop_oneof![0u32..16, Just(0x8000), any::<u32>()],
                prop_oneof![10 => Just(4usize), 1 => 0usize..9],
                any::<bool>(),
            ),
            0..200,
        ),
    ) {
        let mut machine = fresh();
        for (offset, value, len, write) in accesses {
            let mut data = u64::from(value).to_le_bytes();
            if write {
                machine.transport.write(offset, &data[..len]);
            } else {
                machine.transport.read(offset, &mut data[..len]);
            }
            machine.step(0);
        }
        // A state that a device can be in is one it can be restored to.
        let state = machine.transport.save();
        let again = MmioTransport::restore(&state, Box::new(Rng::new()), memory(), EventFd::new(0).unwrap());
        prop_assert_eq!(again.unwrap().save(), state);
        machine.probe(u64::MAX);
        while machine.interrupt().is_some() {}
        prop_assert_eq!(machine.call(0, &[(BUFFERS, 8, true)]), 8);
    }

    /// A state from a damaged snapshot is refused or harmless.
    #[test]
    fn damaged_states_do_no_harm(
        status in any::<u32>(),
        features in any::<u64>(),
        active in any::<bool>(),
        record in (any::<u16>(), any::<u16>(), any::<bool>(), any::<bool>(), any::<[u64; 3]>(), any::<u16>(), any::<u16>()),
        small in any::<bool>(),
    ) {
        let mut state = fresh().transport.save();
        let (max_size, size, ready, event_idx, [desc, avail, used], next_avail, next_used) = record;
        let within = |at: u64| if small { (at % MEMORY) & !15 } else { at };
        let max_size = if small { 64 } else { max_size };
        let size = if small { 1 << (size % 7) } else { size };
        state.status = status;
        state.driver_features = if small { 1 << 32 | u64::from(event_idx) << 29 } else { features };
        state.active = active;
        state.queues = vec![QueueRecord {
            max_size,
            size,
            ready,
            event_idx,
            desc_table: within(desc),
            avail_ring: within(avail),
            used_ring: within(used),
            next_avail,
            next_used,
        }];
        let made = MmioTransport::restore(&state, Box::new(Rng::new()), memory(), EventFd::new(0).unwrap());
        if let Ok(transport) = made {
            use event_manager::{EventManager, SubscriberOps};
            let transport = Arc::new(transport);
            let mut manager = EventManager::new().unwrap();
            manager.add_subscriber(Arc::clone(&transport));
            transport.resume();
            for _ in 0..5 {
                manager.run_with_timeout(0).unwrap();
            }
        }
    }
}
