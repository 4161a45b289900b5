//! As PID 1 the agent reaps what others leave behind. A test program of its own, since it reaps all children.

mod support;

use mote_agent::process::Reap;
use mote_protocol::FailureKind;
use support::Sandbox;

/// Children of this process that ended and were not reaped.
fn zombies() -> Vec<String> {
    let me = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let rest = stat.rsplit_once(')')?.1.to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        (fields.first() == Some(&"Z") && fields.get(1) == Some(&me.as_str())).then_some(stat)
    });
    stats.collect()
}

#[tokio::test]
async fn every_orphan_is_reaped() {
    // Orphans come to this process, as to PID 1.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let script = "for i in 1 2 3 4 5 6; do (sleep 0.2 & sleep 0.3 &); done; sleep 1; echo done; exit 4";
    let description = format!("exec = [\"/bin/sh\", \"-c\", {script:?}]");
    // The measure works: what nobody reaps is seen.
    let unreaped = std::process::Command::new("/bin/true").spawn().unwrap();
    for _ in 0..500 {
        if !zombies().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(zombies().len(), 1);
    drop(unreaped);
    let mut sandbox = Sandbox::with_runtime(&description, Reap::All).await;
    sandbox.start("app.handler").await;
    let (kind, body, output) = sandbox.failure().await;
    assert_eq!((kind, output.as_str()), (FailureKind::Exit, "done\n"));
    assert_eq!(body["errorMessage"], "Error: Runtime exited with error: exit status 4");
    assert_eq!(zombies(), Vec::<String>::new());
}
