//! What the tests compare with: their table of cases, and PyTorch's.

#[path = "../../tests/common/cases.rs"]
pub mod cases;
#[path = "../../tests/common/conformance.rs"]
pub mod conformance;
#[path = "../../tests/common/golden.rs"]
pub mod golden;
#[path = "../../tests/common/member.rs"]
mod member;
