//! Who a server takes us for: the same at every boot, another for every machine (RFC 8415, section 11).

/// Where the firmware's number of the machine is.
const PRODUCT: &str = "/sys/class/dmi/id/product_uuid";

/// A DUID made of a UUID.
const BY_UUID: u16 = 4;

/// A DUID made of a hardware address.
const BY_ADDRESS: u16 = 3;

/// Hardware addresses of Ethernet.
const ETHERNET: u16 = 1;

/// Numbers that firmware has which was not given one: the same on many machines.
const NO_NUMBERS: &[u128] = &[
    0,
    u128::MAX,
    0x0300_0200_0400_0500_0006_0007_0008_0009,
    0x0002_0003_0004_0005_0006_0007_0008_0009,
    0x1234_5678_1234_5678_90ab_cdde_efaa_bbcc,
];

/// By the machine's number, or if it has none by the hardware address of the interface.
pub fn of_machine(mac: [u8; 6]) -> Vec<u8> {
    of(&std::fs::read_to_string(PRODUCT).unwrap_or_default(), mac)
}

fn of(uuid: &str, mac: [u8; 6]) -> Vec<u8> {
    match number(uuid) {
        Some(number) => [&BY_UUID.to_be_bytes()[..], &number.to_be_bytes()].concat(),
        None => [&BY_ADDRESS.to_be_bytes()[..], &ETHERNET.to_be_bytes(), &mac].concat(),
    }
}

/// Which of the machine's interfaces an address is for: as stable as its hardware address.
pub fn interface(mac: [u8; 6]) -> u32 {
    u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]])
}

fn number(uuid: &str) -> Option<u128> {
    let digits: String = uuid.trim().chars().filter(|letter| *letter != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().filter(|number| !NO_NUMBERS.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn the_machines_number_goes_before_a_hardware_address() {
        let duid = of("4c4c4544-0042-3510-8051-b4c04f4d5031\n", MAC);
        assert_eq!((duid.len(), &duid[..6]), (18, &[0, 4, 0x4c, 0x4c, 0x45, 0x44][..]));
        assert_eq!(duid, of("4C4C4544-0042-3510-8051-B4C04F4D5031", [2; 6]), "whatever the interface");
        let by_address = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
        for none in ["", "Not Settable", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(of(none, MAC), by_address);
        }
        assert_eq!(of("03000200-0400-0500-0006-000700080009", MAC), by_address);
        assert_eq!(interface(MAC), 0x0012_3456);
    }

    proptest! {
        #[test]
        fn any_text_gives_the_same_sound_duid_twice(text in "\\PC{0,40}|[0-9a-f-]{30,40}", mac: [u8; 6]) {
            let duid = of(&text, mac);
            prop_assert!(duid.len() == 10 || duid.len() == 18);
            prop_assert_eq!(duid, of(&text, mac));
        }
    }
}
