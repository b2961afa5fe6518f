//! Charts as SVG.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

pub use plotters::prelude::SeriesLabelPosition;
use plotters::prelude::*;
use std::path::Path;

/// Distinguishable with any colour vision (Okabe and Ito, 2008).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const SKY: RGBColor = RGBColor(86, 180, 233);
pub const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub const ORANGE: RGBColor = RGBColor(230, 159, 0);

/// What pictures are drawn on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// One curve.
pub struct Line {
    pub label: String,
    pub points: Vec<(f64, f64)>,
    pub colour: RGBColor,
    /// Dashed lines are thinner, so that a solid one beneath can be seen.
    pub dashed: bool,
}

/// A chart. Both axes show what they count in, so labels should name the unit.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    /// x doubles from tick to tick.
    pub x_doubles: bool,
    /// Where no curve is.
    pub legend: SeriesLabelPosition,
    pub lines: Vec<Line>,
}

/// Draws a picture, writes it, and makes the folders on the way to it.
pub fn svg(path: &Path, size: (u32, u32), draw: impl FnOnce(&Area) -> Result<(), String>) -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("{}: {error}. Choose another place with --plot", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    }
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        draw(&area).map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    std::fs::write(path, text).map_err(|e| failed(&e))
}

impl Chart<'_> {
    /// Writes the chart.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        svg(path, (860, 500), |area| self.draw(area))
    }

    fn draw(&self, area: &Area) -> Result<(), String> {
        let text = |e: DrawingAreaErrorKind<_>| e.to_string();
        let at = |x: f64| if self.x_doubles { x.log2() } else { x };
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (first, last) = points().fold((f64::MAX, f64::MIN), |(lo, hi), p| (lo.min(at(p.0)), hi.max(at(p.0))));
        let top = points().fold(0.0, |top: f64, p| top.max(p.1)) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(first..last, 0.0..top)
            .map_err(text)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .axis_desc_style(("sans-serif", 16))
            .label_style(("sans-serif", 14))
            .x_labels(9)
            .y_labels(8)
            .x_label_formatter(&|x| if self.x_doubles { format!("{}", x.exp2()) } else { format!("{x}") })
            .y_label_formatter(&|y| format!("{y:.1}"))
            .draw()
            .map_err(text)?;
        for line in &self.lines {
            let style = line.colour.stroke_width(if line.dashed { 2 } else { 4 });
            let points = line.points.iter().map(|&(x, y)| (at(x), y));
            let drawn = if line.dashed {
                chart.draw_series(DashedLineSeries::new(points, 7, 5, style))
            } else {
                chart.draw_series(LineSeries::new(points, style))
            };
            // Two strokes that meet, or do not.
            let strokes = if line.dashed { [(0, 8), (14, 22)] } else { [(0, 12), (10, 22)] };
            drawn.map_err(text)?.label(&line.label).legend(move |at| {
                let [first, second] = strokes.map(|(from, to)| PathElement::new(vec![(from, 0), (to, 0)], style));
                EmptyElement::at(at) + first + second
            });
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(225, 225, 225))
            .legend_area_size(30)
            .label_font(("sans-serif", 15))
            .draw()
            .map_err(text)
    }
}
