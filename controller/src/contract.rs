//! Contract (being written).
