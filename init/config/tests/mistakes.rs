//! What is said of each mistake, and where.

#![cfg(test)]

use std::collections::BTreeMap;

use mote_config::{Layer, Resolved, Source, resolve};

const SOUND: &str = r#"[machine]
hostname = "edge-7"
interfaces = [
  { name = "eth0", addresses = ["192.0.2.7/24", "2001:db8::7/64"], gateways = ["192.0.2.1", "fe80::1"] },
  { name = "52:54:00:12:34:56", dhcp = true, addresses = ["2001:db8:1::7/64"] },
]
[sandbox]
vcpus = 2
[network]
v4 = "10.64.0.0/10"
v6 = "fd6d:6f74:6500::/48"
node = 5
endpoints = 512
blanks = 1
mtu = 1500
peers = [
  { node = 1, address = "192.0.2.1" },
  { node = 2, address = "192.0.2.2" },
]
tenants = [
  { name = "default", vni = 1 },
  { name = "blue", vni = 2, egress = "internet", max_sandboxes = 3 },
]
[scheduling]
warm = "sticky"
lambda = 0.5
[snapshot]
layered = false
[log]
remote = "tcp://192.0.2.9:514"
[update]
keys = ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]
"#;

fn of_text(text: &str) -> Resolved {
    resolve(&[Source::text(Layer::Partition, "mote.toml", text.as_bytes())])
}

fn of_options(options: &[(&str, &str)]) -> Resolved {
    let options: BTreeMap<_, _> =
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    resolve(&[Source::options(options)])
}

