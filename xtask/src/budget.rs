//! What each kernel may cost: isa-budget.toml.

use crate::compile::Measured;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Of one kernel, whatever its variant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    vgprs: u64,
    instructions: u64,
    branches: u64,
    /// Waves per SIMD, at least, by chip. A chip without an entry is not checked.
    #[serde(default)]
    waves: BTreeMap<String, u64>,
    #[serde(default)]
    spills: u64,
    /// Accesses of less than a unit, in kernels that stream units: those to vectors per channel.
    #[serde(default)]
    narrow: u64,
}

/// Limits by kernel, for one version of the compiler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// With another one the report only tells what would exceed.
    pub mesa: String,
    kernels: BTreeMap<String, Limits>,
}

impl Budget {
    /// The checked-in one.
    pub fn load() -> Result<Budget, String> {
        toml::from_str(include_str!("../isa-budget.toml")).map_err(|e| format!("xtask/isa-budget.toml: {e}"))
    }

    /// What a pipeline exceeds, in words.
    pub fn check(&self, m: &Measured) -> Vec<String> {
        let Some(limits) = self.kernels.get(&m.kernel) else {
            return vec![format!("{}: no budget. Add [kernels.{}] to xtask/isa-budget.toml.", m.kernel, m.kernel)];
        };
        let most = [
            ("VGPRs", m.vgprs, limits.vgprs),
            ("instructions", m.instructions, limits.instructions),
            ("branches", m.branches, limits.branches),
            ("spills", m.spills, limits.spills),
            ("narrow accesses", m.narrow.into(), limits.narrow),
        ];
        let mut excesses: Vec<String> = most
            .into_iter()
            .filter(|&(_, number, limit)| number > limit)
            .map(|(what, number, limit)| format!("{number} {what}, at most {limit}"))
            .collect();
        if let Some(&least) = limits.waves.get(&m.chip).filter(|&&least| m.waves < least) {
            excesses.push(format!("{} waves per SIMD, at least {least}", m.waves));
        }
        excesses.iter().map(|e| format!("{} {} ({}): {e}", m.chip, m.kernel, m.call)).collect()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn parses() {
        assert!(!super::Budget::load().unwrap().kernels.is_empty());
    }
}
