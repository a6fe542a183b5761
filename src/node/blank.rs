//! blank
