//! What can be said of a network device: `fd:N,v4=ADDRESS,v6=ADDRESS[,…]` or `detached[,…]`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{OwnedFd, RawFd};
use std::str::FromStr;

use mote_virtio::net::{Limit, Rate};
use mote_virtio::{NetConfig, NetLink};

/// Hardware address, unless another is said. The same for every guest, so that a snapshot fits everywhere.
const MAC: [u8; 6] = [0x02, 0x6d, 0x6f, 0x74, 0x65, 0x00];

/// Largest packet, unless said.
const MTU: u16 = 1500;

/// The least that IPv6 works with.
const LEAST_MTU: u16 = 1280;

/// A network device, before its descriptor is taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetArgument {
    mac: [u8; 6],
    mtu: u16,
    link: Option<LinkArgument>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkArgument {
    queue: RawFd,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    tx: Limit,
    rx: Limit,
}

impl NetArgument {
    /// The descriptor that has to be taken over.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.link.map(|link| link.queue)
    }

    /// The device, with its descriptor as `inherit` takes it over.
    pub(super) fn with<E>(self, inherit: impl FnOnce(RawFd) -> Result<OwnedFd, E>) -> Result<NetConfig, E> {
        let link = match self.link {
            None => None,
            Some(LinkArgument { queue, v4, v6, tx, rx }) => {
                Some(NetLink { queue: inherit(queue)?, v4, v6, tx, rx })
            }
        };
        Ok(NetConfig { mac: self.mac, mtu: self.mtu, link })
    }
}

impl FromStr for NetArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let queue = match words.next().unwrap_or_default() {
            "detached" => None,
            place => Some(descriptor(place)?),
        };
        let (mut mac, mut mtu, mut v4, mut v6) = (None, None, None, None);
        let (mut tx, mut rx) = (Limit::default(), Limit::default());
        for word in words {
            let (name, value) = word.split_once('=').ok_or(format!("'{word}' is not NAME=VALUE"))?;
            match name {
                "mac" => once(&mut mac, name, parse_mac(value))?,
                "mtu" => once(&mut mtu, name, value.parse().ok().filter(|mtu| *mtu >= LEAST_MTU))?,
                _ if queue.is_none() => {
                    return Err(format!("'{name}' is nothing to say of a detached device"));
                }
                "v4" => once(&mut v4, name, value.parse().ok())?,
                "v6" => once(&mut v6, name, value.parse().ok())?,
                "tx-bytes" => once(&mut tx.bytes, name, rate(value))?,
                "tx-packets" => once(&mut tx.packets, name, rate(value))?,
                "rx-bytes" => once(&mut rx.bytes, name, rate(value))?,
                "rx-packets" => once(&mut rx.packets, name, rate(value))?,
                _ => return Err(format!("'{name}' is nothing to say of a network device")),
            }
        }
        let link = match (queue, v4, v6) {
            (None, ..) => None,
            (Some(queue), Some(v4), Some(v6)) => Some(LinkArgument { queue, v4, v6, tx, rx }),
            _ => return Err("a link needs v4=ADDRESS and v6=ADDRESS".to_owned()),
        };
        Ok(Self { mac: mac.unwrap_or(MAC), mtu: mtu.unwrap_or(MTU), link })
    }
}

fn descriptor(place: &str) -> Result<RawFd, String> {
    place
        .strip_prefix("fd:")
        .and_then(|number| number.parse().ok())
        .filter(|number| *number >= 0)
        .ok_or(format!("'{place}' is neither fd:N nor detached"))
}

/// Takes a value that was not said before.
fn once<T>(place: &mut Option<T>, name: &str, value: Option<T>) -> Result<(), String> {
    let value = value.ok_or(format!("'{name}' has a value that is none"))?;
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("'{name}' is said twice")),
    }
}

fn rate(value: &str) -> Option<Rate> {
    value.parse().ok().and_then(Rate::new)
}

/// An address of one device, not of a group: six bytes in hexadecimal.
fn parse_mac(value: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut bytes = value.split(':');
    for to in &mut mac {
        let byte =
            bytes.next().filter(|byte| byte.len() == 2 && byte.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *to = u8::from_str_radix(byte, 16).ok()?;
    }
    let [first, ..] = mac;
    (bytes.next().is_none() && first & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<NetArgument, String> {
        text.parse()
    }

    #[test]
    fn links_are_understood() {
        let link = LinkArgument {
            queue: 5,
            v4: [10, 64, 0, 2].into(),
            v6: "fd6d::2".parse().unwrap(),
            tx: Limit::default(),
            rx: Limit::default(),
        };
        let plain = NetArgument { mac: MAC, mtu: 1500, link: Some(link) };
        assert_eq!(parse("fd:5,v4=10.64.0.2,v6=fd6d::2"), Ok(plain));
        let limited = LinkArgument {
            tx: Limit { bytes: Rate::new(1000), packets: Rate::new(20) },
            rx: Limit { bytes: Rate::new(3000), packets: Rate::new(40) },
            ..link
        };
        let text = "fd:5,mac=02:00:00:00:00:0F,mtu=1450,v4=10.64.0.2,v6=fd6d::2,\
                    tx-bytes=1000,tx-packets=20,rx-bytes=3000,rx-packets=40";
        let argument = parse(text).unwrap();
        assert_eq!(argument, NetArgument { mac: [2, 0, 0, 0, 0, 15], mtu: 1450, link: Some(limited) });
        assert_eq!(argument.descriptor(), Some(5));
        assert_eq!(parse("detached"), Ok(NetArgument { mac: MAC, mtu: 1500, link: None }));
        assert_eq!(parse("detached,mtu=1280"), Ok(NetArgument { mac: MAC, mtu: 1280, link: None }));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "5",
            "fd:",
            "fd:-1,v4=10.0.0.1,v6=fd::1",
            "fd:5",
            "fd:5,v4=10.0.0.1",
            "fd:5,v4=10.0.0.256,v6=fd::1",
            "fd:5,v4=10.0.0.1,v6=fd::1,v4=10.0.0.2",
            "fd:5,v4=10.0.0.1,v6=fd::1,",
            "fd:5,v4=10.0.0.1,v6=fd::1,mtu=1279",
            "fd:5,v4=10.0.0.1,v6=fd::1,mtu=65536",
            "fd:5,v4=10.0.0.1,v6=fd::1,tx-bytes=0",
            "fd:5,v4=10.0.0.1,v6=fd::1,tx-bytes=-1",
            "fd:5,v4=10.0.0.1,v6=fd::1,speed=1",
            "detached,v4=10.0.0.1",
            "detached,tx-bytes=5",
            "detached,mac=02:00:00:00:00",
            "detached,mac=02:00:00:00:00:00:00",
            "detached,mac=03:00:00:00:00:00",
            "detached,mac=00:00:00:00:00:00",
            "detached,mac=2:0:0:0:0:1",
            "detached,mac=+2:00:00:00:00:01",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "(fd:|detached)?[0-9]{0,3}(,(mac|mtu|v4|v6|tx-bytes)?=?[0-9a-f:.]{0,20}){0,4}") {
            let _ = parse(&text);
        }
    }
}
