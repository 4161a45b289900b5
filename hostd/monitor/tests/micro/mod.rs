//! The micro-guest as an ELF file with a PVH note, and a monitor to run it in.

use std::arch::global_asm;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mote_monitor::control::{Client, Event};

global_asm!(".section .rodata.micro,\"a\"", include_str!("guest.S"), ".section .text", options(raw));

unsafe extern "C" {
    static micro_start: u8;
    static micro_end: u8;
    static micro_entry_slot: u8;
    static micro_loop: u8;
    static micro_reset: u8;
    static micro_crash: u8;
}

/// What the micro-guest does.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// Checks its registers and memory for ever.
    Loop,
    /// Resets the machine.
    Reset,
    /// Crashes.
    Crash,
}

const LOAD: u64 = 0x10_0000;
const TABLES: u64 = 0x20_0000;

/// Guest physical address the loop counts its rounds at; also the offset in a memory file.
pub const COUNTER: u64 = 0x30_0000;

fn code(program: Program) -> Vec<u8> {
    // SAFETY: the symbols mark the bounds of, and places in, one piece of read-only data.
    let (bytes, slot, entry) = unsafe {
        let start = &raw const micro_start;
        let length = (&raw const micro_end).offset_from_unsigned(start);
        let entry = match program {
            Program::Loop => &raw const micro_loop,
            Program::Reset => &raw const micro_reset,
            Program::Crash => &raw const micro_crash,
        };
        let slot = (&raw const micro_entry_slot).offset_from_unsigned(start);
        (std::slice::from_raw_parts(start, length), slot, entry.offset_from_unsigned(start))
    };
    let mut bytes = bytes.to_vec();
    bytes[slot..slot + 8].copy_from_slice(&(LOAD + entry as u64).to_le_bytes());
    bytes
}

/// GDT pointer, GDT and task state with an I/O permission map for ports below 0x400, then PML4, PDPT and page directory: the first GiB in 2 MiB pages, for user code too.
fn tables() -> Vec<u8> {
    let mut bytes = vec![0u8; 0x4000];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, 55 | (TABLES + 0x10) << 16);
    let task = TABLES + 0x100;
    let task_low = (0x67 + 0x81) | (task & 0xff_ffff) << 16 | 0x8900 << 32 | (task >> 24 & 0xff) << 56;
    let gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        task_low,
        task >> 32,
    ];
    // The map starts behind the 104 bytes of the task state and ends with a byte of ones.
    put(0x100 + 96, 0x68 << 48);
    put(0x100 + 0x68 + 0x80, 0xff);
    for (index, descriptor) in gdt.into_iter().enumerate() {
        put(0x10 + index * 8, descriptor);
    }
    put(0x1000, TABLES + 0x2007);
    put(0x2000, TABLES + 0x3007);
    for index in 0..512 {
        put(0x3000 + index * 8, (index as u64) << 21 | 0x87);
    }
    bytes
}

/// The ELF file.
pub fn kernel(program: Program) -> Vec<u8> {
    kernel_with(program, 0)
}

/// The ELF file with a further segment of `ballast` bytes at 32 MiB, which nobody touches.
pub fn kernel_with(program: Program, ballast: usize) -> Vec<u8> {
    let mut file = vec![0u8; 0x1000];
    file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    file[18..20].copy_from_slice(&62u16.to_le_bytes());
    file[32..40].copy_from_slice(&64u64.to_le_bytes());
    file[54..56].copy_from_slice(&56u16.to_le_bytes());
    file[56..58].copy_from_slice(&4u16.to_le_bytes());
    let mut note = Vec::new();
    for number in [4u32, 8, 18] {
        note.extend(number.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(LOAD.to_le_bytes());
    let parts =
        [(1u32, LOAD, code(program)), (1, TABLES, tables()), (4, 0, note), (1, 32 << 20, vec![1; ballast])];
    for (index, (kind, address, bytes)) in parts.into_iter().enumerate() {
        let mut header = Vec::new();
        header.extend(kind.to_le_bytes());
        header.extend(7u32.to_le_bytes());
        let length = bytes.len() as u64;
        for field in [file.len() as u64, address, address, length, length, 0x1000] {
            header.extend(field.to_le_bytes());
        }
        file[64 + index * 56..64 + (index + 1) * 56].copy_from_slice(&header);
        file.extend(bytes);
        file.resize(file.len().next_multiple_of(0x1000), 0);
    }
    file
}

/// Whether this machine has a KVM to run on; if not, says so once per test.
pub fn have_kvm() -> bool {
    let found = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !found {
        eprintln!("skipped: /dev/kvm cannot be opened");
    }
    found
}

/// A monitor process and its files. Killed when dropped.
pub struct Monitor {
    pub child: Child,
    pub control: PathBuf,
    pub serial: PathBuf,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    /// Starts the program with `args`, control socket and console log in `dir` under `name`.
    pub fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        let (control, serial) = (dir.join(format!("{name}.sock")), dir.join(format!("{name}.log")));
        let child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
            .args(args)
            .arg("--control")
            .arg(&control)
            .arg("--serial")
            .arg(&serial)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, control, serial }
    }

    /// Connects to the control socket as soon as it is there.
    pub fn client(&mut self) -> Client {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match Client::connect(&self.control, Duration::from_secs(30)) {
                Ok(client) => return client,
                Err(error) => {
                    if let Some(status) = self.child.try_wait().unwrap() {
                        panic!("monitor ended: {status}: {}", self.stderr());
                    }
                    assert!(Instant::now() < end, "no control socket: {error}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Waits for the end; exit code and standard error.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.stderr());
            }
            assert!(Instant::now() < end, "the monitor does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        }
        text
    }

    /// Console output so far.
    pub fn console(&self) -> String {
        std::fs::read_to_string(&self.serial).unwrap_or_default()
    }

    /// Waits until the console has at least `count` lines, and returns it.
    pub fn lines(&mut self, count: usize) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.console();
            if text.lines().count() >= count {
                return text;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("monitor ended: {status}: {}; console: {text}", self.stderr());
            }
            assert!(Instant::now() < end, "only {} lines: {text}", text.lines().count());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// CPU time of the set-up in microseconds, as the first event says.
pub fn running(client: &mut Client) -> (u64, u64) {
    match client.event().unwrap() {
        Event::Running { setup_cpu_us, setup_kvm_us, .. } => (setup_cpu_us, setup_kvm_us),
        other => panic!("{other:?} instead of running"),
    }
}
