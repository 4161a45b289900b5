use std::collections::BTreeMap;
use std::io::Read;

use serde_json::json;

use super::*;

const PLANTED: [&str; 5] =
    ["tenant-key-3f9a", "cmdline-secret-77", "environment-value-1", "boot-token-2b", "pem-body-of-a-key"];

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn places(root: &Path) -> Places {
    Places {
        root: root.to_owned(),
        boot: root.join("boot.toml"),
        version: root.join("version"),
        run: root.join("run"),
    }
}

fn told(parts: Vec<Part>) -> Told {
    Told { parts, ..Told::default() }
}

async fn read(mut pieces: mpsc::Receiver<io::Result<Bytes>>) -> BTreeMap<String, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.recv().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= PIECE);
        bytes.extend_from_slice(&piece);
    }
    let mut archive = tar::Archive::new(&bytes[..]);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name.strip_prefix("mote-support/").unwrap().to_owned(), text)
    });
    entries.collect()
}

#[tokio::test]
async fn all_parts_are_there_and_no_planted_secret() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let [key, cmdline, environment, token, pem] = PLANTED;
    let config = format!("[api]\nlisten = \"x\"\n[[tenants]]\nname = \"blue\"\nkeys = [\"{key}\"]\n");
    put(
        &root.join("boot.toml"),
        &format!("address = \"192.0.2.1\"\n[options]\n\"api.token\" = \"\"\"\n{token}\"\"\"\n"),
    );
    put(&root.join("proc/cmdline"), &format!("quiet mote.log.password={cmdline} panic=10\n"));
    put(&root.join("proc/version"), "Linux 6.12\n");
    let said = format!(
        "[ 1.0] hostd: key {key} env {environment} token {token}\n-----BEGIN EC PRIVATE KEY-----\n{pem}\n"
    );
    put(&root.join("run/log"), &said);
    put(&root.join("run/log.1"), "older\n");
    let documents = vec![
        ("hostd/health.json", json!({ "serving": true })),
        ("hostd/functions.json", json!([{ "name": "f", "environment": { "DB": environment } }])),
    ];
    let crash = Part::new("crashes/1-hostd-0.txt", format!("died with {environment}"));
    let secrets = vec![toml::from_str(&config).unwrap()];
    let told = Told { documents, parts: vec![Part::new("config/mote.toml", config), crash], secrets };
    let parts = read(start(places(root), told)).await;
    for name in [
        "README",
        "hostd/health.json",
        "hostd/functions.json",
        "config/mote.toml",
        "config/boot.toml",
        "kernel/cmdline",
        "kernel/version",
        "logs/log",
        "logs/log.1",
        "crashes/1-hostd-0.txt",
    ] {
        assert!(parts.contains_key(name), "{name} is not in {:?}", parts.keys());
    }
    for (name, text) in &parts {
        for secret in PLANTED {
            assert!(!text.contains(secret), "{name} holds {secret}: {text}");
        }
    }
    assert!(parts["config/mote.toml"].contains("blue") && parts["config/boot.toml"].contains("192.0.2.1"));
    assert!(parts["kernel/cmdline"].contains("quiet") && parts["kernel/cmdline"].contains("panic=10"));
    assert!(parts["hostd/functions.json"].contains("\"DB\""), "names stay");
}

#[tokio::test]
async fn it_is_bounded_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number: usize| Part::new(format!("crashes/{number}"), "x\n".repeat(1 << 20) + "y");
    let parts = read(start(places(folder.path()), told((0..18).map(part).collect()))).await;
    let size: usize = parts.values().map(String::len).sum();
    assert!(size <= MOST + 4096, "{size}");
    assert_eq!(parts["crashes/0"].len(), sources::MOST_PART);
    assert!(parts["crashes/0"].ends_with('y'), "the end is kept");
    assert!(parts["LEFT-OUT"].contains("crashes/17"));
}

#[tokio::test]
async fn a_reader_who_leaves_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let parts = (0..8).map(|number| Part::new(number.to_string(), "x".repeat(1 << 20))).collect();
    let mut pieces = start(places(folder.path()), told(parts));
    pieces.recv().await.unwrap().unwrap();
    drop(pieces);
    // The runtime waits for blocking work when it is dropped: this test would not end.
}
