//! The part of docs/BENCHMARKS.md that is written by the benchmarks.

use std::collections::{BTreeMap, BTreeSet};

use crate::Outcome;
use crate::figures::{Mode, Report, shown};

use super::style;

const BEGIN: &str = "<!-- written by `bench plots`: begin -->\n";
const END: &str = "<!-- written by `bench plots`: end -->\n";

/// A benchmark's heading, figure and table.
pub fn section(
    title: &str,
    about: &str,
    figure: Option<&str>,
    counts: &[(&str, &str)],
    report: &Report,
) -> String {
    let mut text = format!("## {title}\n\n");
    if !about.is_empty() {
        text += &format!("{about}\n\n");
    }
    if !report.note.is_empty() {
        text += &format!("{}\n\n", report.note);
    }
    if let Some(figure) = figure {
        text += &format!("![{title}](figures/{figure})\n\n");
    }
    if report.parts.is_empty() {
        return text + &format!("```\n{report}```\n");
    }
    text += &format!("Medians of {} runs in milliseconds, on {}.\n\n", report.n, report.machine);
    match counts {
        _ if !report.modes.is_empty() => text + &table(report),
        [] => text + &unlike(report),
        _ => text + &counted(report, counts),
    }
}

/// A row for each mode of each part, with more than its median.
fn counted(report: &Report, counts: &[(&str, &str)]) -> String {
    let names = counts.iter().map(|(_, unit)| *unit).collect::<Vec<_>>().join(" | ");
    let mut text = format!("| | | median ms | {names} |\n|---|---|---:|{}\n", "---:|".repeat(counts.len()));
    for (key, part) in &report.parts {
        for mode in style::series(part.modes.keys()) {
            let Some(figures) = part.modes.get(&mode.name) else { continue };
            let count = |(name, _): &(&str, &str)| figures.counts.get(*name).map(|value| digits(*value));
            let cells: Vec<String> = counts.iter().map(|name| count(name).unwrap_or_default()).collect();
            let median = digits(figures.median_ms);
            text += &format!("| {key} | {} | {median} | {} |\n", mode.name, cells.join(" | "));
        }
    }
    text + &ratios(report)
}

fn ratios(report: &Report) -> String {
    let lines: String =
        report.ratios.iter().map(|(key, ratio)| format!("{key} = {}\n", shown(*ratio))).collect();
    format!("\n```\n{lines}```\n")
}

/// Parts that are not of one kind: nothing is summed up over them.
fn unlike(report: &Report) -> String {
    let modes = style::series(report.parts.values().flat_map(|part| part.modes.keys()));
    let names = modes.iter().map(|mode| mode.name.as_str()).collect::<Vec<_>>().join(" | ");
    let mut text = format!("| | {names} |\n|---|{}\n", "---:|".repeat(modes.len()));
    for (key, part) in &report.parts {
        let median = |name| part.modes.get(name).map_or_else(String::new, |mode| digits(mode.median_ms));
        let cells: Vec<String> = modes.iter().map(|mode| median(&mode.name)).collect();
        text += &format!("| {key} | {} |\n", cells.join(" | "));
    }
    text + &ratios(report)
}

