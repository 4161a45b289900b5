//! Draws what the benchmarks found, and puts figures and tables into docs/BENCHMARKS.md.

mod bars;
mod lines;
mod page;
mod style;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use plotters::prelude::*;

use crate::Outcome;
use crate::figures::{Mode, Report};
use bars::{Bar, Group};
use style::{Area, Drawn, Series};

/// Where results are and where figures go.
#[derive(Debug, Args)]
pub struct Options {
    /// Folder with one JSON file for each benchmark.
    #[arg(long, default_value = "results")]
    results: PathBuf,
    /// Folder with BENCHMARKS.md; figures go into `figures` below it.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

/// What is said and drawn of a benchmark.
struct Plot {
    /// The benchmark. A file `NAME-MORE.json` is another run of it.
    name: &'static str,
    title: &'static str,
    about: &'static str,
    /// Further figures that get a diagram of their own, and their unit. Where there is no diagram: a column.
    counts: &'static [(&'static str, &'static str)],
}

/// In the order of the page. What is not listed comes after it, by name.
const PLOTS: [Plot; 10] = [
    Plot {
        name: "start",
        title: "Cold, from a snapshot, warm",
        about: "One call of a small function as its client sees it.",
        counts: &[],
    },
    Plot {
        name: "restore",
        title: "Functions from their snapshots",
        about: "Every function is recorded with one input and called with another. Nothing of the snapshot is in the \
                page cache before a call, except for `cached`, which has all of it there.",
        counts: &[],
    },
    Plot {
        name: "inputs",
        title: "Larger and smaller inputs",
        about: "Recorded with an input of size 1, called with other inputs of other sizes.",
        counts: &[],
    },
    Plot {
        name: "burst",
        title: "Many calls at once",
        about: "Calls that begin together, all of one function (same) or each of another (different): the mean over \
                the calls of a burst.",
        counts: &[],
    },
    Plot {
        name: "steps",
        title: "Step by step",
        about: "What each part of the mechanism adds.",
        counts: &[("major_faults", "major faults"), ("disk_mib", "MiB read")],
    },
    Plot {
        name: "paging",
        title: "Memory alone",
        about: "Micro-guests that do nothing but touch memory, run natively.",
        counts: &[("major_faults", "major faults")],
    },
    Plot { name: "layers", title: "Layered snapshots", about: "", counts: &[] },
    Plot {
        name: "monitor",
        title: "What a monitor costs",
        about: "CPU time of a monitor process until its guest runs, without the time inside KVM's system calls.",
        counts: &[],
    },
    Plot {
        name: "network",
        title: "Networks of sandboxes",
        about: "Endpoints made one after the other (and by eight threads, x8), with all that has to be there before: \
                a veth pair, bridge and VXLAN device in a namespace for each (`overlay`), the same without moves \
                (`born`), shared or batched, addresses on one device (`particle`), queues of TAP devices (`tap`, what \
                the product uses). Latency of a small frame there and back, and waves of 100 sandboxes of which each \
                connects to one of the wave before and moves 1 MB.",
        counts: &[],
    },
    Plot {
        name: "sched",
        title: "Scheduling",
        about: "Schedulers that know nodes only, OpenWhisk's `sticky-random` first, against those that know sandboxes: \
                the pairs of chapter 4 of Ao's dissertation (warm choice, then placement: `ma` most available memory, \
                `sr` sticky, `mc` least cost of evictions), as a user of the product gets them, with its queue, late \
                binding and bound on starts. On the way there: `ma-mc-clients` is the dissertation's (a call is bound \
                to the sandbox started for it, others wait with their clients), `ma-mc-early` has the product's \
                queue, `ma-mc-late` gives a call the first sandbox that is free, `ma-mc` starts no more on a node at \
                once than it makes; `sticky-random-queue` has all that without the knowledge. `mote` is the product's \
                own configuration (`ma-mc` with greedy-dual eviction and the histogram), `mote-lru` and \
                `mote-min-cost` the same with other evictions. Nodes have 20 GB for sandboxes. Latency is from a \
                call's coming until it runs. Under a rising load the most answers a second in ten seconds \
                are told, and sustained the same while calls hardly wait: what comes is served, not only what is \
                quick. Cold are calls that ran in a sandbox made after they came; starts are all sandboxes made. \
                `best-other` is the best of the dissertation's schedulers besides `ma-mc`. `ma-mc-sampled` looks at \
                ten nodes for a decision. Wasted memory is that of sandboxes that wait for calls. CPU time is the \
                scheduler's alone, real, its inputs replayed to it.",
        counts: &[
            ("throughput", "answers/s at most"),
            ("sustained", "sustained/s"),
            ("cold_percent", "cold %"),
            ("created_percent", "starts %"),
            ("mean_ms", "mean ms"),
            ("p99_ms", "p99 ms"),
            ("memory_percent", "memory %"),
            ("imbalance_percent", "imbalance %"),
            ("waste_gb_s", "wasted GB·s"),
            ("decisions_per_s", "decisions/s"),
        ],
    },
];

const WIDTH: u32 = 960;
const LEGEND: u32 = 30;
const HEIGHT: u32 = 250;
/// Diagrams with lines stand side by side.
const COLUMNS: usize = 3;

/// Figures by mode.
type Modes = BTreeMap<String, Mode>;

/// A diagram of either kind.
#[derive(Debug, PartialEq)]
enum Panel {
    Bars(bars::Panel),
    Lines(lines::Panel),
}

/// Draws everything there are results of.
pub fn run(options: &Options) -> Outcome<()> {
    let mut sections = Vec::new();
    let folder = options.docs.join("figures");
    std::fs::create_dir_all(&folder)?;
    for (stem, report) in read(&options.results)? {
        let plot = PLOTS.iter().find(|plot| plot.name == report.name);
        // What is not alike is no diagram.
        let alike = report.parts.is_empty() || !report.modes.is_empty();
        let file = alike.then(|| format!("{stem}.svg"));
        if let Some(file) = &file {
            std::fs::write(folder.join(file), svg(&report, plot.map_or(&[], |plot| plot.counts))?)?;
            println!("{}", folder.join(file).display());
        }
        let title = plot.map_or(report.name.as_str(), |plot| plot.title);
        let more = stem.strip_prefix(report.name.as_str()).unwrap_or_default().trim_start_matches('-');
        let title = if more.is_empty() { title.to_owned() } else { format!("{title}: {more}") };
        let (about, counts) = plot.map_or(("", &[][..]), |plot| (plot.about, plot.counts));
        sections.push(page::section(&title, about, file.as_deref(), counts, &report));
    }
    if sections.is_empty() {
        return Err(format!("There are no results in {}: run `make bench`", options.results.display()).into());
    }
    let path = options.docs.join("BENCHMARKS.md");
    let text = page::put(&std::fs::read_to_string(&path)?, &sections)?;
    std::fs::write(&path, text)?;
    println!("{}", path.display());
    Ok(())
}

/// The reports with their files' names, in the order of the page.
fn read(folder: &Path) -> Outcome<Vec<(String, Report)>> {
    let mut reports = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if path.extension().is_some_and(|extension| extension == "json") {
            let report: Report = serde_json::from_str(&std::fs::read_to_string(&path)?)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            reports.push((stem.to_owned(), report));
        }
    }
    let place = |name: &str| PLOTS.iter().position(|plot| plot.name == name).unwrap_or(PLOTS.len());
    reports.sort_by_key(|(stem, report)| (place(&report.name), stem.clone()));
    Ok(reports)
}

