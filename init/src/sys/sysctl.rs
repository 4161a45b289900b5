//! Kernel settings, as a table: small, and each with its reason.

use std::path::PathBuf;

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Name below `/proc/sys`, with slashes.
    pub name: &'static str,
    /// Value to write.
    pub value: &'static str,
    /// Only when the present value is this one: the command line may have said otherwise.
    pub unless_changed_from: Option<&'static str>,
}

const fn set(name: &'static str, value: &'static str) -> Setting {
    Setting { name, value, unless_changed_from: None }
}

/// In no particular order.
#[rustfmt::skip]
pub const TABLE: &[Setting] = &[
    // A kernel that cannot go on starts anew instead of hanging; `panic=` on the command line wins.
    Setting { name: "kernel/panic", value: "10", unless_changed_from: Some("0") },
    set("kernel/panic_on_oops", "1"),
    // No dump of one tenant's memory for another to read, and none that fills the root.
    set("kernel/core_pattern", "|/bin/false"),
    set("fs/suid_dumpable", "0"),
    // Kernel addresses and messages help whoever broke out of a jail.
    set("kernel/kptr_restrict", "2"),
    set("kernel/dmesg_restrict", "1"),
    set("kernel/unprivileged_bpf_disabled", "1"),
    set("net/core/bpf_jit_harden", "1"),
    set("vm/unprivileged_userfaultfd", "0"),
    set("kernel/perf_event_paranoid", "3"),
    // A break on a serial line must not command the kernel.
    set("kernel/sysrq", "0"),
    set("fs/protected_hardlinks", "1"),
    set("fs/protected_symlinks", "1"),
    set("fs/protected_fifos", "2"),
    set("fs/protected_regular", "2"),
    // Ctrl-Alt-Del asks init.
    set("kernel/ctrl-alt-del", "0"),
    // Hundreds of microVMs, each with many mappings and file descriptors.
    set("vm/max_map_count", "1048576"),
    set("kernel/pid_max", "4194304"),
    set("fs/inotify/max_user_instances", "8192"),
    set("net/core/somaxconn", "4096"),
    // A host that is no router believes no one about routes.
    set("net/ipv4/conf/all/accept_redirects", "0"),
    set("net/ipv4/conf/default/accept_redirects", "0"),
    set("net/ipv4/conf/all/send_redirects", "0"),
    set("net/ipv4/conf/default/send_redirects", "0"),
    set("net/ipv4/conf/all/accept_source_route", "0"),
    set("net/ipv4/conf/default/accept_source_route", "0"),
    set("net/ipv6/conf/all/accept_redirects", "0"),
    set("net/ipv6/conf/default/accept_redirects", "0"),
    set("net/ipv4/tcp_syncookies", "1"),
];

/// Writes the table; returns a sentence for each setting that did not take.
pub fn apply() -> Vec<String> {
    TABLE.iter().filter_map(|setting| apply_one(setting).err()).collect()
}

fn apply_one(setting: &Setting) -> Result<(), String> {
    let path = PathBuf::from("/proc/sys").join(setting.name);
    if let Some(default) = setting.unless_changed_from {
        let now = std::fs::read_to_string(&path).unwrap_or_default();
        if now.trim() != default {
            return Ok(());
        }
    }
    match std::fs::write(&path, setting.value) {
        Ok(()) => Ok(()),
        // A kernel built without the feature needs no setting for it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("Cannot set {} to {}: {error}", setting.name, setting.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_and_appear_once() {
        for (at, setting) in TABLE.iter().enumerate() {
            assert!(!setting.name.contains("..") && !setting.name.starts_with('/'));
            assert!(TABLE.iter().skip(at + 1).all(|other| other.name != setting.name), "{}", setting.name);
        }
    }
}
