//! Lines: one for each mode over sizes that double.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::bars::absolute;
use super::style::{Area, Drawn, INK, Series, bold, short, text};

/// One diagram. Sizes stand at equal distances, as each is a multiple of the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What the axis counts.
    pub unit: String,
    /// Labels of the sizes.
    pub sizes: Vec<String>,
    /// Values for each series, in its order, at each size.
    pub lines: Vec<Vec<Option<f64>>>,
}

/// Draws a diagram.
pub fn draw(area: &Area<'_>, panel: &Panel, series: &[Series]) -> Drawn {
    let top = panel.lines.iter().flatten().flatten().copied().fold(0.0, f64::max);
    let last = f64::from(u32::try_from(panel.sizes.len().saturating_sub(1))?);
    let mut chart = ChartBuilder::on(area)
        .margin_top(30)
        .margin_right(14)
        .x_label_area_size(24)
        .y_label_area_size(58)
        .build_cartesian_2d(-0.2..last + 0.2, 0.0..(if top > 0.0 { top * 1.08 } else { 1.0 }))?;
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
    // What is first in the legend lies above what comes later.
    for (one, values) in series.iter().zip(&panel.lines).rev() {
        let points: Vec<(f64, f64)> =
            (0u32..).zip(values).filter_map(|(at, value)| Some((f64::from(at), (*value)?))).collect();
        chart.draw_series(LineSeries::new(points.iter().copied(), one.colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, one.colour.filled())))?;
    }
    for (at, size) in (0u32..).zip(&panel.sizes) {
        let (x, y) = chart.backend_coord(&(f64::from(at), 0.0));
        absolute(area, size, (x, y + 6), text(15, HPos::Center, VPos::Top))?;
    }
    Ok(())
}
