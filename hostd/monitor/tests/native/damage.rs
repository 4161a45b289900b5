//! A thousand damaged snapshots: each is refused, or what was damaged is not needed and the guest finds its memory as
//! it was. Natively, with a guest that reads all of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mote_micro::have_kvm;
use mote_micro::touch::{List, Touch, Visit};
use mote_monitor::control::Request;
use mote_monitor::snapshot::verify_memory;
use mote_snapshot::pages::{PageSet, Run};
use mote_snapshot::source::write_runs;
use mote_snapshot::{BuildOptions, PAGE_SIZE, TOUCHED_FILE, WorkingSet, build};

use crate::support::Monitor;

const ROUNDS: u64 = 1000;
/// Pages of the guest's own.
const PAGES: u32 = 1024;
const MODES: [&str; 5] = ["lazy", "concurrent", "regions", "faasnap", "reap"];
/// How many of the refused are given to a monitor all the same: it must end in order.
const DARED: u64 = 32;

/// Splitmix64: small, and the same for the same seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.throw() % end.max(1)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes the snapshot of a microVM with the files for its quick restore into `dir`.
pub fn save(monitor: &mut Monitor, dir: &Path, base: Option<&Path>) {
    let mut client = monitor.client();
    assert!(client.request(&Request::Pause).unwrap().ok);
    let saved = client.request(&Request::Snapshot { dir: dir.to_owned(), sync: false }).unwrap();
    assert!(saved.ok, "{saved:?}");
    let pages = verify_memory(dir).unwrap().memory_bytes / PAGE_SIZE;
    let mut set = WorkingSet::new(usize::try_from(pages).unwrap());
    set.absorb((0..pages).map(|page| page % 3 == 0));
    let touched = (0..pages / 40).map(|at| Run { page: at * 40, pages: 9 }).collect();
    write_runs(&dir.join(TOUCHED_FILE), &PageSet::from_runs(touched)).unwrap();
    let options = BuildOptions { base: base.map(Path::to_owned), ..BuildOptions::default() };
    assert!(build(dir, &set, &options).unwrap().loading_pages > 0);
}

/// A snapshot, what it is layered over, and what its guest says when it has read all its memory.
struct Sound {
    dir: PathBuf,
    base: Option<PathBuf>,
    answer: String,
}

struct Guest {
    sound: Vec<Sound>,
    all: List,
}

/// Two snapshots of one guest: one by itself, one layered over it.
fn snapshots(dir: &Path) -> Guest {
    let (image, full, layered) = (dir.join("kernel"), dir.join("full"), dir.join("layered"));
    let mut touch = Touch::new(PAGES);
    touch.fill(0..700);
    let first = touch.list((0..900).step_by(7).map(Visit::write).chain((0..50).map(Visit::zero))).unwrap();
    let second =
        touch.list((20..1000).step_by(11).map(Visit::write).chain((60..90).map(Visit::zero))).unwrap();
    let all = touch.list((0..PAGES).map(Visit::read)).unwrap();
    let built = touch.image().unwrap();
    std::fs::write(&image, &built.elf).unwrap();

    let memory = built.memory_mib.to_string();
    let (mut monitor, serial) =
        Monitor::typed(dir, "boot", &["boot", "--kernel", text(&image), "--mem", &memory]);
    let mut serial = BufReader::new(serial);
    assert_eq!(line(&mut serial).as_deref(), Some("ready"));
    let mut model = touch.model();
    assert_eq!(ask(&mut serial, first), Some(model.visit(first).to_string()));
    save(&mut monitor, &full, None);
    drop(monitor);
    let answer = model.clone().visit(all).to_string();
    let mut sound = vec![Sound { dir: full.clone(), base: None, answer }];

    let arguments = ["restore", "--snapshot", text(&full), "--base", text(&full)];
    let (mut monitor, serial) = Monitor::typed(dir, "restore", &arguments);
    let mut serial = BufReader::new(serial);
    assert_eq!(ask(&mut serial, second), Some(model.visit(second).to_string()));
    save(&mut monitor, &layered, Some(&full));
    let answer = model.visit(all).to_string();
    sound.push(Sound { dir: layered, base: Some(full), answer });
    Guest { sound, all }
}

fn line(serial: &mut BufReader<UnixStream>) -> Option<String> {
    let mut line = String::new();
    serial.read_line(&mut line).ok()?;
    line.ends_with('\n').then(|| line.trim_end().to_owned())
}

fn ask(serial: &mut BufReader<UnixStream>, list: List) -> Option<String> {
    serial.get_mut().write_all(&[list.digit()]).ok()?;
    line(serial)
}

/// All files of `from` in a new folder `to`: the same ones, but for `except`, which is a copy.
fn copy(from: &Path, to: &Path, except: &str) {
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let to = to.join(item.file_name());
        if item.file_name() == except {
            std::fs::copy(item.path(), to).unwrap();
        } else {
            std::fs::hard_link(item.path(), to).unwrap();
        }
    }
}

