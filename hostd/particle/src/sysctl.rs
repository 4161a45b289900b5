//! Settings of a tenant's namespace.

use std::io;
use std::path::{Path, PathBuf};

/// Under `/proc/sys/net`, and why.
const TENANT: &[(&str, &str)] = &[
    // The namespace passes packets on between its endpoints: in and out by the same device.
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    // Hardly any packet is for the namespace itself.
    ("ipv4/ip_early_demux", "0"),
    // Which would have it tell senders of a shorter way.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // Sources are checked by queue, more strictly than by route.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // No neighbour tells it where to send.
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // Addresses are assigned, so never tentative, and devices have none by themselves.
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
];

/// A setting the kernel did not take.
#[derive(Debug, thiserror::Error)]
#[error("Cannot set /proc/sys/net/{name} to {value}")]
pub struct SysctlError {
    /// The setting.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Applies the settings to the calling thread's namespace.
pub(crate) fn apply() -> Result<(), SysctlError> {
    TENANT.iter().try_for_each(|(name, value)| set(name, value))
}

/// Has a device take packets only from whom it would send them to.
pub(crate) fn strict(device: &str) -> Result<(), SysctlError> {
    set(&format!("ipv4/conf/{device}/rp_filter"), "1")
}

/// Sets one of the calling thread's namespace.
pub(crate) fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    std::fs::write(path(name), value).map_err(|source| SysctlError {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Its value in the calling thread's namespace, if it has one.
pub(crate) fn get(name: &str) -> Option<String> {
    Some(std::fs::read_to_string(path(name)).ok()?.trim().to_owned())
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}
