//! What AMD's instructions tell: how wide accesses to memory are, and what is in the way.

use serde::{Deserialize, Serialize};

/// Instructions by width: less than a word, then one to four words.
pub type Widths = [u32; 5];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub loads: Widths,
    pub stores: Widths,
    pub atomics: u32,
    pub barriers: u32,
}

impl Counts {
    /// Counts the mnemonics of a disassembly, which begin its indented lines.
    pub fn of(assembly: &str) -> Counts {
        let mut counts = Counts::default();
        for mnemonic in assembly.lines().filter_map(|line| line.split_whitespace().next()) {
            let memory = ["buffer_", "global_", "flat_"].iter().find_map(|space| mnemonic.strip_prefix(space));
            match memory.and_then(|rest| rest.split_once('_')) {
                Some(("load", width)) => counts.loads[words(width)] += 1,
                Some(("store", width)) => counts.stores[words(width)] += 1,
                Some(("atomic", _)) => counts.atomics += 1,
                _ => counts.barriers += u32::from(mnemonic == "s_barrier"),
            }
        }
        counts
    }
}

/// Words of an access: `dwordx2` until RDNA 2, `b64` from RDNA 3; bytes and halves have other names.
fn words(width: &str) -> usize {
    match width.split('_').next().unwrap_or_default() {
        "dword" | "b32" => 1,
        "dwordx2" | "b64" => 2,
        "dwordx3" | "b96" => 3,
        "dwordx4" | "b128" => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects() {
        let rdna2 = "BB0:\n\ts_clause 0x1 ; bfa1\n\tbuffer_load_dwordx4 v[1:4], v0, s[4:7], 0 offen ; e0\n\
                     \tbuffer_store_dword v1, v0, s[4:7], 0 ; e0\n\tbuffer_atomic_or v1, v0, s[4:7], 0\n\ts_barrier ; bf8a\n";
        let rdna3 = "BB0:\n\tbuffer_load_b128 v[1:4], v0, s[4:7], 0 offen\n\tbuffer_store_b32 v1, v0, s[4:7], 0\n\
                     \tbuffer_atomic_or_b32 v1, v0, s[4:7], 0\n\ts_barrier\n\tbuffer_gl0_inv\n";
        let expected = Counts { loads: [0, 0, 0, 0, 1], stores: [0, 1, 0, 0, 0], atomics: 1, barriers: 1 };
        assert_eq!(Counts::of(rdna2), expected);
        assert_eq!(Counts::of(rdna3), expected);
        assert_eq!(words("ushort"), 0);
        assert_eq!(words("dwordx2"), 2);
    }
}