/// Damages a file in one of the ways disks, file systems and people do; says how.
fn damage(path: &Path, other: &Path, dice: &mut Dice) -> String {
    let length = std::fs::metadata(path).unwrap().len();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let at = dice.below(length);
    match dice.below(8) {
        0..3 => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            let bit = dice.below(8);
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
            format!("bit {bit} of byte {at} flipped")
        }
        3 => {
            file.set_len(at).unwrap();
            format!("cut to {at} of {length}")
        }
        4 => {
            let more = dice.below(3 * PAGE_SIZE) + 1;
            file.set_len(length + more).unwrap();
            format!("{more} longer")
        }
        5 => {
            let end = (at + dice.below(2 * PAGE_SIZE) + 1).min(length);
            let noise: Vec<u8> = (at..end).map(|_| dice.throw().to_le_bytes()[0]).collect();
            file.write_all_at(&noise, at).unwrap();
            format!("{at}..{end} overwritten")
        }
        6 => {
            std::fs::remove_file(path).unwrap();
            "removed".to_owned()
        }
        _ if other.exists() => {
            std::fs::copy(other, path).unwrap();
            format!("that of {}", other.display())
        }
        _ => {
            file.set_len(0).unwrap();
            "emptied".to_owned()
        }
    }
}

/// What hostd does before it restores.
fn verified(dir: &Path, base: Option<&Path>) -> bool {
    base.is_none_or(|base| verify_memory(base).is_ok()) && verify_memory(dir).is_ok()
}

fn restore(folder: &Path, dir: &Path, base: Option<&Path>, mode: &str) -> (Monitor, BufReader<UnixStream>) {
    let mut arguments = vec!["restore", "--snapshot", text(dir), "--mode", mode];
    if let Some(base) = base {
        arguments.extend(["--base", text(base)]);
    }
    let (monitor, serial) = Monitor::typed(folder, "again", &arguments);
    (monitor, BufReader::new(serial))
}

/// A monitor that was given what verification refuses: it refuses too, or runs; it does not crash.
fn dare(mut monitor: Monitor, what: &str) {
    let end = Instant::now() + Duration::from_millis(150);
    while Instant::now() < end {
        if let Some(status) = monitor.child.try_wait().unwrap() {
            assert!(status.code().is_some(), "{what}: {status}");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn no_damage_restores_another_memory() {
    if !have_kvm() {
        return;
    }
    let seed = std::env::var("MOTE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("MOTE_SEED={seed}");
    let mut dice = Dice(seed);
    let folder = tempfile::tempdir().unwrap();
    let guest = snapshots(folder.path());
    let (mut refused, mut restored) = (0, 0);
    for round in 0..ROUNDS {
        let sound = &guest.sound[usize::try_from(round % 2).unwrap()];
        let in_base = sound.base.is_some() && dice.below(4) == 0;
        let whole = sound.base.as_ref().filter(|_| in_base).unwrap_or(&sound.dir);
        let names: Vec<String> = std::fs::read_dir(whole)
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        let name = &names[usize::try_from(dice.below(names.len() as u64)).unwrap()];
        let damaged = folder.path().join("damaged");
        copy(whole, &damaged, name);
        let foreign = guest.sound[usize::try_from((round + 1) % 2).unwrap()].dir.join(name);
        let how = damage(&damaged.join(name), &foreign, &mut dice);
        let (dir, base) =
            if in_base { (&sound.dir, Some(&damaged)) } else { (&damaged, sound.base.as_ref()) };
        let mode = MODES[usize::try_from(dice.below(MODES.len() as u64)).unwrap()];
        let what = format!("round {round}, {mode}, {}/{name}: {how}", whole.display());
        if verified(dir, base.map(PathBuf::as_path)) {
            let (mut monitor, mut serial) = restore(folder.path(), dir, base.map(PathBuf::as_path), mode);
            let answer = ask(&mut serial, guest.all);
            match answer {
                Some(answer) => {
                    assert_eq!(answer, sound.answer, "{what}");
                    restored += 1;
                }
                // hostd makes another snapshot then.
                None => {
                    let (code, stderr) = monitor.end();
                    assert_eq!(code, Some(3), "{what}: {stderr}");
                    refused += 1;
                }
            }
        } else {
            refused += 1;
            if dice.below(DARED) == 0 {
                dare(restore(folder.path(), dir, base.map(PathBuf::as_path), mode).0, &what);
            }
        }
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    println!("{refused} refused, {restored} restored unharmed");
    assert!(refused > ROUNDS / 2 && restored > 0);
}

/// The thread that serves a guest's page faults cannot read any more: the guest must not go on with zeros.
#[test]
fn a_page_that_cannot_be_read_ends_the_guest() {
    if !have_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let guest = snapshots(folder.path());
    let sound = guest.sound.first().unwrap();
    let (mut monitor, mut serial) = restore(folder.path(), &sound.dir, None, "reap");
    let mut client = monitor.client();
    assert!(client.request(&Request::Status).unwrap().ok);
    let memory = std::fs::File::options().write(true).open(sound.dir.join("memory")).unwrap();
    memory.set_len(0).unwrap();
    assert_eq!(ask(&mut serial, guest.all), None);
    let (code, stderr) = monitor.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("Cannot serve a page fault"), "{stderr}");
}
