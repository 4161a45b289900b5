//! A process that changes a store without end, and says before and after each change what it does.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mote_store::{SnapshotState, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Pid;

use crate::common::{code, config, snapshot};

const ROOT: &str = "MOTE_STORE_CRASH_ROOT";
const SEED: &str = "MOTE_STORE_CRASH_SEED";

/// Name to (note of the code, memory, has a sound snapshot).
pub type Model = BTreeMap<String, (String, u32, bool)>;

/// What a change makes of the model; the same for the writer and the one who checks.
fn apply(model: &mut Model, change: &str) {
    let words: Vec<&str> = change.split(' ').collect();
    match *words.as_slice() {
        ["create", name, note] => drop(model.insert(name.into(), (note.into(), 128, false))),
        ["code", name, note] => {
            let function = model.get_mut(name).unwrap();
            (function.0, function.2) = (note.into(), false);
        }
        ["config", name, memory] => model.get_mut(name).unwrap().1 = memory.parse().unwrap(),
        ["delete", name] => drop(model.remove(name)),
        ["snapshot", name] => model.get_mut(name).unwrap().2 = true,
        ["forget", name] => model.get_mut(name).unwrap().2 = false,
        _ => panic!("{change}"),
    }
}

fn observe(store: &Store) -> Model {
    let functions = store.functions().unwrap().into_iter();
    functions
        .map(|f| {
            let sound = store.snapshot(&f.name).unwrap().is_some_and(|s| s.state == SnapshotState::Sound);
            (f.name, (f.code.sha256_base64, f.config.memory_mb, sound))
        })
        .collect()
}

/// The process: does nothing unless [`Child::start`] started it.
pub fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let (store, _) = Store::open(Path::new(&root)).unwrap();
    let mut model = observe(&store);
    let mut out = std::io::stdout();
    // The test runner has already written to the line.
    writeln!(out).unwrap();
    for turn in 0.. {
        let name = format!("f{}", random.random_range(0..6));
        let note = format!("n{seed}-{turn}");
        let size = random.random_range(1..200_000);
        let change = match (model.get(&name), random.random_range(0..10)) {
            (None, _) => format!("create {name} {note}"),
            (_, 0..=1) => format!("code {name} {note}"),
            (_, 2..=3) => format!("config {name} {turn}"),
            (_, 4) => format!("delete {name}"),
            (Some((_, _, true)), 5) => format!("forget {name}"),
            _ => format!("snapshot {name}"),
        };
        writeln!(out, "try {change}").unwrap();
        out.flush().unwrap();
        match change.split(' ').next().unwrap() {
            "create" => {
                drop(store.create_function(&name, config("c"), code(&store, &note, size).unwrap()).unwrap());
            }
            "code" => drop(store.update_code(&name, None, code(&store, &note, size).unwrap()).unwrap()),
            "config" => drop(store.update_config(&name, None, |c| c.memory_mb = turn).unwrap()),
            "delete" => drop(store.delete_function(&name).unwrap()),
            "forget" => drop(store.remove_snapshot(&name).unwrap()),
            _ => drop(snapshot(&store, &name, size).unwrap()),
        }
        writeln!(out, "done {change}").unwrap();
        out.flush().unwrap();
        apply(&mut model, &change);
    }
}

/// The writer, running.
pub struct Child {
    process: std::process::Child,
    output: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Child {
    /// Starts this test program again, to run only its test `child`.
    pub fn start(root: &Path, seed: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(ROOT, root)
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if (line.starts_with("try ") || line.starts_with("done ")) && sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, output, said: Vec::new() }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Lets it say a random number of things, and then go on for a random moment: however fast the machine is.
    pub fn let_run(&mut self, random: &mut StdRng) {
        // Some are ended while they still open the store.
        for _ in 0..random.random_range(0..30) {
            self.said.push(self.output.recv_timeout(Duration::from_secs(60)).unwrap());
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
    }

    /// Kills it; returns what it said.
    pub fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.said.extend(self.output.iter());
        self.said
    }
}

/// Makes what was acknowledged in the model; returns how many changes, and the one under way at the end.
pub fn follow(lines: &[String], model: &mut Model) -> (u32, Option<String>) {
    let mut acknowledged = 0;
    let mut pending = None;
    for line in lines {
        match line.split_once(' ').unwrap() {
            ("try", change) => pending = Some(change.to_owned()),
            (_, change) => {
                assert_eq!(pending.take().as_deref(), Some(change));
                apply(model, change);
                acknowledged += 1;
            }
        }
    }
    (acknowledged, pending)
}

/// Checks that the store holds the model, or the model with all of the change that was under way.
pub fn compare(store: &Store, model: &mut Model, pending: Option<String>, seed: u64) {
    let found = observe(store);
    if found != *model {
        let change = pending.unwrap_or_else(|| panic!("run {seed}: {found:?} is not {model:?}"));
        apply(model, &change);
        assert_eq!(found, *model, "run {seed}: all of it or none of it: {change}");
    }
}
