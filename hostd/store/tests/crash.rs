//! A writer killed at random moments: everything it acknowledged is there, nothing is half there.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod writer;

use common::check;
use mote_store::Store;
use rand::SeedableRng;
use rand::rngs::StdRng;
use writer::{Child, Model};

const KILLS: u64 = 60;

/// The writer; only runs as the child of the test below.
#[test]
fn child() {
    writer::child();
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut model = Model::new();
    let (mut acknowledged, mut interrupted) = (0, 0);
    for seed in 0..KILLS {
        let mut child = Child::start(dir.path(), seed);
        child.let_run(&mut random);
        let (acknowledgements, pending) = writer::follow(&child.kill(), &mut model);
        acknowledged += acknowledgements;
        interrupted += u32::from(pending.is_some());
        let (store, recovery) = Store::open(dir.path()).unwrap();
        assert!(!recovery.lost_changes && recovery.rebuild.is_empty() && recovery.broken_code.is_empty());
        writer::compare(&store, &mut model, pending, seed);
        check(dir.path(), &store);
    }
    assert!(acknowledged > 100, "the writer wrote: {acknowledged}");
    assert!(interrupted > 10, "and was interrupted: {interrupted}");
}
