use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;
use crate::testing::{BUFFERS, Machine, NEXT, SEAM, WRITE};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

fn image(len: usize) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..len).map(|i| ((i * 31) >> 3) as u8).collect();
    file.write_all(&bytes).unwrap();
    file
}

fn machine(file: &NamedTempFile, read_only: bool) -> Machine {
    Machine::new(Box::new(device(file, read_only)))
}

fn device(file: &NamedTempFile, read_only: bool) -> Block {
    let config =
        BlockConfig { path: file.path().to_owned(), read_only, id: "code-0123".to_owned(), sectors: None };
    Block::open(&config).unwrap()
}

fn header(machine: &Machine, kind: u32, sector: u64) {
    machine.put(HEADER, &kind.to_le_bytes());
    machine.put(HEADER + 4, &[0; 4]);
    machine.put(HEADER + 8, &sector.to_le_bytes());
    machine.put(STATUS, &[0xaa]);
}

/// One request with data in the given pieces; status and bytes used.
fn request(machine: &mut Machine, kind: u32, sector: u64, data: &[(u64, u32)]) -> (u8, u32) {
    header(machine, kind, sector);
    let to_guest = kind != 1;
    let mut pieces = vec![(HEADER, 16, false)];
    pieces.extend(data.iter().map(|(at, len)| (*at, *len, to_guest)));
    pieces.push((STATUS, 1, true));
    let used = machine.call(0, &pieces);
    (machine.get(STATUS, 1)[0], used)
}

fn contents(file: &NamedTempFile, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.as_file().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn reads_scattered_over_the_seam_of_two_regions() {
    let file = image(1 << 20);
    let mut machine = machine(&file, true);
    let data = [(DATA, 100), (SEAM - 300, 600), (DATA + 0x1000, 3396)];
    assert_eq!(request(&mut machine, 0, 7, &data), (OK, 4097));
    let mut read = machine.get(DATA, 100);
    read.extend(machine.get(SEAM - 300, 600));
    read.extend(machine.get(DATA + 0x1000, 3396));
    assert_eq!(read, contents(&file, 7 * 512, 4096));
}

#[test]
fn writes_reads_back_and_flushes() {
    let file = image(1 << 20);
    let mut machine = machine(&file, false);
    let bytes: Vec<u8> = (0..8192u32).map(|i| (i % 251) as u8).collect();
    machine.put(DATA, &bytes);
    assert_eq!(request(&mut machine, 1, 5, &[(DATA, 1000), (DATA + 1000, 7192)]), (OK, 1));
    assert_eq!(contents(&file, 5 * 512, 8192), bytes);
    assert_eq!(request(&mut machine, 4, 0, &[]), (OK, 1));
    assert_eq!(request(&mut machine, 0, 5, &[(DATA + 0x10000, 8192)]), (OK, 8193));
    assert_eq!(machine.get(DATA + 0x10000, 8192), bytes);
}

#[test]
fn refuses_what_it_must() {
    let file = image(8 * 512);
    let mut machine = machine(&file, true);
    let before = contents(&file, 0, 4096);
    assert_eq!(request(&mut machine, 1, 0, &[(DATA, 512)]), (IOERR, 1), "write to a read-only drive");
    assert_eq!(contents(&file, 0, 4096), before);
    assert_eq!(request(&mut machine, 0, 8, &[(DATA, 512)]), (IOERR, 1), "past the end");
    assert_eq!(request(&mut machine, 0, 7, &[(DATA, 1024)]), (IOERR, 1), "across the end");
    assert_eq!(request(&mut machine, 0, u64::MAX, &[(DATA, 512)]), (IOERR, 1), "sector overflows");
    assert_eq!(request(&mut machine, 0, u64::MAX / 512, &[(DATA, 512)]), (IOERR, 1), "byte offset overflows");
    assert_eq!(request(&mut machine, 0, 0, &[(DATA, 511)]), (IOERR, 1), "not a sector");
    assert_eq!(request(&mut machine, 77, 0, &[(DATA, 512)]), (UNSUPP, 1), "unknown type");
    assert_eq!(request(&mut machine, 11, 0, &[(DATA, 512)]), (UNSUPP, 1), "discard is not offered");
    // And it goes on serving.
    assert_eq!(request(&mut machine, 0, 7, &[(DATA, 512)]), (OK, 513));
}

#[test]
fn names_itself() {
    let file = image(512);
    let mut machine = machine(&file, true);
    assert_eq!(request(&mut machine, 8, 0, &[(DATA, 20)]), (OK, 21));
    assert_eq!(machine.get(DATA, 20), b"code-0123\0\0\0\0\0\0\0\0\0\0\0");
    machine.put(DATA, &[9; 20]);
    assert_eq!(request(&mut machine, 8, 0, &[(DATA, 4)]), (OK, 5));
    assert_eq!(machine.get(DATA, 5), b"code\x09");
}

#[test]
fn configuration_tells_capacity_and_limits() {
    let file = image(1000);
    let machine = machine(&file, true);
    let mut config = [0xffu8; 24];
    machine.transport.read(0x100, &mut config);
    assert_eq!(config[..8], 2u64.to_le_bytes());
    assert_eq!(config[8..12], (128u32 * 1024).to_le_bytes());
    assert_eq!(config[12..16], 126u32.to_le_bytes());
    assert_eq!(config[16..], [0; 8]);
    let mut byte = [0xff];
    machine.transport.read(u64::MAX, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn a_partial_last_sector_reads_as_zeros() {
    let file = image(1000);
    let mut machine = machine(&file, true);
    machine.put(DATA, &[0xee; 1024]);
    assert_eq!(request(&mut machine, 0, 0, &[(DATA, 700), (DATA + 700, 324)]), (OK, 1025));
    let mut expected = contents(&file, 0, 1000);
    expected.extend([0; 24]);
    assert_eq!(machine.get(DATA, 1024), expected);
    // But a file that shrank is an error, not a hole.
    file.as_file().set_len(600).unwrap();
    assert_eq!(request(&mut machine, 0, 0, &[(DATA, 1024)]).0, IOERR);
}

#[test]
fn refuses_images_it_cannot_serve() {
    let open = |path: &std::path::Path, read_only| {
        Block::open(&BlockConfig { path: path.to_owned(), read_only, id: String::new(), sectors: None })
    };
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(&folder.path().join("none"), true), Err(BlockError::Open { .. })));
    assert!(matches!(open(folder.path(), true), Err(BlockError::Kind { .. })));
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(open(&fifo, true), Err(BlockError::Kind { .. })));
    let odd = image(1000);
    assert!(matches!(open(odd.path(), false), Err(BlockError::Odd { len: 1000, .. })));
    assert_eq!(open(odd.path(), true).unwrap().sectors(), 2);
}

