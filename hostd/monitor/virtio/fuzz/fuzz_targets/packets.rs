//! Any packets from the guest while a host client is connecting.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mote_virtio_fuzz::{testing::BUFFERS, testing::Machine, vsock};

const RX_AT: u64 = 2 << 20;
const HOST_PORT: u32 = 1 << 30;

#[derive(Arbitrary, Debug)]
struct Packet {
    wild: bool,
    src_port: u32,
    dst_port: u32,
    len: u16,
    op: u8,
    flags: u8,
    buf_alloc: u32,
    fwd_cnt: u32,
    data: Vec<u8>,
}

fuzz_target!(|packets: Vec<Packet>| {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = Machine::new(vsock(folder.path()));
    for i in 0..100 {
        machine.add(0, &[(RX_AT + i * 0x1000, 4096, true)]);
    }
    machine.kick(0);
    let mut client = UnixStream::connect(folder.path().join("v")).expect("a client");
    client.write_all(b"CONNECT 7\nsome bytes").expect("its line");
    machine.pump(0);
    for packet in packets.iter().take(60) {
        let (src, dst) = if packet.wild { (packet.src_port, packet.dst_port) } else { (7, HOST_PORT) };
        let mut bytes = Vec::new();
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(src.to_le_bytes());
        bytes.extend(dst.to_le_bytes());
        bytes.extend(u32::from(packet.len).to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(u16::from(packet.op % 9).to_le_bytes());
        bytes.extend(u32::from(packet.flags).to_le_bytes());
        bytes.extend(packet.buf_alloc.to_le_bytes());
        bytes.extend(packet.fwd_cnt.to_le_bytes());
        bytes.extend(&packet.data[..packet.data.len().min(4000)]);
        machine.put(BUFFERS, &bytes);
        let len = u32::try_from(bytes.len()).expect("a short packet");
        machine.add(1, &[(BUFFERS, len, false)]);
        machine.kick(1);
        machine.pump(0);
        while machine.take(1).is_some() {}
    }
});
