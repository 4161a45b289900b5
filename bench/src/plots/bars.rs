//! Bars: one group for each function, one bar for each mode, its set-up fainter than the rest.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{Area, Drawn, INK, Series, bold, short, text};

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Its height.
    pub value: f64,
    /// How much of it, from below, is drawn fainter.
    pub base: f64,
    /// Quartiles, for a whisker.
    pub spread: Option<(f64, f64)>,
}

/// Bars that stand together; one for each series that has a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// What they are about.
    pub label: String,
    /// In the order of the series.
    pub bars: Vec<Option<Bar>>,
}

/// One diagram.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What the axis counts.
    pub unit: String,
    /// From the left.
    pub groups: Vec<Group>,
}

/// Part of a group's width that its bars take.
const FILLED: f64 = 0.82;

/// With no more bars than this each has its value above it.
const FEW: usize = 16;

/// Draws a diagram.
pub fn draw(area: &Area<'_>, panel: &Panel, series: &[Series]) -> Drawn {
    let bars = || panel.groups.iter().flat_map(|group| &group.bars).flatten();
    let top =
        bars().map(|bar| bar.spread.map_or(bar.value, |(_, high)| bar.value.max(high))).fold(0.0, f64::max);
    let groups = f64::from(u32::try_from(panel.groups.len())?);
    let mut chart = ChartBuilder::on(area)
        .margin_top(30)
        .margin_right(10)
        .x_label_area_size(24)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..groups, 0.0..(if top > 0.0 { top * 1.12 } else { 1.0 }))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(5)
        .y_label_formatter(&|value| short(*value))
        .y_desc(panel.unit.as_str())
        .axis_desc_style(text(14, HPos::Center, VPos::Center))
        .label_style(text(14, HPos::Right, VPos::Center))
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .draw()?;
    area.draw(&Text::new(panel.title.clone(), (12, 14), bold(16)))?;
    let values = bars().count() <= FEW;
    let places = f64::from(u32::try_from(series.len().max(1))?);
    for (at, group) in (0u32..).zip(&panel.groups) {
        let left = f64::from(at) + (1.0 - FILLED) / 2.0;
        let each = FILLED / places;
        for ((place, one), bar) in (0u32..).zip(series).zip(&group.bars) {
            let Some(bar) = bar else { continue };
            let from = f64::from(place).mul_add(each, left);
            let (from, to) = (from + each * 0.05, from + each * 0.95);
            let base = bar.base.clamp(0.0, bar.value);
            chart.draw_series([
                Rectangle::new([(from, 0.0), (to, base)], one.colour.mix(0.5).filled()),
                Rectangle::new([(from, base), (to, bar.value)], one.colour.filled()),
            ])?;
            let middle = f64::midpoint(from, to);
            if let Some((low, high)) = bar.spread {
                chart
                    .draw_series([PathElement::new([(middle, low), (middle, high)], INK.stroke_width(1))])?;
            }
            if values {
                let (x, y) = chart
                    .backend_coord(&(middle, bar.spread.map_or(bar.value, |(_, high)| high.max(bar.value))));
                absolute(area, &short(bar.value), (x, y - 4), text(13, HPos::Center, VPos::Bottom))?;
            }
        }
        let (x, y) = chart.backend_coord(&(f64::from(at) + 0.5, 0.0));
        absolute(area, &group.label, (x, y + 6), text(15, HPos::Center, VPos::Top))?;
    }
    Ok(())
}

/// Draws text at a place of the whole picture.
pub fn absolute(area: &Area<'_>, what: &str, (x, y): (i32, i32), style: TextStyle<'_>) -> Drawn {
    let (left, top) = area.get_base_pixel();
    area.draw(&Text::new(what.to_owned(), (x - left, y - top), style))?;
    Ok(())
}
