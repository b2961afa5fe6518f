//! The numbers as tables.

use crate::compile::Measured;
use crate::isa::Widths;
use std::collections::BTreeMap;

/// The worst of each number over the pipelines of a kernel on a chip.
pub struct Worst<'a> {
    pub pipelines: Vec<&'a Measured>,
}

impl Worst<'_> {
    pub fn most(&self, number: impl Fn(&Measured) -> u64) -> u64 {
        self.pipelines.iter().map(|m| number(m)).max().unwrap_or(0)
    }

    pub fn least(&self, number: impl Fn(&Measured) -> u64) -> u64 {
        self.pipelines.iter().map(|m| number(m)).min().unwrap_or(0)
    }
}

/// Pipelines by kernel.
pub fn by_kernel<'a>(measured: impl IntoIterator<Item = &'a Measured>) -> BTreeMap<&'a str, Worst<'a>> {
    let mut kernels: BTreeMap<&str, Worst> = BTreeMap::new();
    for m in measured {
        kernels.entry(&m.kernel).or_insert_with(|| Worst { pipelines: Vec::new() }).pipelines.push(m);
    }
    kernels
}

/// A line a kernel: the worst of its pipelines.
pub fn kernels(chip: &str, measured: &[Measured]) -> String {
    let mut table = format!(
        "{chip}\n{:<24} {:>5} {:>5} {:>5} {:>5} {:>7} {:>8} {:>8} {:>6}  {:<18} stores x1 x2 x4\n",
        "kernel (worst variant)",
        "count",
        "VGPRs",
        "LDS",
        "waves",
        "instr.",
        "/element",
        "branches",
        "spills",
        "loads x1 x2 x4"
    );
    for (kernel, worst) in by_kernel(measured) {
        let widths = |of: fn(&Measured) -> &Widths| {
            [1, 2, 4].map(|words| worst.most(|m| of(m)[words].into()).to_string()).join(" ")
        };
        table += &format!(
            "{kernel:<24} {:>5} {:>5} {:>5} {:>5} {:>7} {:>8} {:>8} {:>6}  {:<18} {}\n",
            worst.pipelines.len(),
            worst.most(|m| m.vgprs),
            worst.most(|m| m.lds),
            worst.least(|m| m.waves),
            worst.most(|m| m.instructions),
            per_element(worst.pipelines.iter().filter_map(|m| m.instructions_an_element()).reduce(f64::max)),
            worst.most(|m| m.branches),
            worst.most(|m| m.spills),
            widths(|m| &m.counts.loads),
            widths(|m| &m.counts.stores),
        );
    }
    table
}

/// A number, or that there is none.
fn per_element(number: Option<f64>) -> String {
    number.map_or("-".into(), |number| format!("{number:.1}"))
}

/// A line a pipeline.
pub fn each(measured: &[Measured]) -> String {
    let mut table = String::new();
    for m in measured {
        let widths = |widths: &Widths| widths[1..].iter().map(u32::to_string).collect::<Vec<_>>().join("/");
        table += &format!(
            "{:<24} {:>2} elements {:>3} VGPRs {:>4} LDS {:>2} waves {:>5} instr. {:>5}/element {:>3} branches {:>2} spills, \
             loads {:>12}, stores {:>10}  {}\n",
            m.kernel,
            m.elements,
            m.vgprs,
            m.lds,
            m.waves,
            m.instructions,
            per_element(m.instructions_an_element()),
            m.branches,
            m.spills,
            widths(&m.counts.loads),
            widths(&m.counts.stores),
            m.call
        );
    }
    table
}
