//! Kernel settings, as a table: small, and each with its reason. `docs/SECURITY.md` shows those about security.

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
    /// Why.
    pub why: &'static str,
}

const fn set(name: &'static str, value: &'static str, why: &'static str) -> Setting {
    Setting { name, value, unless_changed_from: None, why }
}

/// Those that keep people out, and those who came in small. What can be turned off only once is off until the next boot.
#[rustfmt::skip]
pub const SECURITY: &[Setting] = &[
    set("kernel/core_pattern",             "|/bin/false", "no dump of one tenant's memory for another to read, and none that fills the root"),
    set("fs/suid_dumpable",                "0", "nor of a process that changed who it is"),
    set("kernel/kptr_restrict",            "2", "addresses of the kernel help whoever broke out of a jail"),
    set("kernel/dmesg_restrict",           "1", "its messages, too"),
    set("kernel/perf_event_paranoid",      "3", "nothing here measures the kernel"),
    set("kernel/unprivileged_bpf_disabled", "1", "hostd loads the few programs there are, as root; cannot be undone"),
    set("net/core/bpf_jit_harden",         "1", "others could not load any; hostd's own stay as quick as they are"),
    set("kernel/kexec_load_disabled",      "1", "no other kernel than the one the boot loader verified; cannot be undone"),
    set("kernel/modules_disabled",         "1", "should a kernel have modules after all; ours has none; cannot be undone"),
    set("kernel/io_uring_disabled",        "2", "nobody uses it, and it was the way in of many; cannot be undone"),
    set("kernel/yama/ptrace_scope",        "3", "nobody looks into another's memory; cannot be undone"),
    set("kernel/sysrq",                    "0", "a break on a serial line must not command the kernel"),
    set("kernel/ctrl-alt-del",             "0", "Ctrl-Alt-Del asks init, which restarts in order"),
    set("kernel/randomize_va_space",       "2", "all of a process is somewhere else each time"),
    set("vm/unprivileged_userfaultfd",     "0", "whoever can stop the kernel at a page wins races"),
    set("vm/mmap_min_addr",                "65536", "a null pointer of the kernel points at nothing"),
    set("dev/tty/ldisc_autoload",          "0", "no line discipline but the ones in use"),
    set("dev/tty/legacy_tiocsti",          "0", "nothing is typed on a console but by a person, and nothing reads that"),
    set("user/max_user_namespaces",        "0", "nobody becomes root of a namespace; sandboxes have namespaces that hostd makes"),
    set("fs/protected_hardlinks",          "1", "links in folders that all may write do not lead elsewhere"),
    set("fs/protected_symlinks",           "1", "the same"),
    set("fs/protected_fifos",              "2", "nor do others' pipes pass for one's own"),
    set("fs/protected_regular",            "2", "nor others' files"),
    set("net/ipv4/conf/all/accept_redirects",        "0", "a machine that is no router believes no one about routes"),
    set("net/ipv4/conf/default/accept_redirects",    "0", "the same"),
    set("net/ipv4/conf/all/send_redirects",          "0", "nor tells others of any"),
    set("net/ipv4/conf/default/send_redirects",      "0", "the same"),
    set("net/ipv4/conf/all/accept_source_route",     "0", "senders do not choose the way"),
    set("net/ipv4/conf/default/accept_source_route", "0", "the same"),
    set("net/ipv6/conf/all/accept_redirects",        "0", "as with IPv4"),
    set("net/ipv6/conf/default/accept_redirects",    "0", "the same"),
    set("net/ipv6/conf/all/accept_source_route",     "-1", "the same"),
    set("net/ipv4/tcp_syncookies",         "1", "a flood of connections leaves room for real ones"),
    set("net/ipv4/tcp_rfc1337",            "1", "a late reset does not end a new connection"),
];

/// Those without which the machine would serve less, or stand still.
#[rustfmt::skip]
pub const OPERATION: &[Setting] = &[
    Setting { name: "kernel/panic", value: "10", unless_changed_from: Some("0"), why: "a kernel that cannot go on starts anew instead of hanging; panic= on the command line wins" },
    set("kernel/panic_on_oops",            "1", "a kernel that is wrong about one thing is not to be trusted with the rest"),
    set("kernel/unknown_nmi_panic",        "1", "a machine that stands still is asked for its last words from outside (IPMI: chassis power diag)"),
    set("vm/max_map_count",                "1048576", "hundreds of microVMs, each with many mappings"),
    set("kernel/pid_max",                  "4194304", "and threads"),
    set("fs/inotify/max_user_instances",   "8192", "and watches"),
    set("net/core/somaxconn",              "4096", "callers wait rather than being turned away"),
];

/// Writes the tables; returns a sentence for each setting that did not take.
pub fn apply() -> Vec<String> {
    all().filter_map(|setting| apply_one(setting).err()).collect()
}

/// How many there are.
pub fn count() -> usize {
    all().count()
}

fn all() -> impl Iterator<Item = &'static Setting> {
    SECURITY.iter().chain(OPERATION)
}

fn apply_one(setting: &Setting) -> Result<(), String> {
    let path = PathBuf::from("/proc/sys").join(setting.name);
    let now = std::fs::read_to_string(&path).unwrap_or_default();
    if setting.unless_changed_from.is_some_and(|default| now.trim() != default) {
        return Ok(());
    }
    match std::fs::write(&path, setting.value) {
        Ok(()) => Ok(()),
        // A kernel built without the feature needs no setting for it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // What cannot be undone refuses to be done again.
        Err(_) if now.trim() == setting.value => Ok(()),
        Err(error) => Err(format!("Cannot set {} to {}: {error}", setting.name, setting.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_and_appear_once() {
        let all: Vec<_> = all().collect();
        for (at, setting) in all.iter().enumerate() {
            assert!(!setting.name.contains("..") && !setting.name.starts_with('/'));
            assert!(!setting.why.is_empty() && !setting.why.ends_with('.'), "{}", setting.name);
            assert!(all.iter().skip(at + 1).all(|other| other.name != setting.name), "{}", setting.name);
        }
        assert_eq!(count(), all.len());
    }

    #[test]
    fn the_documentation_shows_those_about_security() {
        let text = include_str!("../../../docs/SECURITY.md");
        let rows: String = SECURITY
            .iter()
            .map(|Setting { name, value, why, .. }| {
                format!("| `{}` | `{}` | {why} |\n", name.replace('/', "."), value.replace('|', "\\|"))
            })
            .collect();
        assert!(text.contains(&rows), "docs/SECURITY.md is to have these rows:\n{rows}");
    }
}