#[test]
fn a_sound_file_is_taken_as_a_whole() {
    let resolved = of_text(SOUND);
    assert_eq!(resolved.rejected, []);
    let machine = resolved.machine().unwrap();
    assert_eq!(machine.hostname, "edge-7");
    assert_eq!(machine.interfaces.len(), 2);
    assert!(machine.interfaces[1].names("eth3", [0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    assert!(!machine.interfaces[1].names("eth3", [0x52, 0x54, 0, 0x12, 0x34, 0x57]));
    assert_eq!(resolved.get("sandbox.vcpus").unwrap().layer, Layer::Partition);
    assert_eq!(resolved.get("sandbox.queue_s").unwrap().layer, Layer::BuiltIn);
    assert!(resolved.ntp().is_ok() && resolved.update().is_ok());
}

#[test]
fn every_mistake_has_its_place_and_a_way_out() {
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    for (from, to, place, said) in [
        // Names.
        ("vcpus = 2", "vcpu = 2", "8:1: sandbox.vcpu", "is no key of [sandbox]; did you mean vcpus?"),
        ("vcpus = 2", "queue = 2", "8:1: sandbox.queue", "did you mean queue_s?"),
        ("vcpus = 2", "colour = 2", "8:1: sandbox.colour", "[sandbox] has vcpus,"),
        (
            "vcpus = 2",
            "max_unpacked_mb = 2",
            "8:1: sandbox.max_unpacked_mb",
            "did you mean [package] max_unpacked_mb?",
        ),
        ("[sandbox]", "[sandboxes]", "7:2: sandboxes", "is no section; did you mean [sandbox]?"),
        ("[sandbox]", "[colours]", "7:2: colours", "is no section; there are machine, ntp,"),
        ("[machine]\n", "vni = 1\n[machine]\n", "1:1: vni", "is no section; there are"),
        ("[machine]\n", "queue_s = 1\n[machine]\n", "1:1: queue_s", "did you mean queue_s in [sandbox]?"),
        ("[machine]\n", "sandbox = 1\n[machine]\n", "8:2", "duplicate key"),
        ("{ node = 1,", "{ nod = 1,", "17:5: network.peers[0].nod", "did you mean node?"),
        // Types.
        (
            "vcpus = 2",
            "vcpus = \"two\"",
            "8:9: sandbox.vcpus",
            "\"two\" does not fit; a whole number from 1 to 32 is wanted",
        ),
        ("vcpus = 2", "vcpus = 0", "8:9: sandbox.vcpus", "0 does not fit"),
        ("vcpus = 2", "vcpus = 2.5", "8:9: sandbox.vcpus", "2.5 does not fit"),
        ("vcpus = 2", "vcpus = 1979-05-27", "8:9: sandbox.vcpus", "a date"),
        ("vcpus = 2", "vcpus = [2]", "8:9: sandbox.vcpus", "A list does not fit"),
        ("vcpus = 2", "[sandbox.vcpus]", "8:1: sandbox.vcpus", "A table does not fit"),
        ("layered = false", "layered = \"no\"", "28:11: snapshot.layered", "true or false is wanted"),
        ("lambda = 0.5", "lambda = nan", "26:10: scheduling.lambda", "a number from 0 to 1000000 is wanted"),
        ("warm = \"sticky\"", "warm = \"stiky\"", "25:8: scheduling.warm", "did you mean sticky?"),
        (
            "warm = \"sticky\"",
            "warm = \"hot\"",
            "25:8: scheduling.warm",
            "none of max-available, sticky, none",
        ),
        ("warm = \"sticky\"", "warm = 1", "25:8: scheduling.warm", "one of max-available"),
        ("\"edge-7\"", "\"edge 7\"", "2:12: machine.hostname", "a host name of 1 to 63"),
        ("node = 1, ", "", "17:3: network.peers[0]", "node is missing: the other machine's number"),
        (
            "  { node = 1, address = \"192.0.2.1\" },\n",
            "  7,\n",
            "17:3: network.peers[0]",
            "a table is wanted: { node = 0, address",
        ),
        // Text.
        ("vcpus = 2", "vcpus = ", "8:9", "see https://toml.io"),
        ("vcpus = 2", "vcpus = 2\nvcpus = 3", "9:1", "duplicate key"),
        ("vcpus = 2", "vcpus = 99999999999999999999", "8:9", ""),
        ("edge-7", "\u{fffd}", "2:13", "Not UTF-8"),
        // The machine's network.
        ("192.0.2.7/24", "192.0.2.7", "4:33: machine.interfaces[0].addresses[0]", "prefix length"),
        ("\"52:54:00:12:34:56\"", "\"eth0\"", "5:12: machine.interfaces[1].name", "the same interface"),
        ("2001:db8:1::7/64", "192.0.2.8/24", "5:40: machine.interfaces[1].dhcp", "there is an IPv4 address"),
        ("dhcp = true,", "dhcp6 = true,", "5:41: machine.interfaces[1].dhcp6", "there is an IPv6 address"),
        (
            "dhcp = true, addresses = [\"2001:db8:1::7/64\"]",
            "mtu = 1500, dhcp6 = false",
            "5:3: machine.interfaces[1]",
            "has no address",
        ),
        (
            "dhcp = true, addresses = [\"2001:db8:1::7/64\"]",
            "mtu = 1500",
            "5:3: machine.interfaces[1]",
            "has no address",
        ),
        (
            "2001:db8:1::7/64",
            "2001:db8::7/64",
            "5:59: machine.interfaces[1].addresses[0]",
            "interfaces[0] already",
        ),
        (", \"2001:db8::7/64\"", "", "4:75: machine.interfaces[0].gateways[1]", "same protocol"),
        (
            "\"192.0.2.1\", \"fe80::1\"",
            "\"192.0.2.7\"",
            "4:80: machine.interfaces[0].gateways[0]",
            "own address",
        ),
        ("\"fe80::1\"", "\"192.0.2.2\"", "4:93: machine.interfaces[0].gateways[1]", "already"),
        // The sandboxes' networks.
        ("10.64.0.0/10", "0.0.0.0/0", "10:6: network.v4", "this host"),
        ("10.64.0.0/10", "169.254.0.0/18", "10:6: network.v4", "metadata"),
        ("10.64.0.0/10", "10.0.0.0/23", "10:6: network.v4", "no room"),
        ("fd6d:6f74:6500::/48", "fe80::/16", "11:6: network.v6", "link-local"),
        ("fd6d:6f74:6500::/48", "fd6d:6f74:6500::/49", "11:6: network.v6", "too small"),
        ("node = 5", "node = 5000", "12:8: network.node", "Machine 5000 has no subnet"),
        ("endpoints = 512", "endpoints = 1023", "13:13: network.endpoints", "from 1 to 1022"),
        (
            "endpoints = 512",
            "endpoints = 512\nnode_prefix = 24",
            "13:13: network.endpoints",
            "within 1 and 254",
        ),
        ("blanks = 1", "blanks = 17", "14:10: network.blanks", "from 0 to 16"),
        ("mtu = 1500", "mtu = 1349", "15:7: network.mtu", "too small for VXLAN"),
        (
            "node = 1,",
            "node = 5,",
            "17:12: network.peers[0].node",
            "this machine's own number: their ranges overlap",
        ),
        ("node = 2,", "node = 1,", "18:12: network.peers[1].node", "peers[0] already: their ranges overlap"),
        ("node = 2,", "node = 4096,", "18:12: network.peers[1].node", "Machine 4096 has no subnet"),
        ("192.0.2.2", "192.0.2.1", "18:25: network.peers[1].address", "another peer's"),
        ("192.0.2.2", "10.100.0.1", "18:25: network.peers[1].address", "in the sandboxes' range"),
        ("192.0.2.2", "2001:db8::2", "18:25: network.peers[1].address", "not of the same protocol"),
        ("vni = 2", "vni = 1", "22:26: network.tenants[1].vni", "tenants[0] already: their networks overlap"),
        ("vni = 2", "vni = 16777216", "22:26: network.tenants[1].vni", "from 1 to 16777215"),
        ("\"blue\"", "\"default\"", "22:12: network.tenants[1].name", "there twice"),
        ("\"blue\"", "\"Blue sky\"", "22:12: network.tenants[1].name", "small letters"),
        ("\"blue\"", "\"self\"", "22:12: network.tenants[1].name", "not self"),
        // Operation.
        ("tcp://192.0.2.9:514", "192.0.2.9:514", "30:10: log.remote", "tls://"),
        (key, "0011", "32:9: update.keys[0]", "64 hexadecimal digits"),
    ] {
        let text = SOUND.replacen(from, to, 1);
        assert_ne!(text, SOUND, "{from}");
        let resolved = of_text(&text);
        let told = resolved.problems().join("\n");
        assert!(
            told.contains(&format!("mote.toml:{place}")) && told.contains(said),
            "{to}: {place} {said}\n{told}"
        );
        let [rejected] = resolved.rejected.as_slice() else { panic!("{to}") };
        assert_eq!(rejected.layer, Layer::Partition);
        // As a whole, but for how the machine is reached.
        let outside = |path: &&str| !path.starts_with("machine.");
        for (path, setting) in resolved.settings().filter(|(path, _)| outside(path)) {
            assert_eq!(setting.layer, Layer::BuiltIn, "{to}: {path}");
        }
        assert_eq!(resolved.machine().unwrap().hostname, "mote", "{to}");
    }
}

#[test]
fn how_the_machine_is_reached_outlives_a_mistake_elsewhere() {
    let resolved = of_text(&SOUND.replace("vcpus", "vcpu"));
    assert_eq!(resolved.machine().unwrap().interfaces.len(), 2);
    assert_eq!(resolved.rejected[0].kept, ["machine.interfaces"]);
    assert!(
        resolved.problems()[0].contains("ignored, but for machine.interfaces: "),
        "{:?}",
        resolved.problems()
    );
    // Not if it is wrong itself.
    let resolved = of_text(&SOUND.replace("vcpus", "vcpu").replace("2001:db8:1::7", "2001:db8::7"));
    assert_eq!(resolved.machine().unwrap().interfaces.len(), 0);
    // Nor if nobody can tell what the file says.
    let resolved = of_text(&SOUND.replace("vcpus = 2", "vcpus"));
    assert_eq!(resolved.machine().unwrap().interfaces.len(), 0);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = SOUND.replace("vni = 2", "vni = 1").replace("mtu = 1500", "mtu = 1300");
    assert_eq!(of_text(&text).rejected[0].mistakes.len(), 2);
    assert_eq!(of_text(&text).network_problems().len(), 2);
    let text = SOUND.replace("vcpus = 2", "vcpus =").replace("layered = false", "layered =");
    assert_eq!(of_text(&text).rejected[0].mistakes.len(), 2);
    let many: String = (0..100).map(|number| format!("a{number} = 1\n")).collect();
    let mistakes = &of_text(&many).rejected[0].mistakes;
    assert_eq!(mistakes.len(), 21);
    assert!(mistakes[20].to_string().contains("80 more"), "{}", mistakes[20]);
}

#[test]
fn a_layer_may_be_wrong_because_of_those_below() {
    let below = Source::text(
        Layer::Partition,
        "mote.toml",
        b"[network]\npeers = [{ node = 3, address = \"192.0.2.3\" }]\n",
    );
    let above = Source::text(Layer::UserData, "user-data", b"[network]\nnode = 3\n[sandbox]\nvcpus = 2\n");
    let resolved = resolve(&[above, below]);
    assert_eq!(resolved.rejected[0].layer, Layer::UserData);
    assert!(
        resolved.problems()[0].contains("mote.toml:2:19: network.peers[0].node"),
        "{:?}",
        resolved.problems()
    );
    assert_eq!(resolved.get("sandbox.vcpus").unwrap().layer, Layer::BuiltIn);
    assert_eq!(resolved.get("network.peers").unwrap().layer, Layer::Partition);
}

#[test]
fn the_api_cannot_move_its_own_layer() {
    let text = b"[sandbox]\nvcpus = 2\n[machine]\napi_layer = false\n[paths]\ndata = '/x'\n";
    let of = |layer| resolve(&[Source::text(layer, "f", text)]);
    assert_eq!(of(Layer::UserData).rejected, []);
    let resolved = of(Layer::Api);
    let told = resolved.problems().join("\n");
    for said in
        ["f:4:1: machine.api_layer: cannot be set by the API", "f:6:1: paths.data: cannot be set by the API"]
    {
        assert!(told.contains(said), "{told}");
    }
    assert_eq!(resolved.get("sandbox.vcpus").unwrap().layer, Layer::BuiltIn);
}

#[test]
fn a_network_that_is_lost_with_its_layer_is_told() {
    let lost = of_options(&[("network.node", "3"), ("sandbox.vcpu", "2")]).network_problems();
    assert_eq!(lost, ["The layer 'kernel command line' is left out, with network.node"]);
    assert_eq!(of_options(&[("network.nod", "3"), ("sandbox.vcpu", "2")]).network_problems().len(), 1);
    assert!(of_options(&[("sandbox.vcpu", "2")]).network_problems().is_empty());
    assert!(of_options(&[("network.node", "3")]).network_problems().is_empty());
}

#[test]
fn windows_and_its_editors_are_no_mistake() {
    let text = format!("\u{feff}{}", SOUND.replace('\n', "\r\n"));
    assert_eq!(of_text(&text).rejected, []);
}

#[test]
fn too_much_is_too_much() {
    let text = format!("# {}\n", "x".repeat(mote_config::MAX_TEXT));
    assert!(of_text(&text).problems()[0].contains("at most 262144"));
}

#[test]
fn words_of_the_command_line_set_keys() {
    let resolved = of_options(&[
        ("hostname", "edge-7"),
        ("address", "192.0.2.7/24"),
        ("gateway", "192.0.2.1"),
        ("interface", "eth1"),
        ("dns", "9.9.9.9, 1.1.1.1"),
        ("disk_wait_s", "30"),
        ("data_repair", "yes"),
        ("metadata", "on"),
        ("slot", "a"),
        ("sandbox.vcpus", "2"),
        ("sandbox.guest_cmdline", "init=/x"),
        ("scheduling.lambda", "1"),
        ("snapshot.layered", "false"),
        ("network.tenants", "[{name='blue',vni=7,egress='all'}]"),
        ("ntp.servers", "['192.0.2.9']"),
    ]);
    assert_eq!(resolved.rejected, []);
    let machine = resolved.machine().unwrap();
    assert_eq!((machine.hostname.as_str(), machine.disk_wait_s, machine.data_repair), ("edge-7", 30, true));
    assert_eq!(machine.dns.len(), 2);
    let interface = &machine.interfaces[0];
    assert_eq!(interface.name.as_deref(), Some("eth1"));
    assert_eq!(interface.addresses, ["192.0.2.7/24".parse().unwrap()]);
    assert_eq!(interface.gateways.len(), 1);
    assert_eq!(resolved.get("scheduling.lambda").unwrap().value, toml::Value::Float(1.0));
    assert_eq!(resolved.ntp().unwrap().servers, ["192.0.2.9"]);
    assert_eq!(resolved.get("network.tenants").unwrap().layer, Layer::CommandLine);
}

#[test]
fn wrong_words_are_named() {
    for (word, text, said) in [
        (
            "sandbox.idel_timeout_s",
            "5",
            "mote.sandbox.idel_timeout_s: names no configuration key: is no key of [sandbox]; did you mean idle_timeout_s?",
        ),
        ("sandbox.queue_s", "soon", "mote.sandbox.queue_s=soon: is not a number: a whole number"),
        ("sandbox.vcpus", "-1", "mote.sandbox.vcpus=-1: -1 does not fit"),
        ("sandbox.vcpus", "1.5", "mote.sandbox.vcpus=1.5: 1.5 does not fit"),
        ("colour.red", "1", "mote.colour.red: names no configuration key"),
        ("sandboxes.vcpus", "1", "did you mean mote.sandbox.…?"),
        (
            "hostnam",
            "x",
            "mote.hostnam: names no configuration key: is no option; did you mean mote.hostname?",
        ),
        ("hostname", "-x", "mote.hostname=-x: \"-x\" does not fit; a host name"),
        ("snapshot.layered", "maybe", "mote.snapshot.layered=maybe: is neither true nor false"),
        ("data_repair", "maybe", "mote.data_repair=maybe: "),
        ("scheduling.lambda", "quick", "mote.scheduling.lambda=quick: is not a number"),
        ("scheduling.warm", "hot", "none of max-available"),
        ("api.listen", "somewhere", "an address and a port"),
        ("network.tenants", "blue", "mote.network.tenants=blue: is not a list"),
        (
            "network.peers",
            "[{node='x',address='192.0.2.1'}]",
            "mote.network.peers=[{node='x',address='192.0.2.1'}]: network.peers[0].node: \"x\" does not fit",
        ),
        (
            "network.peers",
            "[{node=0,address='192.0.2.1'}]",
            "network.peers[0].node: 0 is this machine's own number",
        ),
        ("network.peers", "[]\n[sandbox]\nvcpus=3", "is not a list"),
        ("disk_wait_s", "soon", "mote.disk_wait_s=soon: "),
        ("disk_wait_s", "601", "mote.disk_wait_s=601: 601 does not fit; a whole number from 0 to 600"),
        ("address", "10.0.0.2", "mote.address=10.0.0.2: "),
        ("gateway", "10.0.0.1", "mote.gateway=10.0.0.1: has no meaning without mote.address"),
        ("machine.interfaces", "[{addresses=['10.0.0.2/8'],gateways=['10.0.0.2']}]", "own address"),
    ] {
        let told = of_options(&[(word, text), ("sandbox.boot_timeout_s", "44")]).problems().join("\n");
        assert!(
            told.starts_with("Kernel options ignored") && told.contains(said),
            "{word}={text}: {said}\n{told}"
        );
        assert!(!told.contains("boot_timeout_s"), "{told}");
    }
    for (word, text) in [("gateway", "10.0.0"), ("interface", "a/b")] {
        let told = of_options(&[("address", "10.0.0.2/8"), (word, text)]).problems().join("\n");
        assert!(told.contains(&format!("mote.{word}={text}: ")), "{told}");
    }
    let told = of_options(&[("hostname", "a"), ("machine.hostname", "b")]).problems().join("\n");
    assert!(told.contains("mote.hostname sets machine.hostname too; leave out one"), "{told}");
    let told = of_options(&[("address", "10.0.0.2/8"), ("machine.interfaces", "[]")]).problems().join("\n");
    assert!(told.contains("mote.machine.interfaces is there too"), "{told}");
}

#[test]
fn an_address_given_by_a_word_outlives_a_mistyped_one() {
    let resolved = of_options(&[("address", "192.0.2.7/24"), ("sandbox.vcpu", "2"), ("hostname", "x")]);
    assert_eq!(resolved.machine().unwrap().interfaces.len(), 1);
    assert_eq!(resolved.machine().unwrap().hostname, "mote");
}
