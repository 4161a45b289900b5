//! The part of docs/BENCHMARKS.md that is written by the benchmarks.

use std::collections::{BTreeMap, BTreeSet};

use crate::Outcome;
use crate::figures::{Mode, Report};

use super::style;

const BEGIN: &str = "<!-- written by `bench plots`: begin -->\n";
const END: &str = "<!-- written by `bench plots`: end -->\n";

/// A benchmark's heading, figure and table.
pub fn section(title: &str, about: &str, figure: &str, report: &Report) -> String {
    let mut text = format!("## {title}\n\n");
    if !about.is_empty() {
        text += &format!("{about}\n\n");
    }
    text += &format!("![{title}](figures/{figure})\n\n");
    if report.parts.is_empty() {
        return text + &format!("```\n{report}```\n");
    }
    text += &format!("Medians of {} runs in milliseconds, on {}.\n\n", report.n, report.machine);
    text + &table(report)
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

/// The page with these sections between its two marks.
pub fn put(page: &str, sections: &[String]) -> Outcome<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("The page has no lines {BEGIN}and {END}"))?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", sections.join("\n")))
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
    fn only_what_is_between_the_marks_changes() {
        let page = format!("# Head\n{BEGIN}old\n{END}tail\n");
        let once = put(&page, &["## New\n".to_owned()]).unwrap();
        assert_eq!(once, format!("# Head\n{BEGIN}\n## New\n\n{END}tail\n"));
        assert_eq!(put(&once, &["## New\n".to_owned()]).unwrap(), once);
        assert!(put("# Head\n", &[]).is_err());
    }
}
