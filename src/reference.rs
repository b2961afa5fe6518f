//! Scalar reference.