/// Three digits that say something.
fn digits(value: f64) -> String {
    match value {
        _ if value < 1.0 => format!("{value:.3}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn table(report: &Report) -> String {
    let modes = style::series(report.modes.keys());
    let ratios: Vec<&String> = report.ratios.keys().filter(|key| !key.contains('@')).collect();
    let names = modes.iter().map(|mode| mode.name.as_str()).chain(ratios.iter().map(|key| key.as_str()));
    let mut text = format!("| | {} |\n", names.collect::<Vec<_>>().join(" | "));
    text += &format!("|---|{}\n", "---:|".repeat(modes.len() + ratios.len()));
    let mut row = |name: &str, figures: &BTreeMap<String, Mode>, share: &dyn Fn(&str) -> Option<f64>| {
        let medians =
            modes.iter().map(|mode| figures.get(&mode.name).map(|figure| format!("{:.0}", figure.median_ms)));
        let shares = ratios.iter().map(|key| share(key).map(|ratio| format!("{ratio:.2}")));
        let cells: Vec<String> = medians.chain(shares).map(Option::unwrap_or_default).collect();
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    };
    for (key, part) in &report.parts {
        row(key, &part.modes, &|ratio| part.ratios.get(ratio).copied());
    }
    // Ratios over some of the parts, such as `lazy/faasnap@A-B`.
    let some: BTreeSet<&str> = report.ratios.keys().filter_map(|key| Some(key.split_once('@')?.1)).collect();
    for parts in some {
        let share = |ratio: &str| report.ratios.get(&format!("{ratio}@{parts}")).copied();
        row(&format!("geometric mean {parts}"), &BTreeMap::new(), &share);
    }
    row("geometric mean", &report.modes, &|ratio| report.ratios.get(ratio).copied());
    text
}

/// The page with these sections between its two marks, each in its old place if it has one. Others stay as they are:
/// what was measured before need not be measured again.
pub fn put(page: &str, sections: &[String]) -> Outcome<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (between, after) = rest.split_once(END)?;
        Some((before, between, after))
    });
    let (before, between, after) = parts.ok_or_else(|| format!("The page has no lines {BEGIN}and {END}"))?;
    let mut all: Vec<&str> = Vec::new();
    let mut rest = between.trim();
    while !rest.is_empty() {
        let end = rest.find("\n## ").map_or(rest.len(), |end| end + 1);
        let (section, more) = rest.split_at(end);
        all.push(section.trim_end());
        rest = more;
    }
    for section in sections {
        let section = section.trim_end();
        match all.iter_mut().find(|old| heading(old) == heading(section)) {
            Some(old) => *old = section,
            None => all.push(section),
        }
    }
    Ok(format!("{before}{BEGIN}\n{}\n\n{END}{after}", all.join("\n\n")))
}

fn heading(section: &str) -> &str {
    section.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::figures::Part;

    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_part_and_one_for_all() {
        let mut report = Report::new("test", 3);
        for (key, lazy) in [("one", 20.0), ("two", 80.0)] {
            let mut part = Part::default();
            part.modes.insert("lazy".to_owned(), Mode::of(&[lazy]));
            part.modes.insert("faasnap".to_owned(), Mode::of(&[10.0]));
            report.parts.insert(key.to_owned(), part);
        }
        report.sum_up();
        report.ratio("lazy", "faasnap");
        report.ratios.insert("lazy/faasnap@A-B".to_owned(), 3.0);
        let rows: Vec<String> = table(&report).lines().map(str::to_owned).collect();
        assert_eq!(rows[0], "| | lazy | faasnap | lazy/faasnap |");
        assert_eq!(rows[1], "|---|---:|---:|---:|");
        assert_eq!(rows[3], "| two | 80 | 10 | 8.00 |");
        assert_eq!(rows[4], "| geometric mean A-B |  |  | 3.00 |");
        assert_eq!(rows[5], "| geometric mean | 40 | 10 | 4.00 |");
    }

    #[test]
    fn only_what_was_measured_changes_between_the_marks() {
        let page = format!("# Head\n{BEGIN}\n## Old\n\n1\n\n## Other\n\n2\n\n{END}tail\n");
        let measured = ["## Other\n\n3\n".to_owned(), "## New\n".to_owned()];
        let once = put(&page, &measured).unwrap();
        assert_eq!(once, format!("# Head\n{BEGIN}\n## Old\n\n1\n\n## Other\n\n3\n\n## New\n\n{END}tail\n"));
        assert_eq!(put(&once, &measured).unwrap(), once);
        assert!(put("# Head\n", &[]).is_err());
        let empty = format!("{BEGIN}{END}");
        assert_eq!(put(&empty, &measured[1..]).unwrap(), format!("{BEGIN}\n## New\n\n{END}"));
    }

    #[test]
    fn parts_that_are_not_alike_are_not_summed_up() {
        let mut report = Report::new("test", 3);
        for (key, mode, ms) in [("1 endpoint", "tap", 0.25), ("latency", "veth", 1234.0)] {
            report.parts.entry(key.to_owned()).or_default().modes.insert(mode.to_owned(), Mode::of(&[ms]));
        }
        report.ratios.insert("overlay/tap@1".to_owned(), 3.0);
        let text = section("Test", "", None, &[], &report);
        for line in ["| 1 endpoint | 0.250 |  |", "| latency |  | 1234 |", "overlay/tap@1 = 3.00"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("figures/"), "{text}");
        report.note = "Not real.".to_owned();
        let veth = report.parts.get_mut("latency").unwrap().modes.get_mut("veth").unwrap();
        veth.counts.insert("cold".to_owned(), 12.5);
        let text = section("Test", "", None, &[("cold", "cold %"), ("hot", "hot %")], &report);
        for line in
            ["Not real.\n", "| | | median ms | cold % | hot % |", "| latency | veth | 1234 | 12.5 |  |"]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
