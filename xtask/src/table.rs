//! The tests' table of cases.

#[path = "../../tests/common/cases.rs"]
pub mod cases;
#[path = "../../tests/common/golden.rs"]
pub mod golden;
