//! The chart: each call's bandwidth as a part of the copy's.

use super::cases::Call;
use super::chart::{BLUE, ORANGE, VERMILION, svg};
use super::report::Row;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const WIDTH: i32 = 900;
/// Left end of the bars, right of the cases' names.
const LEFT: i32 = 330;
const BAR: i32 = 11;
/// Above the first case of a device, and below the last of all.
const HEAD: i32 = 40;

fn colour(call: Call) -> RGBColor {
    match call {
        Call::Train => BLUE,
        Call::Eval => ORANGE,
        Call::Backward => VERMILION,
    }
}

/// One bar a row, in the order of the rows.
pub fn plot(rows: &[Row], path: &Path) -> Result<(), String> {
    let devices: Vec<&[Row]> = rows.chunk_by(|a, b| a.device == b.device).collect();
    let cases = |rows: &[Row]| rows.chunk_by(|a, b| a.case.name() == b.case.name()).count() as i32;
    let height: i32 = devices.iter().map(|rows| HEAD + rows.len() as i32 * BAR + cases(rows) * BAR).sum();
    let most = rows.iter().map(Row::ratio).fold(1.0, f64::max);
    let x = |ratio: f64| LEFT + (ratio / most * f64::from(WIDTH - LEFT - 60)) as i32;

    svg(path, (WIDTH as u32, (height + 2 * HEAD) as u32), |area| {
        let failed = |e: DrawingAreaErrorKind<_>| e.to_string();
        let text = |text: &str, at: (i32, i32), size: i32, hpos: HPos, colour: RGBColor| {
            let style = ("sans-serif", size).into_font().color(&colour).pos(Pos::new(hpos, VPos::Center));
            area.draw(&Text::new(text.to_owned(), at, style)).map_err(failed)
        };
        text("Bytes a second over those of a copy: 1 is a call as fast as the copy", (14, 22), 18, HPos::Left, BLACK)?;
        for (call, from) in Call::ALL.into_iter().zip([LEFT, LEFT + 90, LEFT + 170]) {
            area.draw(&Rectangle::new([(from, 42), (from + 14, 52)], colour(call).filled())).map_err(failed)?;
            text(call.name(), (from + 20, 47), 14, HPos::Left, BLACK)?;
        }
        let mut y = HEAD + 8;
        for rows in devices {
            y += HEAD;
            text(&rows[0].device, (14, y - 14), 16, HPos::Left, BLACK)?;
            let bottom = y + (rows.len() as i32 + cases(rows)) * BAR - BAR / 2;
            for tick in (0..).map(|quarters| f64::from(quarters) / 4.0).take_while(|&tick| tick <= most) {
                let shade = if tick == 0.0 {
                    120
                } else if tick == 1.0 {
                    60
                } else {
                    225
                };
                let line = PathElement::new(vec![(x(tick), y - 6), (x(tick), bottom)], RGBColor(shade, shade, shade));
                area.draw(&line).map_err(failed)?;
                text(&tick.to_string(), (x(tick), y - 14), 12, HPos::Center, BLACK)?;
            }
            for case in rows.chunk_by(|a, b| a.case.name() == b.case.name()) {
                let middle = y + case.len() as i32 * BAR / 2;
                text(&case[0].case.name(), (LEFT - 10, middle), 13, HPos::Right, BLACK)?;
                for row in case {
                    let bar = [(LEFT, y), (x(row.ratio()), y + BAR - 1)];
                    area.draw(&Rectangle::new(bar, colour(row.case.call).filled())).map_err(failed)?;
                    text(&format!("{:.2}", row.ratio()), (bar[1].0 + 5, y + BAR / 2), 11, HPos::Left, BLACK)?;
                    y += BAR;
                }
                y += BAR;
            }
        }
        Ok(())
    })
}
