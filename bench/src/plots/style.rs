//! What all plots look like: colours that can be told apart on light and on dark backgrounds, text, the legend.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Where plots are drawn: SVG without a background of its own.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What drawing gives.
pub type Drawn<T = ()> = Result<T, Box<dyn Error>>;

/// Text and axes: a grey that white and black backgrounds both show.
pub const INK: RGBColor = RGBColor(0x75, 0x7f, 0x8a);
const FONT: &str = "sans-serif";

/// Modes in the order in which they are drawn, each in its colour wherever it appears.
const MODES: [(&str, RGBColor); 12] = [
    ("cold", RGBColor(0x8c, 0x6d, 0x46)),
    ("lazy", RGBColor(0xd1, 0x4b, 0x5f)),
    ("concurrent", RGBColor(0xb0, 0x5c, 0xc4)),
    ("regions", RGBColor(0x4a, 0x7f, 0xd1)),
    ("reap", RGBColor(0xd0, 0x82, 0x14)),
    ("faasnap", RGBColor(0x1a, 0x95, 0x84)),
    ("cached", RGBColor(0x86, 0x90, 0x9c)),
    ("restore", RGBColor(0x1a, 0x95, 0x84)),
    ("warm", RGBColor(0x86, 0x90, 0x9c)),
    ("elf", RGBColor(0x1a, 0x95, 0x84)),
    ("bzimage", RGBColor(0xd0, 0x82, 0x14)),
    ("populate", RGBColor(0x5f, 0x8f, 0x2e)),
];

/// For modes that have no colour of their own.
const OTHERS: [RGBColor; 4] = [
    RGBColor(0x5f, 0x8f, 0x2e),
    RGBColor(0xb0, 0x5c, 0xc4),
    RGBColor(0x4a, 0x7f, 0xd1),
    RGBColor(0x8c, 0x6d, 0x46),
];

/// A series and its colour.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name of the mode.
    pub name: String,
    /// Its colour.
    pub colour: RGBColor,
}

/// Puts modes into their order and gives them their colours.
pub fn series<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<Series> {
    let place = |name: &str| MODES.iter().position(|(known, _)| *known == name).unwrap_or(MODES.len());
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| (place(name), name.as_str()));
    names.dedup();
    let mut others = OTHERS.iter().cycle().copied();
    names
        .into_iter()
        .map(|name| {
            let known = MODES.get(place(name)).map(|(_, colour)| *colour);
            Series { name: name.clone(), colour: known.or_else(|| others.next()).unwrap_or(INK) }
        })
        .collect()
}

/// Text of a size, anchored.
pub fn text(size: u32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK).pos(Pos::new(horizontal, vertical))
}

/// The same in bold.
pub fn bold(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().style(FontStyle::Bold).color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
}

/// Draws coloured squares with names, from the left.
pub fn legend(area: &Area<'_>, series: &[Series], note: &str) -> Drawn {
    const SQUARE: i32 = 12;
    const GAP: i32 = 28;
    let middle = 12;
    let mut x = 12;
    for one in series {
        let corners = [(x, middle - SQUARE / 2), (x + SQUARE, middle + SQUARE / 2)];
        area.draw(&Rectangle::new(corners, one.colour.filled()))?;
        area.draw(&Text::new(
            one.name.clone(),
            (x + SQUARE + 6, middle),
            text(16, HPos::Left, VPos::Center),
        ))?;
        x += SQUARE + 6 + width(&one.name, 14) + GAP;
    }
    area.draw(&Text::new(note.to_owned(), (x, middle), text(14, HPos::Left, VPos::Center)))?;
    Ok(())
}

/// About how wide a text is: there is no font at hand to ask.
pub fn width(text: &str, size: i32) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX / 100) * size * 11 / 20
}

/// A number with as many digits as one reads.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_keep_order_and_colour() {
        let names = ["faasnap", "mine", "cached", "lazy", "lazy"].map(str::to_owned);
        let drawn = series(&names);
        let order: Vec<&str> = drawn.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(order, ["lazy", "faasnap", "cached", "mine"]);
        assert_eq!(drawn[0], series(&names[3..])[0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 1.234, 12.34, 123.4, 12345.0, 2.5e6].map(short),
            ["0", "1.23", "12.3", "123", "12k", "2.5M"]
        );
    }
}
