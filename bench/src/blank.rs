//! From "a microVM is needed" to its guest running: in a process that is started then, and in a blank.
//!
//! The guest is a micro-guest that runs natively. Files are in the page cache: what is compared is the way to the guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use mote_micro::touch::{Touch, Visit};

use crate::figures::{Mode, Part, Report, quantile};
use crate::paging::vm::Vm;
use crate::{Outcome, program};

/// Pages the guest can touch, and those it touches to answer.
const PAGES: u32 = 16_384;
const TOUCHED: std::ops::Range<u32> = 0..16;

/// How long a blank is left alone before it is needed.
const REST: Duration = Duration::from_millis(50);

/// What to measure with.
#[derive(Debug, Args)]
pub struct Options {
    /// The monitor [default: mote-monitor beside this program].
    #[arg(long)]
    monitor: Option<PathBuf>,
}

/// What is asked of a microVM, in which process, and what came of it.
struct Start<'a> {
    monitor: &'a Path,
    arguments: &'a [String],
    typed: &'a [u8],
    answer: &'a str,
}

/// Until the guest ran and until it had answered, in milliseconds.
type Sample = [f64; 2];

/// Runs the comparison.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let monitor = program::monitor(options.monitor.as_deref())?;
    let folder = tempfile::tempdir()?;
    let (kernel, snapshot) = (folder.path().join("kernel"), folder.path().join("snapshot"));
    let mut touch = Touch::new(PAGES);
    touch.fill(TOUCHED);
    let list = touch.list(TOUCHED.map(Visit::read))?;
    let image = touch.image()?;
    let expected = touch.model().visit(list);
    std::fs::write(&kernel, &image.elf)?;
    let path = |path: &Path| path.display().to_string();
    let memory = image.memory_mib.to_string();
    let boot: Vec<String> = ["boot", "--mem", &memory, "--kernel"]
        .map(str::to_owned)
        .into_iter()
        .chain([path(&kernel)])
        .collect();
    let restore = ["restore", "--snapshot"].map(str::to_owned).into_iter().chain([path(&snapshot)]);
    let restore: Vec<String> = restore.collect();

    let mut vm = Vm::start(&monitor, &boot, b"")?;
    check_line(&vm.line()?, "ready")?;
    vm.save(&snapshot)?;
    drop(vm);

    let typed = [list.digit()];
    let expected = expected.to_string();
    let starts = [
        ("boot", Start { monitor: &monitor, arguments: &boot, typed: b"", answer: "ready" }),
        ("restore", Start { monitor: &monitor, arguments: &restore, typed: &typed, answer: &expected }),
    ];
    let mut report = Report::new("blank", runs);
    for (name, start) in &starts {
        let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for round in 0..=runs {
            for (mode, sample) in [("fresh", start.fresh()?), ("blank", start.blank()?)] {
                if round > 0 {
                    samples.entry(mode).or_default().push(sample);
                }
            }
        }
        let modes = samples.iter().map(|(mode, samples)| ((*mode).to_owned(), figures(samples)));
        report.parts.insert((*name).to_owned(), Part { modes: modes.collect(), ratios: BTreeMap::new() });
    }
    report.ratio("fresh", "blank");
    Ok(report)
}

impl Start<'_> {
    fn fresh(&self) -> Outcome<Sample> {
        let needed = Instant::now();
        self.answered(needed, Vm::start(self.monitor, self.arguments, self.typed)?)
    }

    fn blank(&self) -> Outcome<Sample> {
        let mut vm = Vm::blank(self.monitor, self.typed)?;
        std::thread::sleep(REST);
        let needed = Instant::now();
        vm.become_one(self.arguments)?;
        self.answered(needed, vm)
    }

    fn answered(&self, needed: Instant, mut vm: Vm) -> Outcome<Sample> {
        vm.running()?;
        let running = needed.elapsed();
        check_line(&vm.line()?, self.answer)?;
        Ok([running, needed.elapsed()].map(|took| took.as_secs_f64() * 1000.0))
    }
}

fn check_line(found: &str, expected: &str) -> Outcome<()> {
    if found == expected { Ok(()) } else { Err(format!("The guest said {found}, not {expected}").into()) }
}

fn figures(samples: &[Sample]) -> Mode {
    let [running, answered] = [0, 1].map(|at: usize| -> Vec<f64> {
        samples.iter().filter_map(|sample| sample.get(at).copied()).collect()
    });
    let mut mode = Mode::of(&running);
    mode.counts.insert("answered_ms".to_owned(), quantile(&answered, 0.5));
    mode
}