/// A picture of a report.
fn svg(report: &Report, counts: &[(&str, &str)]) -> Drawn<String> {
    let series =
        style::series(report.parts.values().flat_map(|part| part.modes.keys()).chain(report.modes.keys()));
    let panels = panels(report, counts, &series);
    let lines = panels.iter().all(|panel| matches!(panel, Panel::Lines(_)));
    // Few bars need no whole row.
    let narrow = panels.iter().all(|panel| matches!(panel, Panel::Bars(bars) if bars.groups.len() <= 2));
    let columns = match panels.len() {
        _ if !lines && !narrow => 1,
        4 => 2,
        count => count.min(COLUMNS),
    }
    .max(1);
    let rows = panels.len().div_ceil(columns);
    let width = if narrow && columns == 1 { WIDTH / 2 } else { WIDTH };
    let size = (width, LEGEND + HEIGHT * u32::try_from(rows)?);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let (above, below) = root.split_vertically(LEGEND);
        let faint = panels.iter().any(|panel| {
            matches!(panel, Panel::Bars(bars) if bars.groups.iter().flat_map(|group| &group.bars).flatten().any(|bar| bar.base > 0.0))
        });
        style::legend(&above, &series, if faint { "fainter: set-up; whiskers: quartiles" } else { "" })?;
        for (area, panel) in below.split_evenly((rows, columns)).iter().zip(&panels) {
            draw(area, panel, &series)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn draw(area: &Area<'_>, panel: &Panel, series: &[Series]) -> Drawn {
    match panel {
        Panel::Bars(panel) => bars::draw(area, panel, series),
        Panel::Lines(panel) => lines::draw(area, panel, series),
    }
}

/// Parts called `THING xSIZE` become lines over the sizes; others become groups of bars, in a diagram for each pair of
/// inputs (`THING A-B`); a report without parts becomes one group.
fn panels(report: &Report, counts: &[(&str, &str)], series: &[Series]) -> Vec<Panel> {
    let sized: Vec<(&str, f64, &Modes)> = report
        .parts
        .iter()
        .filter_map(|(key, part)| {
            let (thing, size) = key.rsplit_once(" x")?;
            Some((thing, size.parse().ok()?, &part.modes))
        })
        .collect();
    if !sized.is_empty() && sized.len() == report.parts.len() {
        return over_sizes(&sized, series);
    }
    let mut diagrams: BTreeMap<&str, Vec<(&str, &Modes)>> = BTreeMap::new();
    for (key, part) in &report.parts {
        let (thing, pair) = pair_of(key).unwrap_or((key, ""));
        diagrams.entry(pair).or_default().push((thing, &part.modes));
    }
    if diagrams.is_empty() {
        diagrams.insert("", vec![("", &report.modes)]);
    }
    let mut panels = Vec::new();
    for (pair, groups) in &diagrams {
        let title = match pair.split_once('-') {
            Some((recorded, tested)) => format!("recorded with input {recorded}, called with {tested}"),
            None if diagrams.len() > 1 => "recorded and called with the same input".to_owned(),
            None => "median".to_owned(),
        };
        panels.push(Panel::Bars(of_groups(title, "ms", groups, series, &time)));
        for (count, unit) in counts {
            let value = |mode: &Mode| {
                let value = mode.counts.get(*count).copied()?;
                Some(Bar { value, base: 0.0, spread: None })
            };
            panels.push(Panel::Bars(of_groups((*unit).to_owned(), "", groups, series, &value)));
        }
    }
    // The one without pairs is of the functions whose inputs do not differ: last.
    if diagrams.len() > 1 && diagrams.contains_key("") {
        panels.rotate_left(1 + counts.len());
    }
    panels
}

/// `image A-B` is `image` and `A-B`.
fn pair_of(key: &str) -> Option<(&str, &str)> {
    let (thing, pair) = key.rsplit_once(' ')?;
    let (recorded, tested) = pair.split_once('-')?;
    (recorded.len() == 1 && tested.len() == 1).then_some((thing, pair))
}

fn time(mode: &Mode) -> Option<Bar> {
    let base = mode.counts.get("setup_ms").copied().unwrap_or_default();
    Some(Bar { value: mode.median_ms, base, spread: Some((mode.p25_ms, mode.p75_ms)) })
}

fn of_groups(
    title: String,
    unit: &str,
    groups: &[(&str, &Modes)],
    series: &[Series],
    bar: &dyn Fn(&Mode) -> Option<Bar>,
) -> bars::Panel {
    let groups = groups
        .iter()
        .map(|(label, modes)| Group {
            label: (*label).to_owned(),
            bars: series.iter().map(|one| modes.get(&one.name).and_then(bar)).collect(),
        })
        .collect();
    bars::Panel { title, unit: unit.to_owned(), groups }
}

fn over_sizes(sized: &[(&str, f64, &Modes)], series: &[Series]) -> Vec<Panel> {
    let mut things: BTreeMap<&str, Vec<(f64, &Modes)>> = BTreeMap::new();
    for (thing, size, modes) in sized {
        things.entry(thing).or_default().push((*size, modes));
    }
    things
        .into_iter()
        .map(|(thing, mut points)| {
            points.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            let line = |one: &Series| {
                points.iter().map(|(_, modes)| modes.get(&one.name).map(|mode| mode.median_ms)).collect()
            };
            Panel::Lines(lines::Panel {
                title: thing.to_owned(),
                unit: "ms".to_owned(),
                sizes: points.iter().map(|(size, _)| format!("×{size}")).collect(),
                lines: series.iter().map(line).collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::figures::Part;

    use super::*;

    fn report(keys: &[&str]) -> Report {
        let mut report = Report::new("test", 3);
        for (at, key) in (1u32..).zip(keys) {
            let mut part = Part::default();
            for mode in ["lazy", "faasnap"] {
                part.modes.insert(mode.to_owned(), Mode::of(&[f64::from(at)]));
            }
            report.parts.insert((*key).to_owned(), part);
        }
        report
    }

    fn drawn(report: &Report) -> Vec<Panel> {
        panels(report, &[], &style::series(["faasnap".to_owned(), "lazy".to_owned()].iter()))
    }

    #[test]
    fn sizes_become_lines_in_their_order() {
        let panels = drawn(&report(&["image x0.25", "image x4", "image x16", "json x1"]));
        let [Panel::Lines(image), Panel::Lines(json)] = panels.as_slice() else { panic!("{panels:?}") };
        assert_eq!((image.title.as_str(), json.title.as_str()), ("image", "json"));
        assert_eq!(image.sizes, ["×0.25", "×4", "×16"]);
        assert_eq!(image.lines, [[Some(1.0), Some(2.0), Some(3.0)]; 2]);
    }

    #[test]
    fn pairs_of_inputs_become_diagrams() {
        let panels = drawn(&report(&["image A-B", "image B-A", "json A-B", "hello"]));
        let titles: Vec<&str> = panels
            .iter()
            .map(|panel| if let Panel::Bars(bars) = panel { bars.title.as_str() } else { "" })
            .collect();
        assert_eq!(
            titles,
            [
                "recorded with input A, called with B",
                "recorded with input B, called with A",
                "recorded and called with the same input",
            ]
        );
    }

    #[test]
    fn a_picture_shows_every_group_and_mode() {
        let picture = svg(&report(&["image A-B", "json A-B"]), &[]).unwrap();
        for word in ["image", "json", "lazy", "faasnap", "recorded with input A, called with B"] {
            assert!(picture.contains(word), "{word}");
        }
        // The page's own colour shows through.
        assert!(!picture.contains("#FFFFFF"));
    }
}
