//! The table, the line for an issue, JSON.

use super::cases::{Call, Case};
use super::measure::{Measured, median};
use serde_json::json;
use std::path::Path;

/// What was measured of a case on a device.
pub struct Row {
    pub case: Case,
    /// By its short name.
    pub device: String,
    description: String,
    clock: &'static str,
    measured: Measured,
    plan_bytes: Option<u64>,
}

/// Column heads of what [`Row::line`] makes. With it, 78 characters.
pub fn head() -> String {
    format!("{:26}{:>11}{:>9}{:>8}{:>8}{:>8}{:>8}", "", "time", "least MB", "GB/s", "copy's", "ratio", "copies")
}

/// Says what the columns are.
pub const LEGEND: &str = "\
least MB: what the call must read and write; GB/s: that over the time.
copy's: GB/s of a copy of one such tensor, in turns with the call, by the fastest
of several ways. ratio: of the two. copies: the call's time over the copy's.";

/// Three digits that count.
fn short(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}

impl Row {
    pub fn new(
        case: &Case,
        device: &str,
        description: String,
        clock: &'static str,
        measured: Measured,
        plan_bytes: Option<u64>,
    ) -> Row {
        Row { case: case.clone(), device: device.into(), description, clock, measured, plan_bytes }
    }

    fn rate(&self) -> f64 {
        self.case.least_bytes() as f64 / self.measured.seconds / 1e9
    }

    fn copy_rate(&self) -> f64 {
        2.0 * self.case.tensor_bytes() as f64 / self.measured.copy_seconds / 1e9
    }

    /// The call's bytes a second over the copy's, from the pairs that ran one after the other.
    pub fn ratio(&self) -> f64 {
        self.case.least_bytes() as f64 / (2.0 * self.case.tensor_bytes() as f64) / self.measured.ratio
    }

    pub fn line(&self) -> String {
        let Measured { seconds, ratio, .. } = self.measured;
        let time = if seconds < 1e-3 { (seconds * 1e6, "us") } else { (seconds * 1e3, "ms") };
        format!(
            "{:26}{:>11}{:>9}{:>8}{:>8}{:>8}{:>8}",
            format!("  {}", self.case.call.name()),
            format!("{} {}", short(time.0), time.1),
            short(self.case.least_bytes() as f64 / 1e6),
            short(self.rate()),
            short(self.copy_rate()),
            short(self.ratio()),
            short(ratio),
        )
    }
}

/// One line about a device's rows, for an issue.
pub fn summary(rows: &[Row]) -> String {
    let Some(Row { description, clock, .. }) = rows.first() else { return String::new() };
    let ratios = Call::ALL.iter().filter_map(|&call| {
        let mut ratios: Vec<f64> = rows.iter().filter(|r| r.case.call == call).map(Row::ratio).collect();
        (!ratios.is_empty()).then(|| format!("{} {}", call.name(), short(median(&mut ratios))))
    });
    let ratios = ratios.collect::<Vec<String>>().join(", ");
    // Of the largest tensor: smaller ones may be copied within a cache.
    let largest = rows.iter().max_by_key(|r| r.case.tensor_bytes()).map_or(f64::NAN, Row::copy_rate);
    let build = if cfg!(debug_assertions) { ", built WITHOUT --release" } else { "" };
    format!(
        "{description}: copy {} GB/s; ratio to it: {ratios} (medians of {} cases, {clock}{build})",
        short(largest),
        rows.len()
    )
}

pub fn json(rows: &[Row], path: &Path) -> Result<(), String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|r| {
            let Row { case, measured, .. } = r;
            json!({
                "backend": r.device, "device": r.description, "clock": r.clock,
                "case": case.name(), "norm": case.norm.name(), "shape": case.shape, "op": case.call.name(),
                "dtype": format!("{:?}", case.dtype).to_lowercase(), "format": format!("{:?}", case.format),
                "seconds": measured.seconds, "least_bytes": case.least_bytes(), "plan_bytes": r.plan_bytes,
                "gb_per_s": r.rate(), "copy": measured.copy, "copy_seconds": measured.copy_seconds,
                "copy_gb_per_s": r.copy_rate(), "ratio": r.ratio(), "copies": measured.ratio,
                "copies_by_way": measured.ratios.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&rows).map_err(|e| e.to_string())?;
    std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))
}