#[test]
fn a_full_queue_is_served_in_turns_with_one_kick() {
    let file = image(1 << 20);
    let mut machine = machine(&file, true);
    header(&machine, 0, 3);
    let mut count = 0;
    while machine.add(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]).is_some() {
        count += 1;
    }
    assert_eq!(count, 85);
    assert!(machine.kick(0));
    machine.step(0);
    let mut served = 0;
    while machine.take(0).is_some() {
        served += 1;
    }
    assert!(served > 0 && served < count, "{served} served in one turn");
    machine.pump(0);
    while machine.take(0).is_some() {
        served += 1;
    }
    assert_eq!(served, count);
    // With the event index the device asked to be kicked for the next.
    machine.add(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    assert!(machine.kick(0));
}

#[test]
fn goes_on_after_a_restore_with_requests_in_the_queue() {
    let file = image(1 << 20);
    let mut first = machine(&file, true);
    assert_eq!(request(&mut first, 0, 1, &[(DATA, 512)]), (OK, 513));
    // In the ring and kicked, but the device thread was stopped before it looked.
    header(&first, 0, 9);
    let head = first.add(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]).unwrap();
    first.kick(0);
    let image = first.snapshot();
    drop(first);
    let mut second = Machine::restore(&image, Box::new(device(&file, true)));
    assert!(second.interrupt().is_some(), "an interrupt that may have been lost is raised again");
    second.pump(0);
    assert_eq!(second.take(0), Some((head, 513)));
    assert_eq!(second.get(DATA, 512), contents(&file, 9 * 512, 512));
    assert!(second.interrupt().is_some());
    assert_eq!(request(&mut second, 8, 0, &[(DATA, 20)]), (OK, 21));
}

