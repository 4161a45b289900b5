//! How guest memory comes back: one call served from a cold snapshot, with the ways of restoring it compared.
//!
//! The guests are micro-guests, which run natively; the monitor, the snapshots, the loader are the product's. The steps
//! follow figure 5.5 of Ao's dissertation for every way alike: a clean snapshot, one recorded call, a warm snapshot,
//! and then the calls that count, each from files that were dropped from the page cache.

mod measure;
mod pattern;
mod prepare;
mod probe;
pub mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use mote_snapshot::build::Selection;
use mote_snapshot::{BuildOptions, Plan};

use crate::figures::{Mode, Part, Report, quantile};
use crate::{Outcome, program};
use measure::{Sample, measure, number};
use pattern::PATTERNS;
use prepare::{Prepared, prepare};

/// A way of restoring a snapshot.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// How the report calls it.
    name: &'static str,
    /// What the monitor calls it.
    mode: &'static str,
    /// Further words for the monitor.
    flags: &'static [&'static str],
    /// What the loader reads meanwhile.
    plan: Option<Plan>,
    /// Whether the memory file is in the page cache.
    cached: bool,
}

/// Ways to compare, over all patterns.
struct Comparison {
    name: &'static str,
    ways: &'static [Way],
    /// Slow and fast.
    ratios: &'static [(&'static str, &'static str)],
}

const PAGING: Comparison = Comparison {
    name: "paging",
    ways: &[
        Way { name: "lazy", mode: "lazy", flags: &[], plan: None, cached: false },
        Way { name: "cached", mode: "cached", flags: &[], plan: None, cached: true },
        Way { name: "reap", mode: "reap", flags: &[], plan: None, cached: false },
        Way { name: "faasnap", mode: "faasnap", flags: &[], plan: Some(Plan::LoadingSet), cached: false },
    ],
    ratios: &[("lazy", "faasnap"), ("reap", "faasnap"), ("faasnap", "cached")],
};

/// The steps from lazy restores to ours, one at a time and each with those before it (figure 5.9).
const STEPS: Comparison = Comparison {
    name: "steps",
    ways: &[
        Way { name: "lazy", mode: "lazy", flags: &[], plan: None, cached: false },
        // A loader reads the loading set meanwhile, by address.
        Way {
            name: "concurrent",
            mode: "concurrent",
            flags: &[],
            plan: Some(Plan::Concurrent),
            cached: false,
        },
        // In the order it is wanted.
        Way { name: "groups", mode: "concurrent", flags: &[], plan: Some(Plan::Regions), cached: false },
        // Zero pages are anonymous.
        Way { name: "regions", mode: "regions", flags: &[], plan: Some(Plan::Regions), cached: false },
        // What is loaded lies in one piece.
        Way {
            name: "loading-set",
            mode: "faasnap",
            flags: &["--no-populate"],
            plan: Some(Plan::LoadingSet),
            cached: false,
        },
        // Page tables are filled behind the loader.
        Way { name: "faasnap", mode: "faasnap", flags: &[], plan: Some(Plan::LoadingSet), cached: false },
    ],
    ratios: &[
        ("lazy", "concurrent"),
        ("lazy", "groups"),
        ("lazy", "regions"),
        ("lazy", "loading-set"),
        ("lazy", "faasnap"),
    ],
};

/// What to measure, and where.
#[derive(Debug, Args)]
pub struct Options {
    /// The monitor [default: mote-monitor beside this program].
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// Folder for the snapshots, on a disk [default: where this program is].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Patterns to measure [default: all].
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(PATTERNS.iter().map(|pattern| pattern.name)))]
    patterns: Vec<String>,
    /// Modes to measure [default: all].
    #[arg(long, value_delimiter = ',')]
    modes: Vec<String>,
    /// Leave the snapshots behind and say where.
    #[arg(long)]
    keep: bool,
    /// Which recorded pages make the loading set.
    #[arg(long, value_enum, default_value_t = Pages::Touched)]
    pages: Pages,
    /// Regions of the loading set closer than this many pages are merged.
    #[arg(long, default_value_t = mote_snapshot::regions::LOADING_GAP)]
    gap: u64,
    /// Give the guest only those pages of the loading set as its own that it wrote to, and those between two such that
    /// are nearer than this many pages [default: all].
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    written_gap: u64,
    /// Record so many calls, each of which differs from the others as the tested one does.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    recordings: u8,
    /// Load what at least so many of the recorded calls touched.
    #[arg(long, default_value_t = 1)]
    share: u8,
    /// Divide all sizes by this, to try things out.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    scale: u32,
}

/// [`Selection`] as it is said on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Pages {
    /// All that was in the page cache after the recorded call.
    Host,
    /// What the guest touched.
    Touched,
    /// What the guest touched, then the rest.
    Tiered,
}

