//! Real clients, boto3 and the aws command line, against the API over a platform in memory: `clients/*.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::Server;

/// Runs a program to its end; gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// The Python environment of all tests, which `make venv` makes if it is not there.
fn python(root: &Path) -> PathBuf {
    let make = || {
        let mut command = Command::new("make");
        // The Debian packages are the business of whoever started the tests.
        command.current_dir(root).args(["--silent", "--no-print-directory", "MOTE_SETUP=no"]);
        command
    };
    run(make().arg("venv"));
    let venv = run(make().args(["--eval", "print-venv: ; @echo $(VENV)", "print-venv"]));
    Path::new(venv.trim()).join("bin/python")
}

#[test]
fn boto3_and_the_aws_command_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = python(&root);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let home = tempfile::tempdir().unwrap();
    let text = run(Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "-c", "/dev/null", "."])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"))
        .env("MOTE_URL", format!("http://{}", server.address))
        .env("HOME", home.path())
        .env("PYTHONDONTWRITEBYTECODE", "1"));
    println!("{text}");
    // Signed requests name their caller.
    let callers = server.platform.callers();
    assert!(
        callers.iter().any(|caller| caller.access_key_id.as_deref() == Some("AKIDTENANTA")),
        "{callers:?}"
    );
}
