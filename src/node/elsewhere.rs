//! Where there is no Linux: the types of options, by the names that they have on a node.

#[path = "containerd/spec/allowed_device.rs"]
mod allowed_device;
#[allow(dead_code, reason = "it is written and shown here, and used on a node")]
#[path = "images/registry/endpoint.rs"]
mod endpoint;
#[path = "images/registry/options.rs"]
mod options;

/// See the module.
pub mod containerd {
    pub use super::allowed_device::AllowedDevice;
}

/// See the module.
pub mod images {
    pub use super::endpoint::Mirror;
    pub use super::options::RegistryOptions;
}
