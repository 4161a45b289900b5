//! A job in waves, as Sprocket runs them (figure 3.5 of Ao's dissertation): a hundred sandboxes at a time, each of
//! which gets its data from one of the wave before. Endpoints are made when their wave begins.

use std::collections::BTreeMap;
use std::time::Instant;

use mote_particle::netns::Netns;
use mote_particle::{Endpoint, Network};

use super::baseline;
use super::machine::{Machine, settle};
use super::port::Port;
use super::setup::{self, ms};
use super::traffic::{meet, transfer};
use crate::Outcome;
use crate::figures::{Mode, Report, quantile};

const WAVES: u16 = 3;
const SANDBOXES: u16 = 100;

/// Large frames that hold 1 MB.
const FRAMES: u32 = 16;

/// The part of the report.
const PART: &str = "3 waves of 100";

/// What makes the endpoints of a wave.
trait Maker {
    fn wave(&mut self, first: u16) -> Outcome<Vec<Port>>;
}

/// The overlay, its devices moved or born in place.
struct Classic {
    machine: Machine,
    born: bool,
    guests: Vec<Netns>,
}

impl Maker for Classic {
    fn wave(&mut self, first: u16) -> Outcome<Vec<Port>> {
        let make = if self.born { baseline::born } else { baseline::overlay };
        let made = make(&self.machine, first..first + SANDBOXES)?;
        let mut ports = Vec::new();
        for (k, netns) in made.guests {
            // Neither end's own stack knows the address, so none answers in between.
            let silent = (u32::from(baseline::address(k)) + (1 << 24)).into();
            ports.push(Port::device(&netns, &baseline::device(k), baseline::mac(k), silent)?);
            self.guests.push(netns);
        }
        Ok(ports)
    }
}

/// Ours: the network is made with the first wave, and for all of them.
struct Taps {
    machine: Machine,
    network: Option<Network>,
}

impl Maker for Taps {
    fn wave(&mut self, _: u16) -> Outcome<Vec<Port>> {
        if self.network.is_none() {
            self.network = Some(setup::network(&self.machine.host, 0, WAVES * SANDBOXES)?.0);
        }
        let network = self.network.as_ref().ok_or("No network")?;
        let endpoints: Result<Vec<Endpoint>, _> = (0..SANDBOXES).map(|_| network.attach()).collect();
        endpoints?.into_iter().map(Port::tap).collect()
    }
}

/// Adds the burst to a report.
pub fn measure(report: &mut Report, runs: u32) -> Outcome<()> {
    let mut samples: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for _ in 0..runs {
        for name in ["overlay", "born", "tap"] {
            settle()?;
            let machine = Machine::new()?;
            let sample = match name {
                "tap" => job(Taps { machine, network: None })?,
                _ => job(Classic { machine, born: name == "born", guests: Vec::new() })?,
            };
            samples.entry(name).or_default().push(sample);
        }
    }
    let part = report.parts.entry(PART.to_owned()).or_default();
    for (name, samples) in samples {
        let of = |which: fn(&(f64, f64)) -> f64| samples.iter().map(which).collect::<Vec<_>>();
        let mut mode = Mode::of(&of(|(all, _)| *all));
        mode.counts.insert("setup_ms".to_owned(), quantile(&of(|(_, setup)| *setup), 0.5));
        part.modes.insert(name.to_owned(), mode);
    }
    for slow in ["overlay", "born"] {
        if let (Some(other), Some(tap)) = (part.modes.get(slow), part.modes.get("tap")) {
            let ratio = other.median_ms / tap.median_ms;
            part.ratios.insert(format!("{slow}/tap"), ratio);
            report.ratios.insert(format!("{slow}/tap@burst"), ratio);
        }
    }
    Ok(())
}

/// Milliseconds of the whole job, and of those the ones that went into endpoints.
fn job(mut maker: impl Maker) -> Outcome<(f64, f64)> {
    let start = Instant::now();
    let mut setup = std::time::Duration::ZERO;
    let mut before: Vec<Port> = Vec::new();
    // Kept to the end: closing a packet socket takes milliseconds that no sandbox would spend.
    let mut done = Vec::new();
    for wave in 0..WAVES {
        let begun = Instant::now();
        let ports = maker.wave(wave * SANDBOXES)?;
        setup += begun.elapsed();
        let mut next = Vec::new();
        let mut sources = before.into_iter();
        for port in ports {
            match sources.next() {
                None => next.push(port),
                Some(source) => {
                    let pair = [source, port];
                    meet(&pair)?;
                    transfer(&pair, FRAMES)?;
                    let [source, port] = pair;
                    done.push(source);
                    next.push(port);
                }
            }
        }
        before = next;
    }
    let took = (ms(start.elapsed()), ms(setup));
    drop(done);
    Ok(took)
}
