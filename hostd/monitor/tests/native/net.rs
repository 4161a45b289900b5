//! Network devices of guests without a driver: what is said on the command line, kept in snapshots, and told.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use mote_micro::{Program, have_kvm};
use mote_monitor::control::{Reply, Request};

use crate::support::{Monitor, running};
use crate::{boot, text};

const LINK: &str = "fd:0,v4=10.64.0.2,v6=fd6d::2,mtu=1450,tx-packets=1000";

/// A monitor that goes on from a snapshot; its standard input is what `fd:0` means.
fn restore(dir: &Path, name: &str, extra: &[&str]) -> (Monitor, UnixDatagram) {
    // It keeps frames apart, as the queue of a TAP device does.
    let (queue, outside) = UnixDatagram::pair().unwrap();
    let (control, serial) = (dir.join(format!("{name}.sock")), dir.join(format!("{name}.log")));
    let child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
        .args(["restore", "--snapshot", text(&dir.join("snapshot"))])
        .args(extra)
        .args(["--control", text(&control), "--serial", text(&serial)])
        .stdin(Stdio::from(OwnedFd::from(queue)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (Monitor { child, control, serial }, outside)
}

/// A folder with a snapshot of a guest that was booted so.
fn snapshot(extra: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut monitor = boot(dir.path(), Program::Loop, extra);
    let mut client = monitor.client();
    running(&mut client);
    monitor.lines(1);
    assert!(client.request(&Request::Pause).unwrap().ok);
    assert!(client.request(&Request::Snapshot { dir: dir.path().join("snapshot"), sync: false }).unwrap().ok);
    dir
}

fn status(monitor: &mut Monitor) -> Reply {
    let mut client = monitor.client();
    running(&mut client);
    monitor.lines(2);
    client.request(&Request::Status).unwrap()
}

#[test]
fn a_detached_device_is_attached_when_it_is_restored() {
    if !have_kvm() {
        return;
    }
    let dir = snapshot(&["--net", "detached,mtu=1450"]);
    for (name, extra) in
        [("link", ["--net", LINK].as_slice()), ("nothing", &[]), ("detached", &["--net", "detached"])]
    {
        let (mut monitor, outside) = restore(dir.path(), name, extra);
        // The guest has no driver: its frames wait.
        let _ = outside.send(&[0; 60]);
        assert_eq!(status(&mut monitor).net, Some(Default::default()), "{name}");
    }
}

#[test]
fn a_guest_without_a_device_is_not_attached() {
    if !have_kvm() {
        return;
    }
    let dir = snapshot(&[]);
    let (mut monitor, _outside) = restore(dir.path(), "link", &["--net", LINK]);
    let (code, stderr) = monitor.end();
    assert_eq!(code, Some(3), "it has to be made anew");
    assert!(stderr.contains("The snapshot has no network device"), "{stderr}");
    let (mut monitor, _outside) = restore(dir.path(), "detached", &["--net", "detached"]);
    assert_eq!(status(&mut monitor).net, None);
}

#[test]
fn what_cannot_be_attached_is_named() {
    if !have_kvm() {
        return;
    }
    let dir = snapshot(&["--net", "detached"]);
    for (name, net, status, why) in [
        ("address", "fd:0,v4=10.64.0.2,v6=fd6d::2,mac=02:00:00:00:00:01", 3, "Network device has address"),
        ("group", "fd:0,v4=224.0.0.1,v6=fd6d::2", 1, "224.0.0.1 is no address of a guest"),
        ("closed", "fd:99,v4=10.64.0.2,v6=fd6d::2", 1, "Descriptor 99 cannot be used"),
        ("syntax", "fd:0", 2, "a link needs v4=ADDRESS and v6=ADDRESS"),
    ] {
        let (mut monitor, _outside) = restore(dir.path(), name, &["--net", net]);
        let (code, stderr) = monitor.end();
        assert_eq!(code, Some(status), "{name}: {stderr}");
        assert!(stderr.contains(why), "{name}: {stderr}");
    }
    let (mut monitor, _outside) =
        restore(dir.path(), "twice", &["--net", LINK, "--vsock", "fd:0", "--vsock-path", "v"]);
    let (code, stderr) = monitor.end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot be two of"), "{stderr}");
}
