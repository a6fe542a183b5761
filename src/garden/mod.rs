//! garden