#[test]
fn an_interrupt_not_yet_taken_survives_a_restore() {
    let file = image(1 << 20);
    let mut first = machine(&file, true);
    header(&first, 0, 0);
    first.add(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    first.kick(0);
    first.pump(0);
    let image = first.snapshot();
    assert_eq!(image.state.interrupt_status, 1);
    let mut second = Machine::restore(&image, Box::new(device(&file, true)));
    assert_eq!(second.interrupt(), Some(1));
    assert!(second.take(0).is_some());
}

#[test]
fn another_drive_is_refused_at_restore() {
    let file = image(1 << 20);
    let state = machine(&file, true).snapshot().state;
    let restore = |device: Box<dyn crate::VirtioDevice>, state: &crate::TransportState| {
        let irq = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
        crate::MmioTransport::restore(state, device, crate::testing::memory(), irq).map(|_| ())
    };
    assert!(restore(Box::new(device(&file, true)), &state).is_ok());
    assert!(restore(Box::new(device(&file, false)), &state).is_err(), "features differ");
    assert!(restore(Box::new(device(&image(512), true)), &state).is_err(), "capacity differs");
    assert!(restore(Box::new(crate::Rng::new()), &state).is_err(), "type differs");
    let mut moved = state.clone();
    moved.queues[0].used_ring = crate::testing::MEMORY - 4;
    assert!(restore(Box::new(device(&file, true)), &moved).is_err(), "queue outside memory");
    let mut sized = state.clone();
    sized.queues[0].size = 3;
    assert!(restore(Box::new(device(&file, true)), &sized).is_err(), "no such queue size");
    let mut fewer = state;
    fewer.queues.clear();
    assert!(restore(Box::new(device(&file, true)), &fewer).is_err(), "no queue");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any descriptors, any ring contents: no panic, and nothing outside the image or the buffers is touched.
    #[test]
    fn hostile_chains_do_no_harm(
        descriptors in prop::collection::vec(
            (
                prop_oneof![Just(HEADER), Just(DATA), Just(SEAM - 8), Just(crate::testing::MEMORY - 8), any::<u64>()],
                prop_oneof![0u32..64, Just(16), Just(512), Just(1), any::<u32>()],
                0u16..8,
                0u16..12,
            ),
            1..12,
        ),
        heads in prop::collection::vec(prop_oneof![0u16..12, any::<u16>()], 1..20),
        kind in prop_oneof![0u32..12, any::<u32>()],
        sector in prop_oneof![0u64..20, any::<u64>()],
        jump in prop_oneof![Just(0u16), any::<u16>()],
    ) {
        let file = image(16 * 512);
        let mut machine = machine(&file, false);
        header(&machine, kind, sector);
        for (i, (addr, len, flags, next)) in descriptors.iter().enumerate() {
            machine.describe(0, i as u16, *addr, *len, *flags, *next);
        }
        for head in heads {
            machine.publish(0, head);
        }
        if jump != 0 {
            // An available index that no driver can reach.
            let at = machine.rings[0].base + 0x2002;
            machine.put(at, &jump.to_le_bytes());
        }
        machine.notify(0);
        machine.pump(0);
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), 16 * 512);
        // A reset brings it back whatever happened.
        machine.probe(u64::MAX);
        prop_assert_eq!(request(&mut machine, 0, 0, &[(DATA, 512)]), (OK, 513));
    }

    /// Data cut anywhere, header and status included, is the same data.
    #[test]
    fn framing_does_not_matter(
        cuts in prop::collection::vec(1u32..2000, 1..20),
        header_cut in 1u32..16,
        sector in 0u64..16,
    ) {
        let file = image(64 * 512);
        let mut machine = machine(&file, false);
        header(&machine, 0, sector);
        let mut pieces = vec![(HEADER, header_cut, false), (HEADER + u64::from(header_cut), 16 - header_cut, false)];
        let (mut at, total) = (0u32, 8192);
        for cut in cuts {
            let len = cut.min(total - at);
            if len > 0 {
                pieces.push((DATA + u64::from(at), len, true));
            }
            at += len;
        }
        // The rest, and the status in the same piece.
        pieces.push((DATA + u64::from(at), total - at + 1, true));
        prop_assert_eq!(machine.call(0, &pieces), total + 1);
        prop_assert_eq!(machine.get(DATA, 8192), contents(&file, sector * 512, 8192));
        prop_assert_eq!(machine.get(DATA + 8192, 1)[0], OK);
    }
}

#[test]
fn indirect_tables_work_and_do_not_nest() {
    let file = image(1 << 20);
    let mut machine = machine(&file, true);
    let table = BUFFERS + 0x8000;
    let indirect = crate::testing::INDIRECT;
    header(&machine, 0, 2);
    crate::testing::put_descriptor(&machine.mem, table, HEADER, 16, NEXT, 1);
    crate::testing::put_descriptor(&machine.mem, table + 16, DATA, 512, NEXT | WRITE, 2);
    crate::testing::put_descriptor(&machine.mem, table + 32, STATUS, 1, WRITE, 0);
    machine.describe(0, 0, table, 48, indirect, 0);
    machine.publish(0, 0);
    machine.notify(0);
    machine.pump(0);
    assert_eq!(machine.take(0), Some((0, 513)));
    assert_eq!(machine.get(DATA, 512), contents(&file, 1024, 512));
    crate::testing::put_descriptor(&machine.mem, table, table, 48, indirect, 0);
    machine.publish(0, 0);
    machine.notify(0);
    machine.pump(0);
    assert_eq!(machine.take(0), Some((0, 0)));
}
