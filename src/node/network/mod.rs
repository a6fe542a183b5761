//! Containers' networks: links, addresses, ports in, rules out.

pub mod none;