impl Options {
    fn build(&self) -> BuildOptions {
        let selection = match self.pages {
            Pages::Host => Selection::Host,
            Pages::Touched => Selection::Touched,
            Pages::Tiered => Selection::Tiered,
        };
        BuildOptions {
            selection,
            loading_gap: self.gap,
            written_gap: self.written_gap,
            ..BuildOptions::default()
        }
    }
}

/// Compares the ways there are.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    compare(&PAGING, options, runs)
}

/// Compares the steps that lead to the best of them.
pub fn steps(options: &Options, runs: u32) -> Outcome<Report> {
    compare(&STEPS, options, runs)
}

fn compare(comparison: &Comparison, options: &Options, runs: u32) -> Outcome<Report> {
    let monitor = program::monitor(options.monitor.as_deref())?;
    let ways = chosen(comparison.ways, &options.modes, |way| way.name)?;
    let patterns = chosen(&PATTERNS, &options.patterns, |pattern| pattern.name)?;
    let parent = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?.parent().unwrap_or(Path::new(".")).to_owned(),
    };
    probe::check_on_disk(&parent)?;
    let mut folder = tempfile::Builder::new().prefix("paging-").tempdir_in(&parent)?;
    if options.keep {
        folder.disable_cleanup(true);
        eprintln!("The snapshots are in {}", folder.path().display());
    }

    let mut report = Report::new(comparison.name, runs);
    // Decides how much a fault brings in beside what it asked for, and with that every figure below.
    if let Some(kib) = probe::read_ahead_kib(&parent) {
        report.machine = format!("{}; the disk reads {kib} KiB ahead", report.machine);
    }
    for pattern in patterns {
        let place = folder.path().join(pattern.name);
        std::fs::create_dir(&place)?;
        let guest = pattern.guest(options.scale, options.recordings.into())?;
        let snapshot = prepare(&monitor, &guest, &place, options.share.into(), &options.build())?;
        report.parts.insert(pattern.name.to_owned(), part(&monitor, &snapshot, &ways, runs)?);
        if !options.keep {
            std::fs::remove_dir_all(&place)?;
        }
    }
    report.sum_up();
    for (slow, fast) in comparison.ratios {
        report.ratio(slow, fast);
    }
    Ok(report)
}

/// Those of `all` that are named, or all.
fn chosen<T: Copy>(all: &[T], names: &[String], name: impl Fn(&T) -> &str) -> Outcome<Vec<T>> {
    if let Some(unknown) = names.iter().find(|wanted| !all.iter().any(|one| name(one) == *wanted)) {
        let known: Vec<&str> = all.iter().map(&name).collect();
        return Err(format!("There is no {unknown}, only {}", known.join(", ")).into());
    }
    Ok(all
        .iter()
        .filter(|one| names.is_empty() || names.iter().any(|wanted| name(one) == wanted))
        .copied()
        .collect())
}

/// Measures all ways of restoring one snapshot, in turn.
fn part(monitor: &Path, snapshot: &Prepared, ways: &[Way], runs: u32) -> Outcome<Part> {
    let mut samples: Vec<Vec<Sample>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..=runs {
        // Every round begins with another one, so that none always follows the same.
        let first = usize::try_from(round)? % ways.len();
        for index in (first..ways.len()).chain(0..first) {
            let (Some(way), Some(series)) = (ways.get(index), samples.get_mut(index)) else { continue };
            let sample = measure(monitor, snapshot, way)
                .map_err(|error| format!("{}: {}", way.name, mote_monitor::error_chain(error.as_ref())))?;
            if round > 0 {
                series.push(sample);
            }
        }
    }
    let mut part = Part::default();
    for (way, samples) in ways.iter().zip(&samples) {
        part.modes.insert(way.name.to_owned(), figures(way, samples, snapshot));
    }
    Ok(part)
}

fn figures(way: &Way, samples: &[Sample], snapshot: &Prepared) -> Mode {
    let totals: Vec<f64> = samples.iter().map(|sample| sample.total_ms).collect();
    let mut mode = Mode::of(&totals);
    let mut series: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in samples.iter().flat_map(|sample| &sample.counts) {
        series.entry(name).or_default().push(*value);
    }
    mode.counts.extend(series.into_iter().map(|(name, values)| (name.to_owned(), quantile(&values, 0.5))));
    if way.plan.is_some() {
        let built = &snapshot.built;
        let pages =
            [("loading_set_pages", built.loading_pages), ("loading_set_regions", built.loading_regions)];
        mode.counts.extend(pages.map(|(name, count)| (name.to_owned(), number(count))));
    }
    mode
}
