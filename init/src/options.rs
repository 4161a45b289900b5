//! What init itself takes from the configuration, and from the boot loader.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mote_config::{Interface, Metadata, Resolved};
use mote_reset::What;
use mote_update::slots::Slot;
use mote_update::verity::Verity;

use crate::disk::system::Source;
use crate::ntp;

/// How long a system on trial may take, as the built-in configuration has it.
const TRIAL_S: u64 = 120;

/// Port of the front door, as the built-in configuration has it.
const PORT: u16 = 8080;

/// Settings of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the machine: letters, digits, `-`, at most 63 of them.
    pub hostname: String,
    /// Interfaces set up by hand; if there are none, all use DHCP.
    pub interfaces: Vec<Interface>,
    /// Name servers given by hand: asked instead of those of DHCP servers.
    pub dns: Vec<IpAddr>,
    /// How long a disk may take to appear.
    pub disk_wait: Duration,
    /// Let e2fsck repair what `-p` leaves to a person, at the risk of losing files.
    pub data_repair: bool,
    /// How long hostd may take to be healthy; a system on trial that takes longer is given up.
    pub trial: Duration,
    /// Whom to ask for the time.
    pub ntp: ntp::Wish,
    /// When user data is asked for.
    pub metadata: Metadata,
    /// Where.
    pub metadata_url: String,
    /// Whether what the API has set counts.
    pub api_layer: bool,
    /// Port of the front door.
    pub port: u16,
    /// What hostd says.
    pub log_level: String,
}

impl Options {
    /// Takes them out of all layers together.
    pub fn of(resolved: &Resolved) -> Self {
        let machine = resolved.machine().unwrap_or_default();
        let listen = resolved.get("api.listen").and_then(|setting| setting.value.as_str());
        let level = resolved.get("log.level").and_then(|setting| setting.value.as_str());
        let servers = resolved.ntp().map(|ntp| ntp.servers).unwrap_or_default();
        Self {
            ntp: ntp::Wish::of(servers),
            trial: Duration::from_secs(resolved.update().map_or(TRIAL_S, |update| update.trial_s)),
            hostname: machine.hostname,
            interfaces: machine.interfaces,
            dns: machine.dns,
            disk_wait: Duration::from_secs(machine.disk_wait_s),
            data_repair: machine.data_repair,
            // What `mote-config` lets through, this takes, too.
            metadata: machine.metadata,
            api_layer: machine.api_layer,
            metadata_url: machine.metadata_url,
            port: listen
                .and_then(|text| text.parse::<SocketAddr>().ok())
                .map_or(PORT, |listen| listen.port()),
            log_level: level.unwrap_or("info").to_owned(),
        }
    }
}

/// Where the system is: the boot loader of a disk with slots says which, and by what the slot is verified. And what is wrong
/// with what it says.
pub fn booted(words: &BTreeMap<String, String>) -> (Source, Vec<String>) {
    let mut complaints = Vec::new();
    let get = |name: &str| words.get(name).map(String::as_str);
    let verity = get("verity").map(str::parse::<Verity>).transpose().unwrap_or_else(|error| {
        complaints.push(format!("mote.verity: {error}"));
        None
    });
    let system = match get("slot").map(|name| (name, Slot::of(name))) {
        None => Source::Disk,
        Some((_, Some(slot))) => Source::Slot(slot, verity),
        Some((name, None)) => {
            complaints
                .push(format!("mote.slot={name} is neither a nor b; looking for a disk with the system"));
            Source::Disk
        }
    };
    (system, complaints)
}

