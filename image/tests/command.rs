//! The `image` command as a person uses it: what it makes, and what it says when it cannot.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A folder that looks like a checkout, without an image.
fn checkout() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("config/kernel")).unwrap();
    std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
    dir
}

/// A checkout with an image whose kernel is `kernel`.
fn with_image(kernel: &[u8]) -> TempDir {
    let dir = checkout();
    let dist = dir.path().join("dist");
    std::fs::create_dir(&dist).unwrap();
    std::fs::write(dist.join("bzImage"), kernel).unwrap();
    std::fs::write(dist.join("initramfs.cpio"), [0; 512]).unwrap();
    std::fs::write(dist.join("system.img"), [0; 1 << 16]).unwrap();
    let manifest = r#"{"version": "1.2.3", "build": "abc", "cmdline": "console=ttyS0", "inputs": "x"}"#;
    std::fs::write(dist.join("manifest.json"), manifest).unwrap();
    dir
}

/// The smallest thing that the boot loader takes for a kernel: it sleeps for ever and knows no power button.
fn sleeping_kernel() -> Vec<u8> {
    let mut kernel = vec![0; 2048];
    kernel[0x1f1] = 1; // sectors of the part that runs first
    kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x200..0x202].copy_from_slice(&[0xeb, 0x66]); // jump over the header
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x0200u16.to_le_bytes());
    kernel[0x268..0x26c].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]); // cli; hlt; again
    kernel
}

fn image(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image"));
    command.arg("--root").arg(root).stdin(Stdio::null());
    command
}

fn error(output: &Output) -> String {
    assert!(!output.status.success(), "it should have failed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn without_an_image_it_says_what_to_run() {
    let root = checkout();
    let said = error(&image(root.path()).arg("run").output().unwrap());
    assert!(said.contains("run `make image` first"), "{said}");
}

#[test]
fn outside_a_checkout_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let said = error(&image(dir.path()).arg("build").output().unwrap());
    assert!(said.contains("No Mote source tree"), "{said}");
}

#[test]
fn bad_arguments_are_named() {
    let root = with_image(b"");
    for (arguments, word) in [
        (vec!["run", "--port", "0"], "--port"),
        (vec!["run", "--port", "99999"], "--port"),
        (vec!["run", "--mem", "12"], "--mem"),
        (vec!["run", "--smp", "0"], "--smp"),
        (vec!["data", "--out", "x", "--size", "2Q"], "2Q"),
        (vec!["data", "--out", "/nowhere/x", "--size", "1M"], "too small"),
        (vec!["data", "--out", "/nowhere/x"], "/nowhere/x"),
        (vec!["qemu-args", "--json"], "--serial"),
    ] {
        let said = error(&image(root.path()).args(&arguments).output().unwrap());
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn a_taken_port_is_said_before_anything_starts() {
    let root = with_image(&sleeping_kernel());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let said = error(&image(root.path()).args(["run", "--port", &port]).output().unwrap());
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
    assert!(!root.path().join("dist/data.img").exists());
}

#[test]
fn programs_get_the_command_as_json_and_a_data_disk_that_stays() {
    let root = with_image(b"");
    let files = tempfile::tempdir().unwrap();
    let data = files.path().join("data.img");
    let ask = |more: &[&str]| {
        let mut command = image(root.path());
        command.args([
            "qemu-args",
            "--json",
            "--port",
            "9191",
            "--data-mib",
            "256",
            "--append",
            "mote.a.b=c",
        ]);
        command.arg("--data").arg(&data).arg("--serial").arg(files.path().join("console"));
        let output = command.arg("--qmp").arg(files.path().join("qmp")).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Vec<String>>(&output.stdout).unwrap()
    };
    let command = ask(&[]);
    assert_eq!(command[0], "qemu-system-x86_64");
    // In between may be what the kernel is told about an emulated processor.
    let kernel = |word: &String| word.starts_with("console=ttyS0 ") && word.ends_with(" mote.a.b=c");
    assert!(command.iter().any(kernel), "{command:?}");
    let size = std::fs::metadata(&data).unwrap().len();
    assert_eq!(size, 256 << 20);
    let table = std::fs::read(&data).unwrap()[512..1024].to_vec();
    ask(&[]);
    assert!(std::fs::read(&data).unwrap()[512..1024] == table, "a disk that was there must not be touched");
    ask(&["--fresh"]);
    assert!(std::fs::read(&data).unwrap()[512..1024] != table, "a fresh disk has a new identity");
}

#[test]
fn a_data_disk_takes_no_room_until_it_is_used() {
    let root = checkout();
    let path = root.path().join("disk.img");
    let status =
        image(root.path()).arg("data").arg("--out").arg(&path).args(["--size", "20G"]).status().unwrap();
    assert!(status.success());
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), 20 << 30);
    assert!(metadata.blocks() * 512 < 1 << 20);
}

#[test]
fn a_machine_that_cannot_start_is_an_error() {
    let root = with_image(b"this is no kernel");
    let port = free_port().to_string();
    let said = error(&image(root.path()).args(["run", "--accel", "tcg", "--port", &port]).output().unwrap());
    assert!(said.contains("QEMU ended with"), "{said}");
}

#[test]
fn ctrl_c_presses_the_power_button_and_a_second_one_ends_the_machine() {
    let root = with_image(&sleeping_kernel());
    let port = free_port().to_string();
    let mut child = image(root.path())
        .args(["run", "--accel", "tcg", "--mem", "128", "--smp", "1", "--port", &port])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        said
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "the machine should run");
    kill(pid, Signal::SIGINT).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "a machine that ignores its button is waited for");
    kill(pid, Signal::SIGINT).unwrap();

    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            panic!("the second Ctrl-C did not end it");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = reader.join().unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("powering off") && said.contains("at once"), "{said}");
    assert!(!said.contains("power button does not work"), "{said}");
}

#[test]
fn what_a_configuration_lost_is_named() {
    let root = checkout();
    let (wanted, result) = (root.path().join("wanted"), root.path().join(".config"));
    std::fs::write(&wanted, "BR2_A=y\nBR2_B=y\n# BR2_B is not set\n").unwrap();
    let check = || image(root.path()).arg("check-config").args([&wanted, &result]).output().unwrap();
    std::fs::write(&result, "BR2_A=y\n").unwrap();
    assert!(check().status.success());
    std::fs::write(&result, "BR2_B=y\n").unwrap();
    let output = check();
    assert_eq!(output.stdout, b"BR2_A wanted y, got n\nBR2_B wanted n, got y\n");
    assert!(error(&output).contains("is not honoured"));
}

#[test]
fn what_is_made_may_be_elsewhere() {
    let root = with_image(b"");
    let elsewhere = root.path().join("elsewhere");
    std::fs::rename(root.path().join("dist"), &elsewhere).unwrap();
    let arguments = ["run", "--print-command", "--no-data"];
    let output = image(root.path()).arg("--dist").arg(&elsewhere).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("elsewhere/bzImage") && said.contains("elsewhere/system.img"), "{said}");
}
