//! The table, the line for an issue, the chart, JSON.

use super::cases::{Call, Case};
use super::chart::{BLUE, Chart, Line, ORANGE, SeriesLabelPosition, VERMILION};
use super::measure::{Measured, median};
use serde_json::json;
use std::path::Path;

pub struct Row {
    device: String,
    case: String,
    call: Call,
    measured: Measured,
    tensor_bytes: u64,
    least_bytes: u64,
    plan_bytes: u64,
    clock: &'static str,
}

impl Row {
    pub fn new(device: &str, case: &Case, measured: Measured, plan_bytes: u64, clock: &'static str) -> Row {
        Row {
            device: device.into(),
            case: case.name(),
            call: case.call,
            measured,
            tensor_bytes: case.tensor_bytes(),
            least_bytes: case.least_bytes(),
            plan_bytes,
            clock,
        }
    }

    fn rate(&self) -> f64 {
        self.least_bytes as f64 / self.measured.seconds / 1e9
    }

    fn copy_rate(&self) -> f64 {
        2.0 * self.tensor_bytes as f64 / self.measured.copy_seconds / 1e9
    }

    pub fn print(&self) {
        let Measured { seconds, ratio, .. } = self.measured;
        let time =
            if seconds < 1e-3 { format!("{:8.2} us", seconds * 1e6) } else { format!("{:8.2} ms", seconds * 1e3) };
        println!(
            "{:<12} {:<44} {:<9} {time}  {:>7.2} MB at least  {:>6.1} GB/s  copy {:>6.1} GB/s  {:>5.2} copies",
            self.device,
            self.case,
            self.call.name(),
            self.least_bytes as f64 / 1e6,
            self.rate(),
            self.copy_rate(),
            ratio,
        );
    }
}

/// One line about the last device's rows.
pub fn line(description: &str, rows: &[Row]) -> String {
    let Some(device) = rows.last().map(|r| &r.device) else { return description.into() };
    let of_device = || rows.iter().filter(|r| r.device == *device);
    let medians = Call::ALL.map(|call| {
        let mut ratios: Vec<f64> = of_device().filter(|r| r.call == call).map(|r| r.measured.ratio).collect();
        format!("{} {:.2}", call.name(), median(&mut ratios))
    });
    let copy = of_device().map(Row::copy_rate).fold(0.0, f64::max);
    let clock = rows.last().map_or("", |r| r.clock);
    format!("{description}: copy {copy:.0} GB/s; in copies: {} ({clock}, medians of shapes)", medians.join(", "))
}

pub fn plot(rows: &[Row], path: &Path) -> Result<(), String> {
    let lines = Call::ALL.into_iter().zip([BLUE, ORANGE, VERMILION]).map(|(call, colour)| {
        let of_call = rows.iter().filter(|r| r.call == call);
        let mut points: Vec<(f64, f64)> = of_call.map(|r| (r.tensor_bytes as f64 / 1e6, r.measured.ratio)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line { label: call.name().into(), points, colour, dashed: false }
    });
    Chart {
        title: "Time of a call over that of a copy of one of its tensors",
        x_label: "megabytes of a tensor",
        y_label: "copies",
        x_doubles: true,
        legend: SeriesLabelPosition::UpperRight,
        lines: lines.filter(|line| !line.points.is_empty()).collect(),
    }
    .write(path)
}

pub fn json(rows: &[Row], path: &Path) -> Result<(), String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|r| {
            json!({
                "device": r.device, "case": r.case, "op": r.call.name(), "clock": r.clock,
                "seconds": r.measured.seconds, "copy_seconds": r.measured.copy_seconds, "copies": r.measured.ratio,
                "tensor_bytes": r.tensor_bytes, "least_bytes": r.least_bytes, "plan_bytes": r.plan_bytes,
                "gb_per_s": r.rate(), "copy_gb_per_s": r.copy_rate(),
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&rows).map_err(|e| e.to_string())?;
    std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}. Choose another place with --json", path.display()))
}