/// What of the boot loader's menu wipes the data partition, if it was chosen; and what is wrong with what it says.
pub fn wipe(words: &BTreeMap<String, String>) -> (Option<What>, Option<String>) {
    let Some(name) = words.get("reset") else { return (None, None) };
    match What::of(name) {
        Some(what) => (Some(what), None),
        None => (None, Some(format!("mote.reset={name} is neither data nor factory; nothing is wiped"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Cmdline;
    use mote_config::resolve;
    use proptest::prelude::*;

    fn read(line: &str) -> (Options, Vec<String>) {
        let resolved = resolve(&[mote_config::Source::options(Cmdline::parse(line).options())]);
        (Options::of(&resolved), resolved.problems())
    }

    #[test]
    fn defaults() {
        let (options, problems) = read("quiet");
        assert_eq!(options.hostname, "mote");
        assert!(options.interfaces.is_empty() && !options.data_repair);
        assert_eq!((options.disk_wait, options.log_level.as_str()), (Duration::from_secs(5), "info"));
        assert!(problems.is_empty());
    }

    #[test]
    fn words_of_the_command_line_are_settings() {
        let (options, problems) = read(
            "mote.hostname=edge-7 mote.sandbox.vcpus=2 mote.address=10.0.0.2/24 mote.disk_wait_s=30 mote.data_repair",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(options.hostname, "edge-7");
        assert_eq!(options.interfaces.len(), 1);
        assert_eq!(options.disk_wait, Duration::from_secs(30));
        assert!(options.data_repair);
        assert_eq!(options.ntp, ntp::Wish::default());
        assert!(read("mote.ntp=off").0.ntp.servers.is_empty());
    }

    #[test]
    fn wrong_values_are_reported_and_the_rest_is_as_built_in() {
        let (options, problems) =
            read("mote.hostname=-x mote.address=10.0.0.2 mote.disk_wait_s=soon mote.data_repair=maybe");
        assert_eq!(options, read("").0);
        for word in
            ["mote.hostname=-x", "mote.address=10.0.0.2", "mote.disk_wait_s=soon", "mote.data_repair=maybe"]
        {
            assert!(problems[0].contains(word), "{problems:?}");
        }
    }

    #[test]
    fn a_slot_comes_with_what_verifies_it() {
        let booted = |line: &str| booted(&Cmdline::parse(line).options());
        assert_eq!(booted("quiet").0, Source::Disk);
        let verity = format!("7:{}", "ab".repeat(32));
        let line = format!("mote.verity={verity} mote.slot=b");
        assert_eq!(booted(&line), (Source::Slot(Slot::B, Some(verity.parse().unwrap())), Vec::new()));
        assert!(read(&line).1.is_empty());
        // Not verified is not used: the slot is named all the same.
        let (damaged, complaints) = booted("mote.slot=a mote.verity=7:ab");
        assert_eq!((damaged, complaints.len()), (Source::Slot(Slot::A, None), 1));
        assert_eq!(booted("mote.slot=c").1.len(), 1);
    }

    #[test]
    fn only_what_is_spelled_right_wipes() {
        let wipe = |line: &str| wipe(&Cmdline::parse(line).options());
        assert_eq!(wipe("quiet"), (None, None));
        assert_eq!(wipe("mote.reset=data"), (Some(What::Data), None));
        assert_eq!(wipe("mote.reset=factory"), (Some(What::Factory), None));
        assert!(read("mote.reset=factory").1.is_empty(), "it is no setting");
        for line in ["mote.reset", "mote.reset=", "mote.reset=all", "mote.reset=Data"] {
            let (what, complaint) = wipe(line);
            assert!(what.is_none() && complaint.unwrap().contains("nothing is wiped"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_command_line_gives_settings(
            text in "(mote\\.(hostname|address|gateway|dns|interface|disk_wait_s|machine\\.interfaces|ntp\\.servers)=\\PC{0,20} ?|\\PC{0,30} ?){0,6}",
        ) {
            let (options, problems) = read(&text);
            prop_assert!((1..=63).contains(&options.hostname.len()));
            prop_assert!(options.disk_wait <= Duration::from_secs(600) && options.interfaces.len() <= 16);
            prop_assert!(problems.len() <= 1);
            prop_assert!(problems.iter().all(|problem| !problem.chars().any(char::is_control)));
        }
    }
}
