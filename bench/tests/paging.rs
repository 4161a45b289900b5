//! The comparison runs, on guests too small to say anything: what it prints is complete, and every answer was right.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::process::Command;

use mote_micro::have_kvm;
use serde_json::Value;

const MODES: [&str; 4] = ["cached", "faasnap", "lazy", "reap"];
const PATTERNS: [&str; 5] = ["allocation", "different", "sequential", "small", "stable"];
const COUNTS: [&str; 5] = ["setup_ms", "exec_ms", "minor_faults", "major_faults", "read_mib"];
const RATIOS: [&str; 3] = ["faasnap/cached", "lazy/faasnap", "reap/faasnap"];

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn all_modes_serve_all_patterns() {
    if !have_kvm() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["paging", "--scale", "64", "--runs", "1", "--json", "-"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("name another folder with --dir") {
        println!("skipped: {stderr}");
        return;
    }
    assert!(output.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["n"], 1);
    assert_eq!(keys(&report["modes"]), MODES);
    assert_eq!(keys(&report["ratios"]), RATIOS);
    assert_eq!(keys(&report["parts"]), PATTERNS);
    for part in report["parts"].as_object().unwrap().values() {
        assert_eq!(keys(&part["ratios"]), RATIOS);
        for mode in MODES {
            let figures = &part["modes"][mode];
            for count in COUNTS {
                assert!(figures[count].is_number(), "{mode} has no {count}: {part}");
            }
            assert!(figures["median_ms"].as_f64().unwrap() > figures["setup_ms"].as_f64().unwrap());
        }
        assert!(part["modes"]["lazy"]["read_mib"].as_f64().unwrap() > 0.0, "nothing came from the disk");
        assert!(part["modes"]["faasnap"]["loading_set_pages"].is_number());
    }
}
